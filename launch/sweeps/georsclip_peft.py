"""GeoRSCLIP: parameter-efficient fine-tuning against full fine-tuning, by trained parameters.

    python -m benchmarks.rsicd_halves --input=captions.jsonl --output=halves
    for half in a b; do python -m rsclip_jax.prepare --format=jsonl --images=images \\
        --input=halves/half_$half.jsonl --output=DATA --name=rsicd_$half; done
    python -m launch.sweep --sweep=launch/sweeps/georsclip_peft.py \\
        --workdir=runs/peft --config.input.data_dir=DATA

small: models of one half of RSICD's classes, one for each seed, are adapted to the other half and
tested there; paper: CLIP B/32 on RS5M. The learning rates of `small` are the best on the validation
images of a grid tried with seed 0 (docs/results.md). GeoRSCLIP gives one for all methods, 1e-6;
with `paper` those that are added to the base start from nothing and take more.
"""

import dataclasses

from launch.plan import seeds
from launch.sweeps.papers import GEORSCLIP, RSITMD
from launch.sweeps.rsicd import SHORT

METRIC = "classes/top1"
FIELD = "trained_parameters"
BASELINE = "full"

SHORT_TEXTS = {"type": "retrieval", "texts": ("short",)}
EVALS = {
    "val": {**SHORT_TEXTS, "data": "rsicd_b", "split": "val"},
    "val_classes": {"type": "zero_shot", "data": "rsicd_b", "split": "val"},
    "test": {**SHORT_TEXTS, "data": "rsicd_b", "split": "test"},
    "classes": {"type": "zero_shot", "data": "rsicd_b", "split": "test"},
}
AID = {"type": "zero_shot", "data": "aid", "split": "all", "class_list": "aid"}
# Method -> learning rate of `small`.
RATES = {"full": 1e-3, "lora": 3e-2, "pfeiffer": 1e-2, "prefix": 3e-3, "unipelt": 3e-2}


def runs(scale):
    """Yield no adaptation and the five ways, three seeds each."""
    if scale == "paper":
        evals = {"evals": {"val": RSITMD, "classes": AID}}
        for method in RATES:
            config = f"configs/georsclip.py:{method}"
            yield from seeds(GEORSCLIP.but(method, {}, evals, config=config), 3)
        return
    for seed in range(3):
        yield pretrained(seed)
    for seed in range(3):
        yield adapted("none", "", 0.0, seed)
    for method, lr in RATES.items():
        for seed in range(3):
            yield adapted(method, "" if method == "full" else method, lr, seed)


def pretrained(seed):
    """Return the run that learns the first half."""
    shared = {k: v for k, v in SHORT.shared.items() if not k.startswith("evals.")}
    shared |= {"input.data": {"rsicd_a": 1.0}, "evals": EVALS, "checkpoint.best": ""}
    shared |= {"model.image_size": 32, "total_steps": 200}
    return dataclasses.replace(
        SHORT, name=f"half-s{seed}", seed=seed, shared=shared, compared=False
    )


def adapted(name, method, lr, seed):
    """Return the run that adapts it to the other half; with no learning rate all is frozen."""
    fields = {"model.peft.method": method, "lr": lr}
    shared = {
        "input.data": {"rsicd_b": 1.0},
        "total_steps": 50,
        "warmup_steps": 10,
        "ema_decay": 0.0,
        "wd": 0.1,
    }
    if not lr:
        shared |= {"schedule": ((".*", None),), "total_steps": 1, "warmup_steps": 0}
    return pretrained(seed).but(
        f"{name}-s{seed}",
        fields,
        shared,
        group=name,
        after=f"half-s{seed}",
        compared=True,
    )
