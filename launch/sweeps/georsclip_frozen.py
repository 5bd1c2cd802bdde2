"""GeoRSCLIP: fine-tuning with one tower frozen.

    python -m launch.sweep --sweep=launch/sweeps/georsclip_frozen.py \\
        --workdir=runs/frozen --config.input.data_dir=DATA

small: a model of one half of RSICD is adapted to the other; paper: CLIP B/32 on RS5M.
"""

from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP
from launch.sweeps.rsicd import ADAPTED, HALF

METRIC = "val/mean_recall"
BASELINE = "none"


def runs(scale):
    """Yield which tower stays as it is, three seeds each."""
    if scale == "small":
        yield HALF
    run = ADAPTED if scale == "small" else GEORSCLIP
    frozen = {"none": (), "text": (("txt/.*", None),), "image": (("img/.*", None),)}
    for name, rules in frozen.items():
        yield from seeds(run.but(name, {"schedule": (*rules, (".*", 1.0))}), 3)
