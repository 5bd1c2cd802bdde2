"""GeoRSCLIP: with which mean and standard deviation images are normalised.

    python -m launch.sweep --sweep=launch/sweeps/georsclip_normalisation.py \\
        --workdir=runs/normalisation --config.input.data_dir=DATA

small: RSICD from scratch; paper: CLIP B/32 on RS5M. The numbers are those of GeoRSCLIP's code.
"""

from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP
from launch.sweeps.rsicd import SHORT

METRIC = "val/mean_recall"
BASELINE = "clip"


def runs(scale):
    """Yield the statistics, three seeds each."""
    run = SHORT if scale == "small" else GEORSCLIP
    for name, (mean, std) in STATISTICS.items():
        yield from seeds(run.but(name, {"model.mean": mean, "model.std": std}), 3)


STATISTICS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "rs5m": ((0.406, 0.423, 0.390), (0.188, 0.175, 0.185)),
    "pub11": ((0.445, 0.469, 0.441), (0.208, 0.193, 0.213)),
    "rs3": ((0.350, 0.356, 0.316), (0.158, 0.147, 0.143)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
