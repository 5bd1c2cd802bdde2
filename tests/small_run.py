"""The shipped demo config, shrunk so that a test can train it."""

import itertools
import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import lrsclip
from rsclip_jax.training.preemption import StopSignal


def small_config(data_dir: str, **overrides) -> ConfigDict:
    """Return `lrsclip.py:demo` at 32 px, 16 samples a step, with the vocabulary in `data_dir`.

    Overrides use dots as "__".
    """
    config = lrsclip.get_config("demo")
    config.tokenizer = f"sentencepiece:{data_dir}/words.model"
    config.model.image_size = 32
    config.model.scan = True
    config.model.remat = "none"  # test_fit.py is about "auto"
    config.grad_cache_steps = 1
    config.input.data_dir = data_dir
    config.input.batch_size = 16
    config.input.lengths = {"text": 16, "text_long": 32}
    config.total_steps = 6
    config.warmup_steps = 2
    config.log_steps = 1
    config.eval_steps = 0
    config.evals = {}
    config.export = {}
    config.checkpoint.steps = 2
    config.checkpoint.keep = 10
    for name, value in overrides.items():
        *parents, field = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[field] = value
    return config


def stop_at(patch, question: int) -> None:
    """Stop a run the so many-th time it asks, after steps and before batches of evaluations."""
    asked = itertools.count(1)
    patch.setattr(StopSignal, "reached", lambda self: next(asked) >= question)


def losses(workdir: Path) -> dict[int, float]:
    """Return step -> training_loss of a run."""
    lines = [json.loads(x) for x in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: x["training_loss"] for x in lines if "training_loss" in x}


def flat(params) -> np.ndarray:
    """Return all numbers of a tree as one vector."""
    import jax

    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])
