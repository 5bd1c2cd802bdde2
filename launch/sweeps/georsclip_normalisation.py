"""GeoRSCLIP: with which mean and standard deviation images are normalised.

    python -m launch.sweep --sweep=launch/sweeps/georsclip_normalisation.py \\
        --workdir=runs/normalisation --config.input.data_dir=DATA

small: RSICD from scratch; paper: CLIP B/32 on RS5M. The numbers are those of GeoRSCLIP's code.
"""

from configs.georsclip import STATISTICS
from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP
from launch.sweeps.rsicd import SHORT

METRIC = "val/mean_recall"
BASELINE = "clip"


def runs(scale):
    """Yield the statistics, three seeds each."""
    run = SHORT if scale == "small" else GEORSCLIP
    for name in ("clip", "rs5m", "pub11", "rs3", "imagenet"):
        mean, std = STATISTICS[name]
        yield from seeds(run.but(name, {"model.mean": mean, "model.std": std}), 3)
