"""The reference models' weights, inputs and outputs in tests/data/golden."""

from pathlib import Path

import numpy as np

from rsclip_jax.models.blocks import Tower
from rsclip_jax.models.clip import CLIP
from rsclip_jax.weights.openclip import from_state_dict

GOLDEN = Path(__file__).parent / "data" / "golden"
FILES = {
    "openclip_tiny_quickgelu": "quick_gelu",
    "openclip_tiny_gelu": "gelu",
    "longclip_tiny": "quick_gelu",
}


def load(name: str, **tower) -> tuple[CLIP, dict, dict[str, np.ndarray]]:
    """Return (model, params, arrays) of one golden file; `tower` overrides execution fields."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    params = from_state_dict({k[6:]: v for k, v in arrays.items() if k.startswith("param/")})
    tower = {"width": 64, "heads": 1, "activation": FILES[name], **tower}
    depth = {
        root: len(params[root]["transformer"]["blocks"]["ln_1"]["scale"]) for root in ("img", "txt")
    }
    model = CLIP(
        image=Tower(depth=depth["img"], **tower),
        text=Tower(depth=depth["txt"], **tower),
        patch_size=8,
        image_size=32,
        context_length=len(params["txt"]["pos_embedding"]),
        vocab_size=97,
        eot_id=96,
        embed_dim=24,
    )
    arrays["image"] = arrays["image"].transpose(0, 2, 3, 1)
    return model, params, arrays
