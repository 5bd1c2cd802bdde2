"""Remote-sensing CLIP models in JAX: training, evaluation, export."""

from typing import Any


def __getattr__(name: str) -> Any:
    # On demand: the commands parse their flags before JAX is imported.
    if name == "load":
        from rsclip_jax.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
