"""The tensor layout of OpenAI CLIP, open_clip and Long-CLIP / LRSCLIP state dicts."""

import re
from collections.abc import Mapping

import jax
import numpy as np

KEPT_ROWS = 20  # Long-CLIP's mask: rows of `positional_embedding` that it never trains

# Ours -> theirs. Dense kernels are transposed; a transformer's layers are stacked.
TOP = {
    "img/embedding/kernel": "visual.conv1.weight",
    "img/cls": "visual.class_embedding",
    "img/pos_embedding": "visual.positional_embedding",
    "img/ln_pre/scale": "visual.ln_pre.weight",
    "img/ln_pre/bias": "visual.ln_pre.bias",
    "img/ln_post/scale": "visual.ln_post.weight",
    "img/ln_post/bias": "visual.ln_post.bias",
    "img/proj": "visual.proj",
    "txt/token_embedding": "token_embedding.weight",
    "txt/pos_embedding": "positional_embedding",
    "txt/ln_final/scale": "ln_final.weight",
    "txt/ln_final/bias": "ln_final.bias",
    "txt/proj": "text_projection",
    "t": "logit_scale",
}
BLOCK = {
    "ln_1/scale": "ln_1.weight",
    "ln_1/bias": "ln_1.bias",
    "attn/qkv/kernel": "attn.in_proj_weight",
    "attn/qkv/bias": "attn.in_proj_bias",
    "attn/out/kernel": "attn.out_proj.weight",
    "attn/out/bias": "attn.out_proj.bias",
    "ln_2/scale": "ln_2.weight",
    "ln_2/bias": "ln_2.bias",
    "mlp/fc1/kernel": "mlp.c_fc.weight",
    "mlp/fc1/bias": "mlp.c_fc.bias",
    "mlp/fc2/kernel": "mlp.c_proj.weight",
    "mlp/fc2/bias": "mlp.c_proj.bias",
}
STEMS = {"img": "visual.transformer.resblocks.", "txt": "transformer.resblocks."}
# Long-CLIP's second position table is read with the first; the rest are constants, not weights.
READ_ASIDE = {"positional_embedding_res"}
CONSTANTS = {"attn_mask", "mask1", "mask2", "input_resolution", "context_length", "vocab_size"}


def from_state_dict(state: Mapping[str, np.ndarray]) -> dict:
    """Convert a PyTorch-layout CLIP (ViT) state dict to our parameters, float32.

    Args:
      state: names as in OpenAI CLIP and open_clip (`visual.conv1.weight`, ...). Long-CLIP's pair
        of position tables is merged into the one table it stands for.

    Raises:
      ValueError: names every missing and unexpected tensor.
    """
    expected = set(TOP.values())
    layers = {}
    for root, stem in STEMS.items():
        numbers = {int(m[1]) for k in state if (m := re.match(re.escape(stem) + r"(\d+)\.", k))}
        layers[root] = [f"{stem}{i}." for i in range(max(numbers, default=0) + 1)]
        expected |= {layer + name for layer in layers[root] for name in BLOCK.values()}
    missing = sorted(expected - set(state))
    unexpected = sorted(set(state) - expected - READ_ASIDE - CONSTANTS)
    if missing or unexpected:
        raise ValueError(
            "not a CLIP ViT state dict in open_clip's layout\n"
            f"  missing: {missing or 'none'}\n  unexpected: {unexpected or 'none'}"
        )

    params: dict = {}
    for ours, theirs in TOP.items():
        _put(params, ours, np.asarray(state[theirs], np.float32))
    kernel = params["img"]["embedding"]["kernel"]  # [width, channels, p, p]
    params["img"]["embedding"]["kernel"] = kernel.transpose(2, 3, 1, 0)
    if "positional_embedding_res" in state:
        kept, trained = state["positional_embedding"], state["positional_embedding_res"]
        params["txt"]["pos_embedding"] = np.concatenate([kept[:KEPT_ROWS], trained[KEPT_ROWS:]])
    for root in STEMS:
        blocks = [_block(state, layer) for layer in layers[root]]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
        params[root]["transformer"] = {"blocks": stacked}
    return params


def _block(state: Mapping[str, np.ndarray], layer: str) -> dict:
    block: dict = {}
    for ours, theirs in BLOCK.items():
        value = np.asarray(state[layer + theirs], np.float32)
        value = value.T if ours.endswith("kernel") else value
        if "/qkv/" not in ours:
            _put(block, ours, value)
            continue
        for name, part in zip(("query", "key", "value"), np.split(value, 3, axis=-1), strict=True):
            _put(block, ours.replace("qkv", name), part)
    return block


def _put(tree: dict, path: str, value: np.ndarray) -> None:
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value
