"""What the sweeps at the papers' own scale start from: OpenAI's CLIP, --config.init_from."""

from launch.plan import REQUIRED, Run

RSITMD = {"type": "retrieval", "data": "rsitmd", "split": "test", "protocols": ("any",)}

LRSCLIP = Run(
    "lrsclip",
    {},
    "configs/lrsclip.py:B/16",
    {"init_from": REQUIRED, "evals": {"val": RSITMD}},
)
GEORSCLIP = Run(
    "georsclip",
    {},
    "configs/georsclip.py",
    {
        "init_from": REQUIRED,
        "input.batch_size": 704,  # 700, rounded up to what eight devices share
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
