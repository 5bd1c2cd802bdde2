"""RSICD in two halves by class: one to pretrain on, one to adapt to.

    python -m benchmarks.rsicd_halves --input=captions.jsonl --output=DIR
    for half in a b; do python -m rsclip_jax.prepare --format=jsonl --input=DIR/half_$half.jsonl \\
        --images=images --output=data --name=rsicd_$half; done

Every second class of the alphabet goes to the same half, so that neither has all that is built or
all that grows. Rows and their splits stay as they are.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from absl import app, flags

NAMES = ("half_a.jsonl", "half_b.jsonl")


def main(argv: list[str]) -> None:
    """Write the rows of each half."""
    del argv
    values = flags.FLAGS
    output = Path(values.output)
    try:
        lines = Path(values.input).read_text(encoding="utf-8").splitlines()
        halves = split(json.loads(line) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        sys.exit(f"rsicd_halves: {error}")
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(NAMES, halves, strict=True):
        (output / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        classes = ", ".join(sorted({row["label"] for row in rows}))
        print(f"{output / name}: {len(rows):,} images of {classes}")


def split(rows: Iterable[dict]) -> tuple[list[dict], list[dict]]:
    """Return the rows of the classes at even places of the alphabet, and those at odd ones.

    Raises:
      ValueError: a row without label.
    """
    rows = list(rows)
    if nameless := [row for row in rows if not row.get("label")]:
        raise ValueError(f"{len(nameless)} rows have no label, the first: {nameless[0]}")
    places = {label: place for place, label in enumerate(sorted({r["label"] for r in rows}))}
    even = [row for row in rows if places[row["label"]] % 2 == 0]
    odd = [row for row in rows if places[row["label"]] % 2 == 1]
    return even, odd


def define_flags() -> None:
    """Define the flags of the command; not on import, where a test would meet them."""
    flags.DEFINE_string("input", None, "captions.jsonl of RSICD.", required=True)
    flags.DEFINE_string("output", None, "Directory of the two files.", required=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
