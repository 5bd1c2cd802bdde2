"""What the small sweeps share: a tiny model on RSICD, prepared as "rsicd", on two CPU cores."""

from launch.plan import Run

CONFIG = "configs/lrsclip.py:rsicd"
TINY = {"model.variant": "tiny", "model.image_size": 64, "eval_steps": 0, "warmup_steps": 20}
SHORT_ONLY = {
    "model.context_length": 24,
    "input.lengths": {"text": 24},
    "loss_pairs": (("img", "txt", 1.0),),
    "evals.val.texts": ("short",),
}
LONG = {"model.context_length": 72, "input.lengths.text_long": 72}

# Short captions alone, from scratch.
SHORT = Run("short", {}, CONFIG, {**TINY, **SHORT_ONLY, "total_steps": 300})
# Short and long captions, from scratch.
BOTH = Run("both", {}, CONFIG, {**TINY, **LONG, "total_steps": 300})
# A model of short captions, as CLIP's 77 tokens are to LRSCLIP, goes on with long ones as well.
BASE = SHORT.but("base", {}, compared=False)
STRETCHED = Run(
    "stretched", {}, CONFIG, {**TINY, **LONG, "total_steps": 100, "lr": 3e-4}, after="base"
)
# Learnt on one half of the images, adapted to the other.
HALF = SHORT.but("half", {}, {"input.split": "train[:50%]"}, compared=False)
ADAPTED = Run(
    "adapted",
    {},
    CONFIG,
    {**TINY, **SHORT_ONLY, "input.split": "train[50%:]", "total_steps": 100, "lr": 3e-4},
    after="half",
)
