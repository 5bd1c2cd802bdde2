"""Temporary memory of the contrastive loss, forward and backward, as a Markdown table.

    python -m benchmarks.loss_memory
    python -m benchmarks.loss_memory --devices=1 --batches=32768 --width=512
    python -m benchmarks.loss_memory --devices=0 --rounds=9

The first compiles for 8 simulated devices and asks the compiler, as the second does for one:
nothing runs, so a busy machine does not matter. With --devices=0 the devices at hand are taken, and
with --rounds the implementations also run in turn: medians over the rounds, and beside the first
one named in --impls, are printed. Embeddings are float32, sharded over the devices.

"Expected" is what a device should need, in arrays of its logits [B / devices, B], its embeddings
[B / devices, D] and everybody's [B, D] of one side:

    dense, gather   4 logits + everybody's embeddings of one side
    ring            5.1 of its embeddings, the figure of an earlier trial of the same algorithm
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import Mesh

from rsclip_jax import sharding
from rsclip_jax.losses.contrastive import KINDS, pair_loss

_DEVICES = flags.DEFINE_integer("devices", 8, "Simulated CPU devices; 0: the devices at hand.")
_BATCHES = flags.DEFINE_list("batches", ["8192", "16384"], "Global batches.")
_WIDTH = flags.DEFINE_integer("width", 256, "Width of the embeddings.")
_KINDS = flags.DEFINE_list("kinds", list(KINDS), "Losses.")
_IMPLS = flags.DEFINE_list("impls", ["dense", "gather", "ring"], "Implementations.")
_CHUNK = flags.DEFINE_integer("chunk", 0, "Rows of a block of the ring; 0: its own choice.")
_ROUNDS = flags.DEFINE_integer("rounds", 0, "How often each runs; 0: compile only.")

MIB = 2**20


def main(_: Sequence[str]) -> None:
    """Compile, perhaps run, and print."""
    if _DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    mesh = sharding.make_mesh()
    columns = ["loss", "batch", "devices", "impl", "MiB per device", "expected", "ratio"]
    if _ROUNDS.value:
        columns += ["ms", f"beside {_IMPLS.value[0]}"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for kind in _KINDS.value:
        for batch in map(int, _BATCHES.value):
            for row in measure(kind, batch, mesh):
                print(f"| {' | '.join(row)} |", flush=True)


def measure(kind: str, batch: int, mesh: Mesh) -> list[list[str]]:
    """Return the cells of a row for each implementation."""
    z = jax.ShapeDtypeStruct(
        (batch, _WIDTH.value), jnp.float32, sharding=sharding.batch_sharding(mesh)
    )
    steps = {impl: compile_loss(kind, impl, z, mesh) for impl in _IMPLS.value}
    rows = []
    for impl, step in steps.items():
        memory = step.memory_analysis().temp_size_in_bytes
        predicted = expected(impl, batch, sharding.batch_shards(mesh))
        numbers = [f"{memory / MIB:,.1f}", f"{predicted / MIB:,.1f}", f"{memory / predicted:.2f}"]
        rows.append([kind, f"{batch:,}", str(sharding.batch_shards(mesh)), impl, *numbers])
    if _ROUNDS.value:
        times = run_in_turn(steps, z)
        first = times[_IMPLS.value[0]]
        for row, impl in zip(rows, steps, strict=True):
            ratios = [a / b for a, b in zip(times[impl], first, strict=True)]
            row += [
                f"{statistics.median(times[impl]) * 1e3:.1f}",
                f"{statistics.median(ratios):.2f}",
            ]
    return rows


def compile_loss(kind: str, impl: str, z: jax.ShapeDtypeStruct, mesh: Mesh) -> Any:
    """Compile the loss and its gradients, which lie where the embeddings do."""
    loss_fn = partial(
        pair_loss,
        kind=kind,
        bias=-10.0 if kind == "sigmoid" else None,
        impl=impl,
        chunk=_CHUNK.value if impl == "ring" else 0,
        mesh=mesh,
    )
    step = jax.value_and_grad(loss_fn, argnums=(0, 1, 2), has_aux=True)
    whole = sharding.replicated(mesh)
    out = (whole, (z.sharding, z.sharding, whole))
    return jax.jit(step, out_shardings=out).lower(z, z, jnp.float32(10.0)).compile()


def expected(impl: str, batch: int, devices: int) -> float:
    """Return the bytes of temporary memory that a device should need."""
    embeddings = 4 * batch * _WIDTH.value
    if impl == "ring":
        return 5.1 * embeddings / devices
    return 4 * (4 * batch**2 / devices) + embeddings


def run_in_turn(steps: dict[str, Callable], z: jax.ShapeDtypeStruct) -> dict[str, list[float]]:
    """Return the seconds of each implementation in each round, after one to warm up."""
    za, zb = (
        jax.device_put(x / jnp.linalg.norm(x, axis=1, keepdims=True), z.sharding)
        for x in jax.random.normal(jax.random.key(0), (2, *z.shape))
    )
    times: dict[str, list[float]] = {impl: [] for impl in steps}
    for _ in range(_ROUNDS.value + 1):
        for impl, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(za, zb, jnp.float32(10.0)))
            times[impl].append(time.perf_counter() - start)
    return {impl: seconds[1:] for impl, seconds in times.items()}


if __name__ == "__main__":
    app.run(main)
