"""GeoRSCLIP: rotation of the training images.

    python -m launch.sweep --sweep=launch/sweeps/georsclip_rotation.py \\
        --workdir=runs/rotation --config.input.data_dir=DATA

small: RSICD from scratch; paper: CLIP B/32 on RS5M.
"""

from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP
from launch.sweeps.rsicd import SHORT

METRIC = "val/mean_recall"
BASELINE = "none"


def runs(scale):
    """Yield no rotation, right angles, and any angle up to 45 and 180 degrees, three seeds each."""
    run = SHORT if scale == "small" else GEORSCLIP
    for name, right_angles, rotate in (
        ("none", False, 0.0),
        ("right", True, 0.0),
        ("right45", True, 45.0),
        ("any", False, 180.0),
    ):
        fields = {"input.right_angles": right_angles, "input.rotate": rotate}
        yield from seeds(run.but(name, fields), 3)
