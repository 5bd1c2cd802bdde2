"""The reference models' weights, inputs and outputs in tests/data/golden."""

from pathlib import Path

import numpy as np

from rsclip_jax.models import clip
from rsclip_jax.weights import from_state_dict

GOLDEN = Path(__file__).parent / "data" / "golden"
FILES = {
    "openclip_tiny_quickgelu": "quick_gelu",
    "openclip_tiny_gelu": "gelu",
    "longclip_tiny": "quick_gelu",
}


def state(name: str) -> dict[str, np.ndarray]:
    """Return the state dict of one golden file."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {k[6:]: arrays[k] for k in arrays.files if k.startswith("param/")}


def load(name: str, **execution) -> tuple[clip.CLIP, dict, dict[str, np.ndarray]]:
    """Return (model, params, arrays) of one golden file; `execution` overrides config.model."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    config, params = from_state_dict(state(name), FILES[name])
    model = clip.build({**config.model.to_dict(), **execution})
    arrays["image"] = arrays["image"].transpose(0, 2, 3, 1)
    return model, params, arrays
