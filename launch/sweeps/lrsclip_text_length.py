"""LRSCLIP: how many tokens of the long captions are read.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_text_length.py \\
        --workdir=runs/text_length --config.input.data_dir=DATA

small: RSICD from scratch, 90 % of its composed captions fit into 48; paper: CLIP B/16 on LRS2M.
"""

from launch.plan import grid, name_of, seeds
from launch.sweeps.papers import LRSCLIP
from launch.sweeps.rsicd import BOTH

METRIC = "val/long_mean_recall"
FIELD = "input.lengths.text_long"


def runs(scale):
    """Yield the lengths, two seeds each."""
    small = scale == "small"
    lengths = (24, 36, 48, 72) if small else (77, 128, 192, 248)
    for fields in grid({"input.lengths.text_long": lengths}):
        yield from seeds((BOTH if small else LRSCLIP).but(name_of(fields), fields), 2)
