"""XLA's attention beside the flash and splash kernels of JAX, by the TPU compiler alone.

    JAX_PLATFORMS=cpu python -m benchmarks.tpu_attention [--tower=image_b16] [--topology=v5p:2x2x2]

Needs libtpu (see rsclip_jax.aot) and no TPU. Compiles the attention of a whole tower for one device
(forward and backward: projections, attention and residual of every layer, scanned, bfloat16) and
prints a row for each tower and kind of attention:

- MiB: what the compiler allots beside parameters, tokens and their gradients
- Mcycles: the sum of its own `estimated_cycles`, loops as often as they turn. It has no estimate of
  the kernels: their rows count only what surrounds them (projections, padding, changes of layout)

`--kernels` prints a floor for these instead: the instruction bundles of a kernel's schedule, one
cycle each, once for every row, head and layer. What it waits for memory is not in it.

The kernels want rows in multiples of 128: tokens are padded, and what was added is masked.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import SingleDeviceSharding

from rsclip_jax import aot
from rsclip_jax.models.attention import plain


class Shape(NamedTuple):
    """The attention of one tower."""

    tokens: int
    heads: int
    width: int
    layers: int
    causal: bool


SHAPES = {
    "image_b16": Shape(197, 12, 768, 12, False),
    "text_b16": Shape(248, 8, 512, 12, True),
    "short_b16": Shape(77, 8, 512, 12, True),
    "image_l14": Shape(257, 16, 1024, 24, False),
    "image_h14": Shape(257, 16, 1280, 32, False),
}
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # over [B, L, H, D / H]


def xla(shape: Shape) -> Attend:
    """Return the attention that this package has."""
    mask = jnp.tri(shape.tokens, dtype=bool) if shape.causal else None
    return partial(plain, mask=mask)


def recomputed(shape: Shape) -> Attend:
    """Return the same, of which the backward pass finds queries, keys and values only."""
    return jax.checkpoint(xla(shape), prevent_cse=False)


def flash_kernel(shape: Shape) -> Attend:
    """Return JAX's flash attention, a row and head in one block."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        n = q.shape[2]
        blocks = flash.BlockSizes(n, n, n, 1, n, n, n, n, n, n, n)
        segments = None
        if not shape.causal and n > shape.tokens:  # causality hides what is behind
            added = (jnp.arange(n) >= shape.tokens).astype(jnp.int32)
            segments = flash.SegmentIds(*[jnp.broadcast_to(added, (len(q), n))] * 2)
        return flash.flash_attention(
            q, k, v, segment_ids=segments, causal=shape.causal, block_sizes=blocks
        )

    return padded(attend)


def splash_kernel(shape: Shape) -> Attend:
    """Return JAX's splash attention, a row and head in one block, its backward pass one kernel."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        n = q.shape[2]
        seen = np.tri(n, dtype=bool) if shape.causal else np.ones((n, n), bool)
        seen[:, shape.tokens :] &= shape.causal
        kernel = splash.make_splash_mha_single_device(
            splash_mask.MultiHeadMask([splash_mask.NumpyMask(seen)] * shape.heads),
            block_sizes=splash.BlockSizes(
                block_q=n,
                block_kv=n,
                block_q_dkv=n,
                block_kv_dkv=n,
                use_fused_bwd_kernel=True,
            ),
        )
        return jax.vmap(kernel)(q, k, v)

    return padded(attend)


def padded(kernel: Attend) -> Attend:
    """Give a kernel over [B, H, L, D / H], which does not scale its logits, what it wants."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        tokens = q.shape[1]
        added = ((0, 0), (0, 0), (0, -tokens % 128), (0, 0))
        q = q * q.shape[-1] ** -0.5
        y = kernel(*(jnp.pad(x.swapaxes(1, 2), added) for x in (q, k, v)))
        return y[:, :, :tokens].swapaxes(1, 2)

    return attend


KINDS = {
    "XLA": xla,
    "XLA, recomputed": recomputed,
    "flash": flash_kernel,
    "splash": splash_kernel,
}

_TOWERS = flags.DEFINE_multi_enum("tower", list(SHAPES), list(SHAPES), "May be repeated.")
_KINDS = flags.DEFINE_multi_enum("kind", list(KINDS), list(KINDS), "May be repeated.")
_KERNELS = flags.DEFINE_boolean("kernels", False, "The schedules of the kernels instead.")
_ROWS = flags.DEFINE_integer("rows", 64, "Of the batch, on one device.", lower_bound=1)
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "TPU generation and shape; one is used.")


