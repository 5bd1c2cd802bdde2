"""LRSCLIP: KPS against plain interpolation against truncation of long captions.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_stretch.py \\
        --workdir=runs/stretch --config.input.data_dir=DATA

small: 24 text positions become 72, or stay; paper: 77 become 248, or stay.
"""

from launch.plan import seeds
from launch.sweeps.papers import LRSCLIP
from launch.sweeps.rsicd import BASE, STRETCHED

METRIC = "val/long_mean_recall"
BASELINE = "kps"


def runs(scale):
    """Yield the three ways, three seeds each."""
    if scale == "small":
        yield BASE
        run, length = STRETCHED, 24
        kps = {"model.keep": 8, "model.ratio": 4.0, "frozen_positions": 8}
    else:
        run, length = LRSCLIP, 77
        kps = {"frozen_positions": 20}
    cut = {"model.context_length": length, "input.lengths.text_long": length}
    free = {"frozen_positions": 0}
    yield from seeds(run.but("kps", {"model.stretch": "kps"}, kps), 3)
    yield from seeds(run.but("interpolate", {"model.stretch": "interpolate"}, free), 3)
    yield from seeds(run.but("truncate", {"model.stretch": "none"}, {**free, **cut}), 3)
