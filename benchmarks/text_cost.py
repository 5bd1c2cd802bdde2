"""What captions cost: in rows of their own, cut to a bucket, and in shared rows.

    python -m benchmarks.text_cost --captions=rsicd.jsonl --length=77
    python -m benchmarks.text_cost --captions=rs5m.csv --length=248

The captions are a column of a CSV or JSONL file; of a list in it one is drawn. Printed are, for
batches drawn at random, the tokens that the text tower works on for each caption, and, for the
first batch, the CPU time of B/32's text tower forward and backward (--depth of its 12 layers,
float32), the three in turn, as medians and as the median of the ratios. CPU time, not wall time:
machines are shared. "own" is `config.input.pack_text=False`, "shared" is True; "bucket" cuts the
rows of a batch to a multiple of 16 that holds its longest caption, which no config does.
"""

import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rsclip_jax.data.packing import Packing, row_count
from rsclip_jax.data.text import ClipTokenizer
from rsclip_jax.models.blocks import Tower
from rsclip_jax.models.text import TextTower

_CAPTIONS = flags.DEFINE_string("captions", None, "CSV or JSONL file.", required=True)
_COLUMN = flags.DEFINE_string("column", "caption", "Column of the captions: text, or a list.")
_LENGTH = flags.DEFINE_integer("length", 77, "Tokens of a row.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "512"], "On a device; the first is timed.")
_DEPTH = flags.DEFINE_integer("depth", 4, "Layers of the timed tower; 0: no timing.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that each way is timed.")
BATCHES = 50


def main(argv: list[str]) -> None:
    """Print the table."""
    del argv
    rng = np.random.default_rng(0)
    path = Path(_CAPTIONS.value)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        found = [row[_COLUMN.value] for row in rows]
    captions = [x if isinstance(x, str) else x[rng.integers(len(x))] for x in found]
    ids = ClipTokenizer(_LENGTH.value)(captions)
    for batch_size in map(int, _BATCH_SIZES.value):
        batches = [rng.choice(ids, batch_size) for _ in range(BATCHES)]
        counts = [[n * length for _, n, length in ways(batch)] for batch in batches]
        own, bucket, shared = np.mean(counts, axis=0) / batch_size
        shapes = len({row[2] for row in counts})
        print(
            f"{path.name}, {batch_size} captions: tokens a caption {own:.1f} own, {bucket:.1f} "
            f"bucket ({own / bucket:.2f}x), {shared:.1f} shared ({own / shared:.2f}x, {shapes} "
            f"numbers of rows in {BATCHES} batches); {np.mean(lengths(ids)):.1f} real"
        )
    if _DEPTH.value:
        timed(rng.choice(ids, int(_BATCH_SIZES.value[0])))


def lengths(ids: np.ndarray) -> np.ndarray:
    """Return the tokens of each row up to the end of its text."""
    return np.argmax(ids == ClipTokenizer.eot_id, axis=1) + 1


def ways(ids: np.ndarray) -> list[tuple[str, int, int]]:
    """Return the name, number of rows and row length of each way to encode a batch."""
    batch_size, length = ids.shape
    bucket = min(length, -(-int(lengths(ids).max()) // 16) * 16)
    last = int(packed(ids).max())
    return [
        ("own", batch_size, length),
        ("bucket", batch_size, bucket),
        ("shared", row_count(last // length + 1), length),
    ]


def packed(ids: np.ndarray) -> np.ndarray:
    """Return where the texts of a batch begin in shared rows."""
    return Packing(("text",), ids.shape[1], ClipTokenizer.eot_id)({"text": ids})["starts"][:, 0]


def timed(ids: np.ndarray) -> None:
    """Time forward and backward of the tower, all ways in turn."""
    tower = Tower(512, _DEPTH.value, 8, scan=False)
    model = TextTower(tower, ids.shape[1], ClipTokenizer.vocab_size, ClipTokenizer.eot_id, 512)
    init = jax.jit(lambda rng: model.init(rng, jnp.zeros((1, 2), jnp.int32))["params"])
    params = init(jax.random.key(0))

    def gradient(rows: tuple[int, int], *inputs: np.ndarray) -> Callable:
        def loss(params: Any, *inputs: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(model.apply({"params": params}, *inputs, rows=rows)))

        # The inputs are arguments: what is made of constants would be made by the compiler.
        return partial(jax.jit(jax.grad(loss)), params, *jax.device_put(inputs))

    runs = {}
    for name, count, length in ways(ids):
        if name == "shared":
            runs[name] = gradient((count, length), ids[None], packed(ids)[None])
        else:
            runs[name] = gradient((0, 0), ids[:, :length])
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS.value):
        for name, run in runs.items():
            start = time.process_time()
            jax.block_until_ready(run())
            seconds[name].append(time.process_time() - start)
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(seconds["own"], values, strict=True)]
        print(
            f"  {name:6} {statistics.median(values):6.2f} CPU-seconds, "
            f"{statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
