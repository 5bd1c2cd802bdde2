"""Exact retrieval between a million images and texts, and localisation in one large scene."""

import numpy as np
from absl import flags

from benchmarks import retrieval, semantic_localization
from benchmarks.gpu.rows import Row, Stage

ROWS = (100_000, 1_000_000)


def run(stage: Stage) -> None:
    """Localise, then search: what takes the longest comes last."""
    side, small = (800, 800) if stage.toy else (10_000, 1500)
    flags.FLAGS(["searching", f"--side={side}", f"--small_side={small}", "--rounds=1"])
    stage.measure("semantic localisation", f"{side} x {side} px, tiny model", localise)
    few, many = (500, 1000) if stage.toy else ROWS
    first = stage.measure("retrieval", f"{few:,} x {few:,}", lambda: search(few))
    if first:
        reckoned = first["s to rank"] * (many / few) ** 2
        setting = f"{many:,} x {many:,}"
        if reckoned < stage.seconds / 2:
            stage.measure("retrieval", setting, lambda: search(many))
        else:
            stage.measure("retrieval", f"{setting}, reckoned", lambda: later(reckoned))


def search(count: int) -> Row:
    """Rank both ways on this machine's cores; retrieval does not use the GPU."""
    found = retrieval.measure(count, 512)
    return {
        "s to rank": found["rank_s"],
        "GFLOP/s": 2 * count**2 * 512 / found["rank_s"] / 1e9,
        "s for intervals": found["interval_s"],
        "GiB at most": found["peak"] / 2**30,
        "GiB before": found["before"] / 2**30,
    }


def later(seconds: float) -> Row:
    """Say what was not run."""
    minutes = int(np.ceil(2.5 * seconds / 60))
    return {
        "s to rank, by the square of the rows": seconds,
        "not run": f"takes --stages=retrieval --minutes={minutes} and another --out",
    }


def localise() -> Row:
    """Return the seconds of each part, and beside them those of the papers' way."""
    found = semantic_localization.measure()
    return {
        "windows": found["count"],
        "s windows": found["windows_s"],
        "s map": found["map_s"],
        "s metrics": found["metrics_s"],
        "s the papers' way, from a smaller scene": found["theirs_s"],
        "times as fast": found["ratio"],
    }
