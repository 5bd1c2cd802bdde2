"""Texts that share rows (`config.input.pack_text`) beside texts in rows of their own."""

from benchmarks.bare_step import BareStep
from benchmarks.gpu.rows import Row, Stage
from benchmarks.gpu.step import USUAL, settings_of, time_steps

# The shape of the step -> mean tokens of a caption: of LRSCLIP's step those of its long and short
# ones together, of the others RSICD's short ones and those of RS5M's satellite part.
CAPTIONS = {"B/16+248+77": 60.0, "B/16+77": 13.7, "B/16+248": 62.5}


def run(stage: Stage) -> None:
    """Measure the step of each shape both ways."""
    for what, tokens in list(CAPTIONS.items())[: 1 if stage.toy else None]:
        setting = f"captions of {tokens} tokens on average, lengths drawn at random"
        stage.measure(what, setting, lambda w=what, n=tokens: measure(w, n, stage.toy))


def measure(what: str, tokens: float, toy: bool) -> Row:
    """Return the row of a shape."""
    row: Row = {}
    seconds = {}
    for name, packed in (("own rows", False), ("shared rows", True)):
        settings = settings_of(what, toy, {**USUAL, "input.pack_text": packed})
        settings["tokens"] = min(tokens, 6) if toy else tokens
        settings["batch_size"] = 8 if toy else 256
        step = BareStep(settings)
        seconds[name] = time_steps(step, toy)
        row["batch"] = settings["batch_size"]
        row[f"{name}, ms a step"] = 1e3 * seconds[name]
        row[f"{name}, TFLOP a step"] = step.flops / 1e12
        row[f"{name}, GiB temporary"] = step.temporary / 2**30
    return {**row, "shared, times as fast": seconds["own rows"] / seconds["shared rows"]}
