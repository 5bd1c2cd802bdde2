"""LRSCLIP: principal component matching of the short captions, on and off.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_pcm.py \\
        --workdir=runs/pcm --config.input.data_dir=DATA

small: RSICD from scratch; paper: CLIP B/16 on LRS2M. Long-CLIP keeps 32 components, LRSCLIP none.
"""

from launch.plan import grid, name_of, seeds
from launch.sweeps.papers import LRSCLIP
from launch.sweeps.rsicd import BOTH

METRIC = "val/mean_recall"
FIELD = "loss.pcm_dim"
BASELINE = "pcm_dim0"


def runs(scale):
    """Yield the numbers of components, 0 for off, three seeds each."""
    run = BOTH if scale == "small" else LRSCLIP
    for fields in grid({"loss.pcm_dim": (0, 16, 32, 64)}):
        yield from seeds(run.but(name_of(fields), fields), 3)
