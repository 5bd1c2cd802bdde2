"""Analytic FLOPs of the model, and the peak rate of the device, for MFU."""

import functools
import time
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from rsclip_jax.models.blocks import Tower
from rsclip_jax.models.clip import CLIP

# Dense bfloat16 FLOP/s of one device, by prefix of `device_kind` (vendors' data sheets).
PEAK = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}

BEHIND = ("ln_post", "ln_final", "proj")  # what a tower has behind its layers

Products = dict[str, float]  # forward FLOPs by the part of a tower that multiplies


def tower_products(
    tower: Tower, tokens: float, length: int, asking: float, read: float
) -> Products:
    """Count the forward FLOPs of a transformer's products (a multiply-add is two).

    The last layer computes keys and values of all tokens, queries and attention of those that ask,
    and the rest of those that are read.

    Args:
      tokens: of all rows, each of `length`.
      asking, read: of these, in the last layer.

    Returns:
      FLOPs by the layer whose kernel multiplies, as in `params`; "attention" has none.
    """
    width, before = tower.width, (tower.depth - 1) * tokens
    square = 2 * width**2
    return {
        "attn/query": square * (before + asking),
        "attn/key": square * (before + tokens),
        "attn/value": square * (before + tokens),
        "attention": 4 * length * width * (before + asking),
        "attn/out": square * (before + read),
        "mlp/fc1": 4 * square * (before + read),
        "mlp/fc2": 4 * square * (before + read),
    }


def products(
    model: CLIP, lengths: Mapping[str, int], fields: Collection[str], rows: float = 0
) -> list[tuple[str, Products]]:
    """Return the products of each run through a tower for one sample, beside the tower's name.

    Args:
      lengths: tokens of each text.
      fields: images and texts that the sample has.
      rows: that its texts take, as long as the longest of them may be, or a share of one; 0: each
        text has its own.
    """
    patches = (model.image_size // model.patch_size) ** 2
    image = tower_products(model.image, patches + 1, patches + 1, 1, 1)
    image["embedding"] = 2 * patches * 3 * model.patch_size**2 * model.image.width
    infrared = "img" if model.ir_tower == "shared" else "ir"
    runs = [(t, image) for t, f in (("img", "image"), (infrared, "ir")) if f in fields]
    texts = [n for field, n in lengths.items() if field in fields]
    if rows:
        tokens, longest = rows * max(texts), max(texts)
        return [*runs, ("txt", tower_products(model.text, tokens, longest, tokens, len(texts)))]
    return [*runs, *(("txt", tower_products(model.text, n, n, 1, 1)) for n in texts)]


def forward_flops(
    model: CLIP, lengths: Mapping[str, int], fields: Collection[str], rows: float = 0
) -> float:
    """Count the FLOPs of a forward pass for one sample; arguments as for `products`."""
    return sum(sum(run.values()) for _, run in products(model, lengths, fields, rows))


def step_flops(
    model: CLIP,
    lengths: Mapping[str, int],
    fields: Collection[str],
    trained: Collection[str],
    rows: float = 0,
) -> float:
    """Count the FLOPs of a forward and a backward pass for one sample.

    The backward pass has a product for the gradient of what comes into a layer, where something at
    or below the layers is trained, and one for its kernel's, where that is trained. Not counted
    are what is computed anew, what `model.peft` adds, and the loss.

    Args:
      trained: names of the parameters that are trained (`optim.trained_names`).
      others: as for `products`.
    """
    total = 0.0
    for tower, run in products(model, lengths, fields, rows):
        merged = tower == "ir" and model.ir_tower == "lora"  # RGB's tower, its kernels updated
        towers = ("img", "ir") if merged else (tower,)
        moving = {name for name in trained if name.split("/")[0] in towers}
        # What stands behind the layers asks for no gradient of theirs.
        through = any(name.split("/")[1] not in BEHIND for name in moving)
        for layer, flops in run.items():
            if layer == "attention":  # a product of two that are computed
                total += flops * (3 if through else 1)
                continue
            place = "embedding" if layer == "embedding" else f"transformer/blocks/{layer}"
            own = any(f"{t}/{place}/kernel" in moving for t in towers)
            own |= merged and model.ir_lora.adapts(layer)
            total += flops * (1 + own + (through and layer != "embedding"))
    return total


@functools.cache
def device_peak() -> tuple[float, str]:
    """Return one device's peak FLOP/s and where the figure comes from.

    A device without a data sheet here (a CPU, say) is measured: the best of a few float32 matrix
    products. Simulated devices share that one processor.
    """
    device = jax.devices()[0]
    for prefix, peak in PEAK.items():
        if device.device_kind.startswith(prefix):
            return peak, f"{device.device_kind} data sheet, bfloat16"
    x = jax.device_put(jnp.ones((2048, 2048)), device)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds) / jax.local_device_count(), "measured float32 matmul"
