"""PyTorch on the same card in the same run: steps of open_clip's model and of ours take turns."""

import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.gpu.rows import Row, Stage
from benchmarks.gpu.step import USUAL, said, settings_of
from benchmarks.sides import Side, ratios

# What is compared -> the shape of the step; both sides hold their memory at once: small batches.
PAIRS = {
    "B/16+248": ("B/16+248", 256),
    "B/16+248+77, theirs padded to 248": ("B/16+248+77", 256),
    "L/14+248": ("L/14+248", 64),
    "B/16+77": ("B/16+77", 256),
    "B/32+77": ("B/32+77", 512),
}
SHARE = "0.35"  # of the card's memory for JAX; PyTorch takes of the rest what it needs
# open_clip's description of the toy, for it has none so small.
TOY = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16
    },
    "text_cfg": {
        "context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2
    },
}  # fmt: skip


def run(stage: Stage) -> None:
    """Compare the steps, or say why that cannot be."""
    problem = missing(stage.torch_python)
    if problem and stage.toy:
        stage.measure("PyTorch", "", lambda: {"not measured": problem})
        return
    if problem:
        raise RuntimeError(f"--torch_python={stage.torch_python}: {problem}")
    pairs = list(PAIRS.items())
    for what, (shape, batch_size) in pairs[1:2] if stage.toy else pairs:
        settings = settings_of(shape, stage.toy)
        settings["rounds"] = 2 if stage.toy else 15
        settings |= {"open_clip": TOY, "long": True} if stage.toy else {"batch_size": batch_size}
        stage.measure(what, said(USUAL), lambda s=settings: measure(s, stage.torch_python))


def missing(python: str) -> str:
    """Return why an interpreter cannot be PyTorch's side; "" if it can."""
    tried = subprocess.run(
        [python, "-c", "import torch, open_clip"], capture_output=True, text=True, timeout=120
    )
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""


def measure(settings: dict[str, Any], python: str) -> Row:
    """Return the row of both sides, at half the batch where one side fails at the whole."""
    try:
        return compare(settings, python)
    except RuntimeError as error:
        batch_size = settings["batch_size"] // 2
        print(f"{error}: once more, with a batch of {batch_size}", flush=True)
        return compare({**settings, "batch_size": batch_size}, python)


def compare(settings: dict[str, Any], python: str) -> Row:
    """Return the row of both sides, from medians over the rounds."""
    sides: list[Side] = []
    try:
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": SHARE}
        sides.append(Side("rsclip_jax", sys.executable, "jax_side.py", settings, memory))
        sides.append(Side("open_clip", python, "torch_side.py", settings))
        on_gpu = sides[1].describe["device"] == "cuda"
        if os.environ.get("JAX_PLATFORMS") != "cpu" and not on_gpu:
            raise RuntimeError("PyTorch sees no GPU")
        for _ in range(settings["rounds"]):
            for side in sides:
                side.step()
    finally:
        for side in sides:
            side.close()
    ours, theirs = sides
    found = ratios(ours, theirs, "wall")
    row: Row = {"batch": settings["batch_size"], "times as fast": statistics.median(found)}
    row |= {"from": min(found), "to": max(found)}
    for side, name in ((ours, "ours"), (theirs, "open_clip")):
        row[f"{name} ms a step"] = 1e3 * side.median("wall")
        row[f"{name} samples/s"] = settings["batch_size"] / side.median("wall")
    if "flop" in ours.describe:
        mfu = ours.describe["flop"] / ours.median("wall") / ours.describe["peak"]
        row["ours % of the peak"] = 100 * mfu
    return {**row, "torch": theirs.describe["torch"], "open_clip": theirs.describe["open_clip"]}
