"""Time and memory of the contrastive loss: ring beside gather and dense."""

import statistics

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import loss_memory
from benchmarks.gpu.rows import Row, Stage
from rsclip_jax import sharding

BATCHES = (4096, 16384, 8192, 32768, 65536)
IMPLS = ("ring", "gather", "dense")
ROOM = 0.8  # of the device's memory, for temporaries beside the embeddings


def run(stage: Stage) -> None:
    """Measure each batch, all implementations that fit in turn."""
    flags.FLAGS(["loss", "--width=512", f"--rounds={2 if stage.toy else 7}"])
    for batch in (64,) if stage.toy else BATCHES:
        what = f"batch {batch:,}"
        stage.measure(what, "softmax, width 512, forward and backward", lambda b=batch: measure(b))


def measure(batch: int) -> Row:
    """Return milliseconds and MiB of each implementation; what does not fit is said."""
    mesh = sharding.make_mesh()
    z = jax.ShapeDtypeStruct((batch, 512), jnp.float32, sharding=sharding.batch_sharding(mesh))
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", float("inf"))
    steps, row = {}, Row()
    for impl in IMPLS:
        step = loss_memory.compile_loss("softmax", impl, z, mesh)
        memory = step.memory_analysis().temp_size_in_bytes
        row[f"{impl} MiB"] = memory / 2**20
        if memory < ROOM * limit:
            steps[impl] = step
    times = loss_memory.run_in_turn(steps, z)
    for impl in IMPLS:
        fits = impl in steps
        row[f"{impl} ms"] = 1e3 * statistics.median(times[impl]) if fits else "does not fit"
    for impl in ("gather", "dense"):
        if impl in steps:
            pairs = zip(times["ring"], times[impl], strict=True)
            row[f"ring's time / {impl}'s"] = statistics.median(a / b for a, b in pairs)
    return row
