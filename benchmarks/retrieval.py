"""Time and memory of exact retrieval over many rows.

    python -m benchmarks.retrieval --rows=200000

Image and text embeddings are made at random, so alike that some searches succeed. Both directions
and the intervals are computed; what the embeddings themselves need is told apart from the rest.
"""

import resource
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from rsclip_jax.evaluators.recall import bootstrap
from rsclip_jax.evaluators.retrieval import retrieval_ranks

_ROWS = flags.DEFINE_integer("rows", 200_000, "Images, and as many texts.")
_WIDTH = flags.DEFINE_integer("width", 512, "Of the embeddings.")


def main(_: Sequence[str]) -> None:
    """Measure and print."""
    n, width = _ROWS.value, _WIDTH.value
    found = measure(n, width)
    for name, value in found["metrics"].items():
        low, high = found["intervals"][name]
        print(f"{name:12} {value:6.2f}  {low:6.2f} to {high:6.2f}")
    rate = 2 * n * n * width / found["rank_s"] / 1e9
    print(
        f"{n:,} x {n:,} of width {width}: {found['rank_s']:.1f} s ({rate:.0f} GFLOP/s), intervals "
        f"{found['interval_s']:.1f} s; peak memory {found['peak'] / 2**30:.2f} GiB, "
        f"{found['before'] / 2**30:.2f} GiB before the search (embeddings "
        f"{2 * 4 * n * width / 2**30:.2f} GiB)"
    )


def measure(n: int, width: int) -> dict[str, Any]:
    """Search both ways among `n` pairs.

    Returns:
      `metrics` and their `intervals`; `rank_s` and `interval_s`, the seconds of both; `peak` and
      `before`, the greatest resident size in bytes, in all and before the search.
    """
    rng = np.random.default_rng(0)
    zimg = rng.standard_normal((n, width), np.float32)
    ztxt = rng.standard_normal((n, width), np.float32)
    ztxt *= 6
    ztxt += zimg
    for z in (zimg, ztxt):
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    before = peak()
    start = time.perf_counter()
    ranks = retrieval_ranks(zimg, ztxt, np.arange(n), None)
    ranked = time.perf_counter()
    metrics, intervals = ranks.metrics(), bootstrap([ranks])
    end = time.perf_counter()
    return {
        "metrics": metrics,
        "intervals": intervals,
        "rank_s": ranked - start,
        "interval_s": end - ranked,
        "peak": peak(),
        "before": before,
    }


def peak() -> int:
    """Return the greatest resident size of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    app.run(main)
