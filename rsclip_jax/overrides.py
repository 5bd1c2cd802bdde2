"""Checking `--config.FIELD=VALUE` arguments before ml_collections applies them."""

import copy
import difflib
import re
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

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
        if not match or match[1] in known:
            continue
        name = match[1]

        def likeness(candidate: str, name: str = name) -> tuple[float, float]:
            ends = candidate.rpartition(".")[2], name.rpartition(".")[2]
            prefix = ends[0].startswith(ends[1]) or ends[1].startswith(ends[0])
            whole, end = (
                difflib.SequenceMatcher(None, *pair).ratio() for pair in ((candidate, name), ends)
            )
            return 0.5 * prefix + max(whole, end), whole

        near = sorted(known, key=likeness, reverse=True)[:3]
        meant = SYNONYMS.get(name) or SYNONYMS.get(name.rpartition(".")[2])
        if meant in known:
            near = [meant, *(n for n in near if n != meant)][:3]
        raise ValueError(
            f"--config.{name}: the config has no such field; the nearest are "
            + ", ".join(f"--config.{n}" for n in near)
        )


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
        config = super().parse(path)
        if isinstance(config, ConfigDict):  # else it could not be read, which is told when it is
            with config.unlocked():
                _add_evaluators(config, self._argv)
        return config


def _add_evaluators(config: ConfigDict, arguments: Sequence[str]) -> None:
    if "evals" in config and any(".evals." in argument for argument in arguments):
        from rsclip_jax.evaluators.arguments import add_evaluators  # JAX takes seconds to import

        add_evaluators(config, arguments)


def _names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{key}.")
