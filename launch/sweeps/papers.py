"""What the sweeps at the papers' own scale start from: OpenAI's CLIP, --config.init_from."""

from launch.plan import REQUIRED, Run

RSITMD = {"type": "retrieval", "data": "rsitmd", "split": "test", "protocols": ("any",)}

LRSCLIP = Run(
    "lrsclip",
    {},
    "configs/lrsclip.py:B/16",
    {"init_from": REQUIRED, "evals": {"val": RSITMD}},
)
# GeoRSCLIP's full fine-tuning of CLIP ViT-B/32 on RS5M (arXiv 2306.11300, section VI-A).
GEORSCLIP = Run(
    "georsclip",
    {},
    "configs/defaults.py",
    {
        "init_from": REQUIRED,
        "model.dtype": "bfloat16",
        "input.data": {"rs5m": 1.0},
        "input.batch_size": 704,  # 700, rounded up to what eight devices share
        "input.crop": (0.9, 1.0),
        "input.flip": True,
        "input.rotate": 180.0,
        "total_epochs": 20.0,
        "lr": 1e-6,
        "wd": 0.5,
        "checkpoint.minutes": 30.0,
        "evals": {"val": {**RSITMD, "texts": ("short",)}},
    },
)
FUSIONRS = Run(
    "fusionrs",
    {},
    "configs/fusionrs.py",
    {
        "init_from": REQUIRED,
        "evals": {"test": {"type": "ir_retrieval", "data": "fusionrs", "split": "test"}},
    },
)
