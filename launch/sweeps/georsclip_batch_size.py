"""GeoRSCLIP: batch size, at the same number of samples seen.

    python -m launch.sweep --sweep=launch/sweeps/georsclip_batch_size.py \\
        --workdir=runs/batch_size --config.input.data_dir=DATA

small: RSICD from scratch; paper: CLIP B/32 on RS5M.
"""

from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP
from launch.sweeps.rsicd import SHORT

METRIC = "val/mean_recall"
FIELD = "input.batch_size"


def runs(scale):
    """Yield the batch sizes, two seeds each."""
    small = scale == "small"
    for size in (64, 128, 256, 512) if small else (64, 128, 256, 512, 704):
        shared = {"total_steps": 300 * 256 // size} if small else {}
        run = (SHORT if small else GEORSCLIP).but(
            f"batch{size}", {"input.batch_size": size}, shared
        )
        yield from seeds(run, 2)
