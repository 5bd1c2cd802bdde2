"""Analytic FLOPs of the model, and the peak rate of the device, for MFU."""

import functools
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rsclip_jax.models.blocks import Tower
from rsclip_jax.models.clip import CLIP
from rsclip_jax.models.translator import Translator, init_params

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


def tower_flops(tower: Tower, length: int) -> float:
    """Count the forward FLOPs of a transformer over `length` tokens (a multiply-add is two).

    The last layer computes keys and values of all tokens, and the rest of the one that is read.
    """
    width = tower.width
    layer = 24 * length * width**2 + 4 * length**2 * width
    last = (4 * length + 20) * width**2 + 4 * length * width
    return (tower.depth - 1) * layer + last


def packed_flops(tower: Tower, texts: int, rows: float, length: int) -> float:
    """Count the forward FLOPs of texts that share rows of so many tokens, the free ones included.

    The last layer computes queries, keys, values and attention of all tokens, and the rest of the
    one of each text that is read.
    """
    width = tower.width
    layer = 24 * length * width**2 + 4 * length**2 * width
    last = 6 * length * width**2 + 4 * length**2 * width
    return rows * ((tower.depth - 1) * layer + last) + texts * 18 * width**2


def forward_flops(
    model: CLIP, lengths: Mapping[str, int], fields: Collection[str], rows: float = 0
) -> float:
    """Count the forward FLOPs of one sample: of those of its images and texts in `fields`.

    With `rows` its texts take so many rows, as long as the longest of them may be, or a share of
    one.
    """
    patches = (model.image_size // model.patch_size) ** 2
    image = tower_flops(model.image, patches + 1)
    image += 2 * patches * 3 * model.patch_size**2 * model.image.width
    counts = [n for field, n in lengths.items() if field in fields]
    if rows:
        texts = packed_flops(model.text, len(counts), rows, max(counts))
    else:
        texts = sum(tower_flops(model.text, n) for n in counts)
    return len({"image", "ir"} & set(fields)) * image + texts


def translator_flops(model: Translator) -> float:
    """Count the forward FLOPs of a translator's parts for one image, as the compiler does.

    It has no loop over layers, of which the compiler would count one.
    """
    size = model.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    lowered = jax.jit(lambda p, x: model.apply({"params": p}, x)).lower(params, image)
    cost: Any = lowered.cost_analysis() or {}  # not every backend tells
    return float(cost.get("flops", 0.0))


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
