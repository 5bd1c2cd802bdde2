"""What the infrared sweeps share: a tiny model of RSICD goes on with pairs, on two CPU cores.

    python -m benchmarks.naip --input=DIR --output=naip.jsonl
    python -m rsclip_jax.prepare --format=jsonl --input=naip.jsonl --images=DIR --output=DATA \\
        --name=naip

RSICD is prepared as "rsicd". One of NAIP's cities is `val`, one `test`.
"""

from launch.plan import Run
from launch.sweeps.rsicd import SHORT

SIZE = {"model.context_length": 40, "model.image_size": 32}
IR_RETRIEVAL = {"type": "ir_retrieval", "data": "naip"}

# RGB and short captions, from scratch: what OpenAI's CLIP is to FusionRS.
BASE = SHORT.but("base", {}, SIZE, compared=False)
# FusionRS's recipe, shrunk, on NAIP's 292 training pairs.
PAIRS = Run(
    "pairs",
    {},
    "configs/fusionrs.py",
    {
        **SIZE,
        "model.variant": "tiny",
        "model.dtype": "float32",
        "model.scan": False,
        "input.data": {"naip": 1.0},
        "input.caption": "random",
        "input.lengths": {"text": 24, "text_ir": 40},
        "input.batch_size": 64,
        "input.crop": (0.5, 1.0),
        "input.flip": True,
        "input.right_angles": True,
        "total_epochs": 0.0,
        "total_steps": 200,
        "lr": 1e-3,
        "warmup_steps": 20,
        "loss.max_scale": 100.0,
        "checkpoint.minutes": 0.0,
        "evals": {
            "val": {**IR_RETRIEVAL, "split": "val"},
            "test": {**IR_RETRIEVAL, "split": "test"},
        },
    },
    after="base",
)