def main(argv: list[str]) -> None:
    """Print the table row by row."""
    if _KERNELS.value:
        return kernels()
    print("| tower | attention | MiB | Mcycles |\n|---|---|---|---|")
    device = aot.devices_of(_TOPOLOGY.value)[0]
    for name in _TOWERS.value:
        for kind in _KINDS.value:
            compiled = tower(KINDS[kind](SHAPES[name]), SHAPES[name], device).compile()
            cycles = estimated_cycles(compiled.as_text(), SHAPES[name].layers)
            memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
            print(f"| {name} | {kind} | {memory:,.0f} | {cycles / 1e6:,.1f} |", flush=True)


def kernels() -> None:
    """Print the bundles of every kernel, and what they come to in a tower."""
    print("| tower | attention | bundles of its kernels | Mcycles, at least |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        os.environ["LIBTPU_INIT_ARGS"] = (  # read when the compiler is loaded, not before
            f"--xla_jf_dump_to={place} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=final_bundles"
        )
        device = aot.devices_of(_TOPOLOGY.value)[0]
        for name in _TOWERS.value:
            for kind in [kind for kind in _KINDS.value if kind in ("flash", "splash")]:
                for file in Path(place).iterdir():
                    file.unlink()
                shape = SHAPES[name]
                hlo = row(KINDS[kind](shape), shape, device).compile().as_text()
                calls = re.findall(r'%(\S+) = .*custom_call_target="tpu_custom_call"', hlo)
                found = [bundles(Path(place), call) for call in calls]
                cycles = sum(found) * _ROWS.value * shape.heads * shape.layers
                print(f"| {name} | {kind} | {' + '.join(map(str, found))} | {cycles / 1e6:,.1f} |")


def bundles(place: Path, call: str) -> int:
    """Read how many bundles the schedule of a kernel has, in the compiler's dump."""
    (file,) = place.glob(f"*-{call}-*schedule-analysis_final_bundles.txt")
    return int(re.findall(r"total scheduled bundles:\s*(\d+)", file.read_text())[0])


def row(attend: Attend, shape: Shape, device: jax.Device) -> jax.stages.Lowered:
    """Trace the attention of one row, forward and backward."""

    def gradient(q: jax.Array, k: jax.Array, v: jax.Array, dy: jax.Array) -> tuple:
        y, pullback = jax.vjp(attend, q, k, v)
        return y, pullback(dy)

    place = SingleDeviceSharding(device)
    heads = (1, shape.tokens, shape.heads, shape.width // shape.heads)
    x = jax.ShapeDtypeStruct(heads, jnp.bfloat16)
    return jax.jit(gradient, in_shardings=place, out_shardings=place).lower(x, x, x, x)


def tower(attend: Attend, shape: Shape, device: jax.Device) -> jax.stages.Lowered:
    """Trace the gradient of a tower that has nothing but its attention."""
    width, heads = shape.width, (_ROWS.value, shape.tokens, shape.heads, -1)

    def layer(x: jax.Array, params: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        qkv = x.reshape(-1, width) @ params["in"]
        q, k, v = (part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1))
        y = attend(q, k, v).reshape(-1, width) @ params["out"]
        return x + y.reshape(x.shape), None

    def output(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.lax.scan(layer, x, params)[0]

    def gradient(params: dict[str, jax.Array], x: jax.Array, dy: jax.Array) -> tuple:
        return jax.vjp(output, params, x)[1](dy)

    place = SingleDeviceSharding(device)
    matrices = {"in": (shape.layers, width, 3 * width), "out": (shape.layers, width, width)}
    params = {name: jax.ShapeDtypeStruct(s, jnp.bfloat16) for name, s in matrices.items()}
    x = jax.ShapeDtypeStruct((_ROWS.value, shape.tokens, width), jnp.bfloat16)
    return jax.jit(gradient, in_shardings=place, out_shardings=place).lower(params, x, x)


def estimated_cycles(hlo: str, layers: int) -> int:
    """Sum the compiler's estimates over a compiled program, those in loops once a layer."""
    return sum(
        times * int(cycles)
        for line, times in run_lines(hlo, layers)
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line)
    )


def run_lines(hlo: str, layers: int) -> Iterator[tuple[str, int]]:
    """Yield the lines that are run and how often; what they call has its estimate with the call."""
    loops = set(re.findall(r" while\(.*body=%?([\w.\-]+)", hlo))
    times = 0
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            times = 1 if head[1] else layers * (head[2] in loops)
        elif times:
            yield line, times


if __name__ == "__main__":
    app.run(main)
