"""The kinds of models there are, by `config.task`: each has `build`, `init_params`, `described`."""

from types import ModuleType

from ml_collections import ConfigDict

from rsclip_jax.models import clip, translator

KINDS: dict[str, ModuleType] = {"clip": clip, "translation": translator}


def kind_of(config: ConfigDict) -> ModuleType:
    """Return the module of the models that a config is about.

    Raises:
      ValueError: unknown task.
    """
    task = config.get("task", "clip")  # configs of earlier releases do not have it
    if task not in KINDS:
        raise ValueError(f"config.task={task!r}: expected one of {', '.join(KINDS)}")
    return KINDS[task]
