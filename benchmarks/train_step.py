"""Speed of the training step beside open_clip's, step by step in turn.

    python -m venv torchenv && torchenv/bin/pip install torch torchvision open_clip_torch
    python -m benchmarks.train_step --torch_python=torchenv/bin/python
    python -m benchmarks.train_step --torch_python=torchenv/bin/python --dtype=bfloat16 \\
        --variant=B/16 --context_length=248 --batch_size=1024 --long [--set=model.scan=False,...]

Each side is a process of its own that keeps a model of the same size (CLIP, GELU, contrastive loss,
AdamW, one batch of random numbers) and takes a step when told to, so that a machine whose speed
drifts favours neither. In bfloat16 (parameters and optimiser in float32 on both sides) open_clip
runs under autocast and torch.compile, with its fused attention. --long is LRSCLIP's step: image,
long text and short one, of which open_clip's side pads both to the context, as LRSCLIP's code does.

Medians over the rounds, and of the ratios within a round, are printed by wall time and by CPU time
of the process, the steadier one on a busy machine. Compilation and the first two steps do not
count. Without --torch_python only this side is measured. Bare float32 matrix products of an MLP's
size are timed after every step, for how much of a difference is that of the two libraries beneath.
"""

import statistics
import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks.sides import Side, ratios

_TORCH_PYTHON = flags.DEFINE_string("torch_python", None, "Interpreter that has open_clip.")
_VARIANT = flags.DEFINE_string("variant", "B/32", "B/32, B/16, L/14 or H/14.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Samples in a step.")
_TEXT_LENGTH = flags.DEFINE_integer(
    "text_length", 77, "Tokens of this side's (short) captions; open_clip pads to its context."
)
_CONTEXT = flags.DEFINE_integer("context_length", 77, "Text positions of the model.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_LONG = flags.DEFINE_boolean("long", False, "Train on a long and a short text of each image.")
_SET = flags.DEFINE_list("set", [], "Fields of this side's config: model.scan=False,...")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Steps of each side.")


def main(_: Sequence[str]) -> None:
    """Measure and print."""
    flag_values = (_VARIANT, _BATCH_SIZE, _TEXT_LENGTH, _CONTEXT, _DTYPE, _LONG, _SET)
    settings = {flag.name: flag.value for flag in flag_values}
    sides = [Side("rsclip_jax", sys.executable, "jax_side.py", settings)]
    if _TORCH_PYTHON.value:
        sides.append(Side("open_clip", _TORCH_PYTHON.value, "torch_side.py", settings))
    else:
        print("open_clip is not measured: give --torch_python, see the head of this file")
    for _ in range(_ROUNDS.value):
        for side in sides:
            side.step()
    print(
        f"{_VARIANT.value}, batch {_BATCH_SIZE.value}, {_DTYPE.value}, captions of "
        f"{_TEXT_LENGTH.value} tokens here{' and long ones' if _LONG.value else ''}, context "
        f"{_CONTEXT.value}; medians of {_ROUNDS.value} steps"
    )
    for side in sides:
        side.close()
        wall, cpu = side.median("wall"), side.median("cpu")
        print(
            f"{side.name:12}{wall:8.3f} s/step {_BATCH_SIZE.value / wall:8.2f} samples/s"
            f"{cpu:9.3f} CPU s/step {side.median('matmul') / 1e9:7.1f} GFLOP/s bare matrix products"
            f"   {side.describe}"
        )
        if "flop" in side.describe:
            mfu = side.describe["flop"] / wall / side.describe["peak"]
            print(f"{'':12}{100 * mfu:8.1f} % of the peak of {side.describe['peak_of']}")
    if len(sides) == 2:
        ours, theirs = sides
        for clock in ("wall", "cpu"):
            found = ratios(ours, theirs, clock)
            print(
                f"open_clip's {clock} time over ours: median {statistics.median(found):.2f}, "
                f"from {min(found):.2f} to {max(found):.2f}"
            )


if __name__ == "__main__":
    app.run(main)
