"""LRSCLIP: weights of the loss on long and on short captions.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_loss_weights.py \\
        --workdir=runs/loss_weights --config.input.data_dir=DATA

small: RSICD from scratch; paper: CLIP B/16 on LRS2M. Long-CLIP's first release had (1, 0.1).
"""

from launch.plan import seeds
from launch.sweeps.papers import LRSCLIP
from launch.sweeps.rsicd import BOTH

METRIC = "val/mean_recall"
BASELINE = "long1-short1"


def runs(scale):
    """Yield the weights of the long and the short loss, three seeds each."""
    run = BOTH if scale == "small" else LRSCLIP
    for long, short in ((1, 0), (1, 0.1), (1, 0.5), (1, 1), (0.5, 1), (0, 1)):
        pairs = (("img", "txt_long", float(long)), ("img", "txt", float(short)))
        yield from seeds(run.but(f"long{long}-short{short}", {"loss_pairs": pairs}), 3)
