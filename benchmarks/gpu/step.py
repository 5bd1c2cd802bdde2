"""Throughput and share of the peak of the training step, beside the card's own matrix product."""

import re
import statistics
import time
from typing import Any

import jax

from benchmarks.bare_step import BareStep, product_rate
from benchmarks.gpu.rows import Row, Stage
from rsclip_jax.training.flops import device_peak

# The model and its texts -> settings of a `BareStep`, and the batch, halved until it fits.
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "B/16+248+77": ({"variant": "B/16", "context_length": 248, "long": True}, 512),
    "B/16+77": ({"variant": "B/16"}, 1024),
    "L/14+77": ({"variant": "L/14"}, 256),
    "L/14+248": ({"variant": "L/14", "context_length": 248, "text_length": 248}, 256),
    "B/16+248": ({"variant": "B/16", "context_length": 248, "text_length": 248}, 512),
    "B/32+77": ({"variant": "B/32"}, 2048),
}
USUAL = {"model.remat": "dots", "model.scan": True}
TOY_SIZES = (16, 64, 2, 2, 64, 2, 2, 32, 32)  # `Sizes` of models/clip.py
OUT_OF_MEMORY = re.compile("MemoryError|RESOURCE_EXHAUSTED|[Oo]ut of memory")
SMALLEST = 32  # batch that is tried


def run(stage: Stage) -> None:
    """Measure the step of every shape under one setting."""
    for what in list(SHAPES)[: 1 if stage.toy else None]:
        settings = settings_of(what, stage.toy)
        stage.measure(what, said(USUAL), lambda s=settings: measure(s, stage.toy))


def settings_of(what: str, toy: bool, fields: dict[str, Any] = USUAL) -> dict[str, Any]:
    """Return the settings of a `BareStep` for a shape, with these fields of the config."""
    shape, batch_size = SHAPES[what]
    settings = {"context_length": 77, "text_length": 77, "long": False, "dtype": "bfloat16"}
    settings |= {"batch_size": batch_size, **shape}
    if toy:
        settings |= {"variant": "custom", "batch_size": 8, "dtype": "float32"}
        settings |= {"context_length": 32, "text_length": 16, "long": False}
        fields = {**fields, "model.sizes": TOY_SIZES}
    return {**settings, "set": [f"{name}={value}" for name, value in fields.items()]}


def said(fields: dict[str, Any]) -> str:
    """Write fields of the config as words."""
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def measure(settings: dict[str, Any], toy: bool) -> Row:
    """Return the row of a step, of the greatest batch that fits.

    Raises:
      MemoryError: none does.
    """
    batch_size = settings["batch_size"]
    while True:
        try:
            return _measure({**settings, "batch_size": batch_size}, toy)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not OUT_OF_MEMORY.search(repr(error)):
                raise
            if batch_size // 2 < (8 if toy else SMALLEST):
                raise MemoryError(f"not even a batch of {batch_size} fits: {error}") from error
        jax.clear_caches()  # and with the programs what they hold
        batch_size //= 2
        print(f"does not fit: now a batch of {batch_size}", flush=True)


def _measure(settings: dict[str, Any], toy: bool) -> Row:
    step = BareStep(settings)
    device = jax.devices()[0]
    needed = step.temporary + step.arguments
    limit = (device.memory_stats() or {}).get("bytes_limit", needed)
    if needed > limit:
        raise MemoryError(f"{needed / 2**30:.1f} of {limit / 2**30:.1f} GiB by the compiler")
    seconds = time_steps(step, toy)
    peak, _ = device_peak()
    product = product_rate(256 if toy else 8192)
    rate = step.flops / seconds
    return {
        "batch": settings["batch_size"],
        "samples/s": settings["batch_size"] / seconds,
        "ms a step": 1e3 * seconds,
        "TFLOP/s": rate / 1e12,
        "% of the peak": 100 * rate / peak,
        "product TFLOP/s": product / 1e12,
        "% of the product": 100 * rate / product,
        "GiB state": step.arguments / 2**30,
        "GiB temporary": step.temporary / 2**30,
        "cuDNN attention kernels": step.program().count('custom_call_target="__cudnn$fmha'),
        "s to compile or load": step.compile_s,
    }


def time_steps(step: BareStep, toy: bool) -> float:
    """Return the median seconds of a step over a few turns, each of several steps."""
    turns, count = (2, 1) if toy else (5, 4)
    step.take(2)
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        step.take(count)
        seconds.append((time.perf_counter() - start) / count)
    return statistics.median(seconds)
