"""The directory of a run: its config, and that only one run uses it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rsclip_jax import atomic, distributed, host

CONFIG_FILE = "config.json"
FINISHED_FILE = "finished.json"
# What the arrays of a checkpoint, and their meaning, depend on.
ARCHITECTURE = ("model", "tokenizer", "schedule")
EXECUTION = {f"model.{field}" for field in ("dtype", "attention", "scan", "remat")}


def check_place(workdir: Path) -> None:
    """Refuse a workdir that cannot be made or written, before any work.

    Raises:
      ValueError: names the file or directory in the way.
    """
    host.output_directory(workdir, "--workdir")
    if (checkpoints := workdir / "checkpoints").exists() and not checkpoints.is_dir():
        raise ValueError(f"--workdir={workdir}: {checkpoints} is no directory; remove it")


def has_steps(workdir: Path) -> bool:
    """Tell whether a run has saved a step here."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Make the workdir and keep a second run out of it; a process that dies lets go of it.

    Raises:
      ValueError: another run is in it.
    """
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w", encoding="utf-8") as file:
        try:
            host.lock(file, workdir)
        except BlockingIOError as error:
            raise ValueError(f"another process is training in {workdir}") from error
        yield


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Where there are checkpoints, refuse another architecture.

    Raises:
      ValueError: names every architecture field that differs from the run's own.
      FileNotFoundError: a config.init_from that is not the run's own, and not there.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        old = load_config(path)
        changed = changed_fields(old, config)
        # A field that the run did not know, one of a later release, had no part in it.
        known = flat(old).keys() - EXECUTION
        refused = [k for k in changed if k.split(".")[0] in ARCHITECTURE and k in known]
        if bool(old.get("ema_decay")) != bool(config.ema_decay):
            refused.append("ema_decay")
        if refused and any((workdir / "checkpoints").glob("*")):
            raise ValueError(
                f"{workdir} holds a run of another architecture ("
                + "; ".join(changed[field].strip() for field in refused)
                + "): use another --workdir, or set these fields as they were"
            )
        init_from = config.init_from if "init_from" in changed else ""
        if init_from and not Path(init_from).expanduser().exists():
            raise FileNotFoundError(f"config.init_from={init_from}: no such file or directory")
    distributed.gather("compared")  # before the first process writes the file


def remember(workdir: Path, config: ConfigDict, steps_left: bool) -> None:
    """Store the config, and say what has changed since the last start.

    Args:
      steps_left: whether the run will take a step; else it keeps its own config, but for
        config.export.
    """
    if jax.process_index() != 0:
        return
    path = workdir / CONFIG_FILE
    if path.exists():
        old = load_config(path)
        changed = changed_fields(old, config)
        how = "resuming with changed fields"
        if not steps_left:
            how = "no step is left that these changed fields could change"
            changed = {k: line for k, line in changed.items() if k.split(".")[0] != "export"}
            with old.unlocked():
                old.export = config.export
            config = old
        elif "init_from" in changed and has_steps(workdir):
            changed["init_from"] += " (read for frozen parameters only: the run has its own)"
        if changed:  # printed: logs reach some terminals twice
            print("\n".join([f"{workdir}: {how}", *changed.values()]), flush=True)
    save_config(path, config)


def set_damaged_aside(workdir: Path) -> None:
    """Set a damaged config.json aside: whole checkpoints go on with the fields that are given now.

    They check the shapes of their arrays themselves.
    """
    path = workdir / CONFIG_FILE
    if jax.process_index() == 0 and path.exists():
        try:
            load_config(path)
        except ValueError as error:
            atomic.set_aside(path, f"{error}; the run goes on with the fields given now")
    distributed.gather("readable")  # the others wait


def mark_finished(workdir: Path, step: int, trained_parameters: int) -> None:
    """Write WORKDIR/finished.json, by which launchers tell an ended run from a stopped one."""
    if jax.process_index() == 0:
        content = {"step": step, "trained_parameters": trained_parameters}
        write_json(workdir / FINISHED_FILE, content)


def is_workdir(path: Path) -> bool:
    """Tell a run's directory from one of Hugging Face, whose config.json names a model type."""
    file = path / CONFIG_FILE
    if not file.exists():
        return (path / "checkpoints").is_dir()
    return "model" in _read_json(file)


def changed_fields(old: ConfigDict, new: ConfigDict) -> dict[str, str]:
    """Return field -> "  field: value there, value now" for all that differ."""
    there, now = flat(old), flat(new)
    return {
        k: f"  {k}: {there.get(k, 'absent')} there, {now.get(k, 'absent')} now"
        for k in sorted(there.keys() | now.keys())
        if there.get(k) != now.get(k)
    }


def save_config(path: Path, config: ConfigDict) -> None:
    """Write a config as JSON, atomically, its fields in the order in which they were set."""
    write_json(path, json.loads(config.to_json()))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of a workdir, atomically."""
    atomic.write(path, json.dumps(content, indent=2) + "\n")


def load_config(path: Path) -> ConfigDict:
    """Read a config that `save_config` wrote; JSON's lists become tuples again."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    return ConfigDict(tuples(_read_json(path)))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, and tells what model the checkpoints are of: put it back, or let "
            "a run of rsclip_jax.main with the same --workdir write it anew"
        )
    host.regular_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where an object belongs")
        return content
    except (ValueError, RecursionError) as error:
        run = (path.parent / "checkpoints").is_dir()
        mend = "a run of rsclip_jax.main with the same --workdir writes it anew"
        raise ValueError(
            f"{path} is damaged, no JSON: {error}; {mend if run else 'fetch it again'}"
        ) from error


def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return name -> value of all fields, the names of their sections before them, with dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, ConfigDict)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
