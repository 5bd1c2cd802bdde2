"""What `--config` and `--config.FIELD=VALUE` arguments say, and what is wrong with them."""

import copy
import difflib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from rsclip_jax.errors import told

# What other trainers call a field.
SYNONYMS = {
    "learning_rate": "lr",
    "weight_decay": "wd",
    "max_steps": "total_steps",
    "num_steps": "total_steps",
    "train_steps": "total_steps",
    "steps": "total_steps",
    "epochs": "total_epochs",
    "num_epochs": "total_epochs",
    "max_epochs": "total_epochs",
    "pretrained": "init_from",
    "resume_from": "init_from",
    "checkpoint_path": "init_from",
    "model.name": "model.variant",
    "arch": "model.variant",
    "batch_size": "input.batch_size",
    "warmup": "warmup_steps",
    "data_dir": "input.data_dir",
    "precision": "model.dtype",
    "grad_accum": "grad_cache_steps",
    "accum_freq": "grad_cache_steps",
}


def check_fields(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Refuse overrides of fields that the config does not have.

    Evaluators have all their fields, and arguments may add some (`evaluators.arguments`).

    Raises:
      ValueError: names the field and the nearest right ones.
    """
    config = copy.deepcopy(config).unlock()
    _add_evaluators(config, arguments)
    known = list(_names(config))
    for argument in arguments:
        match = re.match(r"--?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            raise ValueError(
                f"--config.{match[1]}: the config has no such field; the nearest are "
                + ", ".join(f"--config.{n}" for n in nearest(config, match[1]))
            )


def nearest(config: ConfigDict, name: str) -> list[str]:
    """Return the three fields that are most like `name`, one that means the same first."""

    def likeness(candidate: str) -> tuple[float, float]:
        ends = candidate.rpartition(".")[2], name.rpartition(".")[2]
        prefix = ends[0].startswith(ends[1]) or ends[1].startswith(ends[0])
        whole, end = (
            difflib.SequenceMatcher(None, *pair).ratio() for pair in ((candidate, name), ends)
        )
        return 0.5 * prefix + max(whole, end), whole

    known = list(_names(config))
    near = sorted(known, key=likeness, reverse=True)[:3]
    meant = SYNONYMS.get(name) or SYNONYMS.get(name.rpartition(".")[2])
    return [meant, *(n for n in near if n != meant)][:3] if meant in known else near


def check_file(given: str) -> None:
    """Refuse a value of --config whose file is not there, or gives no config.

    A file in a folder "configs" can import what lies beside it from any directory.

    Raises:
      ValueError: names the config files that there are, or the line of the file that went wrong.
    """
    path = Path(given if given.endswith(".json") else given.partition(":")[0])
    if path.is_file():
        folder = next((p for p in path.absolute().parents if p.name == "configs"), None)
        if folder and str(folder.parent) not in sys.path:
            sys.path.insert(0, str(folder.parent))
        _check_config(given, path)
        return
    folders = (path.parent, Path("configs"))
    found = next((f for f in (sorted(d.glob("*.py")) for d in folders) if f), [])
    there = [str(file) for file in found if "get_config(arg" in file.read_text(encoding="utf-8")]
    raise ValueError(
        f"--config={given}: no such file in {Path.cwd()}; "
        + (f"there are {', '.join(there)}" if there else "configs/ lies in the repository's root")
    )


def _check_config(given: str, path: Path) -> None:
    try:
        config = _parse(given)
    except Exception as error:  # whatever the code of a user's file raises
        cause = error
        if "whilst parsing config file" in str(error) and isinstance(error.__context__, Exception):
            cause = error.__context__  # ml_collections has copied it, without its place
        if told(cause):
            _advise(cause)
            raise cause from None
        frames = [f for f in traceback.extract_tb(cause.__traceback__) if f.filename == str(path)]
        line = cause.lineno if isinstance(cause, SyntaxError) else frames[-1:] and frames[-1].lineno
        where = f", line {line}" if line else ""
        raise ValueError(f"--config={given}{where}: {type(cause).__name__}: {cause}") from error
    if not hasattr(config, "to_dict"):  # of a file that could not be read, this raises why
        raise ValueError(
            f"--config={given}: get_config returns a {type(config).__name__}, expected an "
            "ml_collections.ConfigDict: begin with that of configs/defaults.py"
        )


def _parse(given: str) -> ConfigDict:
    """Read a config file, or the config.json that a run has stored."""
    if not given.endswith(".json"):
        return ConfigFileFlagParser("config").parse(given)
    from rsclip_jax.training.workdir import load_config  # JAX takes seconds to import

    return load_config(Path(given))


def _advise(error: Exception) -> None:
    if isinstance(error, ModuleNotFoundError) and error.name == "configs":
        error.add_note(
            "(it lies in the root of the repository of rsclip_jax: call this command there, or "
            "give its path as PYTHONPATH)"
        )


def explain_value(config: ConfigDict, field: str, value: str) -> str:
    """Say what a field expects that was given a value of another type."""
    usual: Any = config
    for key in field.split("."):
        usual = usual[key]
    kinds = {bool: "True or False", int: "a whole number", float: "a number"}
    kinds |= {tuple: "a tuple"}
    kind, shown = kinds.get(type(usual), type(usual).__name__), usual
    if isinstance(usual, ConfigDict):
        shown, inner = usual.to_dict(), "type" if "type" in usual else "NAME"
        kind = f"a dictionary, or one of its fields as --config.{field}.{inner}=..."
    return f"--config.{field}={value}: expected {kind}; here it is {shown!r} unless you change it"


def given(values: flags.FlagValues) -> dict[str, Any]:
    """Return the fields that the command line sets, by name.

    A size after the colon (`configs/georsclip.py:L/14`) sets config.model.variant.
    """
    from rsclip_jax.models.clip import VARIANTS  # JAX takes seconds to import

    flag = values["config"]
    words = config_flags.get_config_filename(flag).partition(":")[2].split(",")
    sizes = [word for word in words if word in VARIANTS]
    found = {"model.variant": sizes[0]} if sizes else {}
    return {**found, **config_flags.get_override_values(flag)}


def count_by(config: ConfigDict, given: dict[str, Any]) -> str:
    """Let the command line choose between config.total_steps and total_epochs.

    Where it gives one of them, the config's own other one is set to 0.

    Returns:
      what to print of it; "" for nothing.
    """
    for name, other in (("total_steps", "total_epochs"), ("total_epochs", "total_steps")):
        if given.get(name) and not given.get(other) and config.get(other):
            was, config[other] = config[other], type(config[other])(0)
            return (
                f"config.{other}={was:g} of the config file is switched off: --config.{name}="
                f"{config[name]:g} decides how long the run is"
            )
    return ""


class ConfigFileParser(ConfigFileFlagParser):
    """Reads the config file of `--config`, with the evaluators that the other arguments add.

    Args:
      argv: the whole command line.
    """

    def __init__(self, argv: Sequence[str]):
        super().__init__("config")
        self._argv = argv

    def parse(self, path: str) -> ConfigDict:
        """Return the config; its fields can be overridden, but none added."""
        config = _parse(path)
        with config.unlocked():
            _add_evaluators(config, self._argv)
        return config


def _add_evaluators(config: ConfigDict, arguments: Sequence[str]) -> None:
    if isinstance(config.get("evals"), ConfigDict) and any(
        ".evals." in argument for argument in arguments
    ):
        from rsclip_jax.evaluators.arguments import add_evaluators  # JAX takes seconds to import

        add_evaluators(config, arguments)


def _names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{key}.")
