"""LRSCLIP: how many text positions KPS keeps, and how far it stretches the rest.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_kps.py \\
        --workdir=runs/kps --config.input.data_dir=DATA

small: a model of 24 text positions is stretched to 72; paper: CLIP's 77 to 248.
"""

from launch.plan import name_of, seeds
from launch.sweeps.papers import LRSCLIP
from launch.sweeps.rsicd import BASE, STRETCHED

METRIC = "val/long_mean_recall"
FIELD = "model.keep"


def runs(scale):
    """Yield the combinations of rows kept and ratio, two seeds each."""
    if scale == "small":
        yield BASE
        run, values = STRETCHED, SMALL
    else:
        run, values = LRSCLIP, PAPER
    for keep, ratio in values:
        fields = {"model.keep": keep, "model.ratio": ratio}
        yield from seeds(run.but(name_of(fields), fields, {"frozen_positions": keep}), 2)


SMALL = [(keep, ratio) for keep in (4, 8, 12) for ratio in (5.0, 8.0)]
# Long-CLIP's own is (20, 4.0); more rows kept need a greater ratio to reach 248.
PAPER = [(10, 4.0), (20, 4.0), (10, 5.0), (20, 5.0), (30, 5.0)]
