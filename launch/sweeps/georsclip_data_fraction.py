"""GeoRSCLIP: how much of the training data is used.

    python -m launch.sweep --sweep=launch/sweeps/georsclip_data_fraction.py \\
        --workdir=runs/data_fraction --config.input.data_dir=DATA

small: RSICD from scratch, the same steps of each; paper: CLIP B/32 on RS5M, the same epochs.
"""

from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP
from launch.sweeps.rsicd import SHORT

METRIC = "val/mean_recall"
BASELINE = "train100"


def runs(scale):
    """Yield the parts in percent, three seeds each."""
    run = SHORT if scale == "small" else GEORSCLIP
    for percent in (12.5, 25, 50, 100):
        yield from seeds(run.but(f"train{percent}", {"input.subset": percent / 100}), 3)
