"""FusionRS: which terms the loss has, and what stands for the infrared image.

    python -m launch.sweep --sweep=launch/sweeps/fusionrs_terms.py \\
        --workdir=runs/terms --config.input.data_dir=DATA

small: RGB and near infrared of NAIP (launch/sweeps/naip.py says how to prepare them); paper: CLIP
B/32 on FusionRS. Tested on the record's own infrared images always.
"""

from launch.plan import seeds
from launch.sweeps.naip import BASE, PAIRS
from launch.sweeps.papers import FUSIONRS

METRIC = "test/rgb2ir_R@1"
COLUMNS = ("test/ir2rgb_R@1", "test/pair_mean", "test/ir2t_R@1", "test/t2ir_R@1", "test/text_mean")
BASELINE = "trimodal"

SETTINGS = {
    "rgb_only": "rgb_text",
    "rgb_duplicate": "trimodal,rgb_duplicate",
    "grayscale": "trimodal,grayscale",
    "dual_text": "dual_text",
    "trimodal": "trimodal",
}


def runs(scale):
    """Yield the loss on RGB alone, the two controls, and without and with RGB to infrared."""
    run = FUSIONRS
    if scale == "small":
        yield BASE
        run = PAIRS
    for name, words in SETTINGS.items():
        yield from seeds(run.but(name, {}, config=f"configs/fusionrs.py:{words}"), 3)
