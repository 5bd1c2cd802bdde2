"""A CLIP model of a hundred thousand weights that reads strings."""

import numpy as np
import safetensors.numpy
from golden_models import state

VOCABULARY = 49408


def write_tiny_clip(path, seed: int = 0) -> str:
    """Write weights that `rsclip_jax.load` reads: the golden ones, with CLIP's vocabulary.

    Another seed makes another model: the embeddings are of other directions.
    """
    weights = state("openclip_tiny_quickgelu")
    rng = np.random.default_rng(seed)
    width = weights["token_embedding.weight"].shape[1]
    weights["token_embedding.weight"] = rng.normal(0, 0.5, (VOCABULARY, width)).astype(np.float32)
    proj = weights["visual.proj"]
    weights["visual.proj"] = rng.normal(0, proj.std(), proj.shape).astype(np.float32)
    safetensors.numpy.save_file(weights, path)
    return str(path)
