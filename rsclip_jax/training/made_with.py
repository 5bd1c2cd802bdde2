"""What a run was made with: versions, commit, data sets and devices, in WORKDIR/made_with.json.

The file lists the starts of the run from which on something of this was another.
"""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path

import jax
from ml_collections import ConfigDict

import rsclip_jax
from rsclip_jax import atomic
from rsclip_jax.data.records import dataset_fingerprint
from rsclip_jax.training.fit import FIT_FILE
from rsclip_jax.training.progress import log
from rsclip_jax.training.workdir import CONFIG_FILE, changed_fields, load_config, write_json

MADE_WITH_FILE = "made_with.json"
PACKAGES = (
    *("rsclip_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("pillow", "opencv-python-headless"),
)


def made_with(config: ConfigDict) -> dict[str, str]:
    """Return name -> value of all that may make the numbers of a run others, its config aside."""
    evals = [fields.data for fields in config.evals.values() if "data" in fields]
    data_sets = sorted({*config.input.data, *evals, *config.export})
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": commit(Path(rsclip_jax.__file__).parent),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": f"{jax.process_count()}",
        **{f"data set {k}": dataset_fingerprint(config.input.data_dir, k) for k in data_sets},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit(package: Path) -> str:
    """Return the commit that a package is of, with a hash of what is changed; "" if git knows none.

    Args:
      package: its folder.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, check=True, timeout=60
        ).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it is installed within another's
        head = git("rev-parse", "HEAD").decode().strip()
        changes = git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head} with changes {hashlib.sha256(changes).hexdigest()[:8]}" if changes else head


def note_start(
    workdir: Path, config: ConfigDict, step: int, total_steps: int, reproduced: Path | None
) -> None:
    """Remember what a run is made with from `step` on, and say what has changed.

    Args:
      config: the resolved one.
      step, total_steps: where the run stands and ends; where no step is left, nothing has changed.
      reproduced: workdir of the run that this one is to be once more: what differs from it is said,
        and its choice in fit.json is taken.
    """
    if jax.process_index() != 0:
        return
    now = made_with(config)
    if reproduced:
        log(compared(reproduced, config, now))
        if (reproduced / FIT_FILE).exists() and not (workdir / FIT_FILE).exists():
            shutil.copy(reproduced / FIT_FILE, workdir / FIT_FILE)
    starts = read_starts(workdir)
    changed = differences(starts[-1], now) if starts and step < total_steps else []
    if changed:
        log("\n".join([f"from step {step} on the run is made with:", *changed]))
    if changed or not starts:
        write_json(workdir / MADE_WITH_FILE, {"starts": [*starts, {"step": f"{step}", **now}]})


def compared(other: Path, config: ConfigDict, now: dict[str, str]) -> str:
    """Say what differs between a run and what reproduces it."""
    fields = changed_fields(load_config(other / CONFIG_FILE), config)
    starts = read_starts(other)
    lines = [f"reproducing {other}", *fields.values()]
    for start in starts:
        if changed := differences(start, now):
            lines += [f" what it was made with from step {start['step']} on:", *changed]
    if not starts:
        lines.append(f"  it has no {MADE_WITH_FILE}: versions, commit and data cannot be compared")
    elif len(lines) == 1:
        lines[0] += ": its config, versions, commit, data sets and devices"
    return "\n".join(lines)


def differences(there: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return "  name: value there, value now" for all that differ."""
    return [
        f"  {name}: {there.get(name, 'not recorded') or 'unknown'} there, {value or 'unknown'} now"
        for name, value in now.items()
        if there.get(name) != value
    ]


def read_starts(workdir: Path) -> list[dict[str, str]]:
    """Return the starts of a run, the first one first; a damaged file is set aside."""
    path = workdir / MADE_WITH_FILE
    if not path.exists():
        return []
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [{"step": "?", **start} for start in starts]
    except (ValueError, KeyError, TypeError) as error:
        atomic.set_aside(path, error)
        return []
