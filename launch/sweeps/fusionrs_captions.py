"""FusionRS's second stage: infrared images with plain or with infrared-aware captions.

    python -m launch.sweep --sweep=launch/sweeps/fusionrs_captions.py \\
        --workdir=runs/captions --config.input.data_dir=DATA

small: NAIP (launch/sweeps/naip.py says how to prepare it), whose infrared-aware captions say what
is measured in the infrared image; paper: FusionRS's subset that has them, from the first stage.
`test` retrieves the plain captions, `test_ir` the infrared-aware ones.
"""

from launch.plan import seeds
from launch.sweeps.naip import BASE, IR_RETRIEVAL, PAIRS
from launch.sweeps.papers import FUSIONRS

METRIC = "test_ir/text_mean"
COLUMNS = ("test_ir/ir2t_R@1", "test_ir/t2ir_R@1", "test/text_mean", "test/pair_mean")
BASELINE = "original"

IR_AWARE = {**IR_RETRIEVAL, "split": "test", "texts": "ir_caption"}


def runs(scale):
    """Yield the three kinds of captions, three seeds each."""
    if scale == "small":
        yield BASE
        yield PAIRS.but("first_stage", {}, compared=False)
        shared = {"evals": {**PAIRS.shared["evals"], "test_ir": IR_AWARE}, "total_steps": 100}
        run = PAIRS.but("second_stage", {}, shared, after="first_stage")
    else:
        of_subset = {**IR_AWARE, "data": "fusionrs_ir_aware"}
        evals = {**FUSIONRS.shared["evals"], "test_ir": of_subset}
        run = FUSIONRS.but("second_stage", {}, {"evals": evals})
    for words in ("original", "ir_aware", "mixed"):
        yield from seeds(run.but(words, {}, config=f"configs/fusionrs.py:{words}"), 3)
