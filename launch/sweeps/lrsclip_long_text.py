"""LRSCLIP: long text by KPS, by plain interpolation, and cut at 77 tokens.

    python -m benchmarks.rsicd_long --input=captions.jsonl --output=long.jsonl
    python -m rsclip_jax.prepare --format=jsonl --input=long.jsonl --images=images \\
        --output=DATA --name=rsicd_long
    python -m launch.sweep --sweep=launch/sweeps/lrsclip_long_text.py \\
        --workdir=runs/long_text --config.input.data_dir=DATA

small: a model of 77 positions has learnt short captions, as CLIP has, and goes on with captions of
93 to 189 tokens too, at 248 positions or at its 77. Cut there, one of an image's captions is read
and the others are not. paper: what lrsclip_stretch.py does, CLIP B/16 on LRS2M.
"""

from launch.plan import seeds
from launch.sweeps import lrsclip_stretch
from launch.sweeps.rsicd import SHORT, STRETCHED

METRIC = "val/long_mean_recall"
BASELINE = "kps"

DATA = {"input.data": {"rsicd_long": 1.0}, "evals.val.data": "rsicd_long", "model.image_size": 32}
BASE = SHORT.but(
    "base", {}, {**DATA, "model.context_length": 77, "total_steps": 200}, compared=False
)
LONGEST = 168  # tokens that are read of 248: the 99th percentile
GO_ON = STRETCHED.but(
    "go_on",
    {},
    {
        **DATA,
        "model.context_length": 248,
        "input.lengths.text_long": LONGEST,
        "input.batch_size": 128,
        "total_steps": 75,
        "ema_decay": 0.9,
        "lr": 1e-3,
    },
)


def runs(scale):
    """Yield the three ways, three seeds each, and what stretching alone does."""
    if scale == "paper":
        yield from lrsclip_stretch.runs(scale)
        return
    yield BASE
    kps = {"frozen_positions": 20}
    cut = {"model.context_length": 77, "input.lengths.text_long": 77}
    yield from seeds(GO_ON.but("kps", {"model.stretch": "kps"}, kps), 3)
    yield from seeds(GO_ON.but("interpolate", {"model.stretch": "interpolate"}), 3)
    yield from seeds(GO_ON.but("truncate", {"model.stretch": "none"}, cut), 3)
    still = {"total_steps": 1, "lr": 0.0, "ema_decay": 0.0}  # as stretched; nothing is random
    for stretch in ("kps", "interpolate"):
        yield GO_ON.but(f"{stretch}-untrained", {"model.stretch": stretch}, still)
