"""LRSCLIP: how many text positions KPS keeps, and how far it stretches the rest.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_kps.py \\
        --workdir=runs/kps --config.input.data_dir=DATA

small: a model of 24 text positions is stretched to 72; paper: CLIP's 77 to 248.
"""

from launch.plan import grid, name_of, seeds
from launch.sweeps.papers import LRSCLIP
from launch.sweeps.rsicd import BASE, STRETCHED

METRIC = "val/long_mean_recall"
FIELD = "model.keep"


def runs(scale):
    """Yield every combination of rows kept and ratio, two seeds each."""
    if scale == "small":
        yield BASE
        run, values = STRETCHED, {"model.keep": (4, 8, 12), "model.ratio": (5.0, 8.0)}
    else:
        run, values = LRSCLIP, {"model.keep": (10, 20, 30), "model.ratio": (5.0, 6.0)}
    for fields in grid(values):
        frozen = {"frozen_positions": fields["model.keep"]}
        yield from seeds(run.but(name_of(fields), fields, frozen), 2)
