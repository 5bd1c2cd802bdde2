"""RSICD with long captions that go on behind CLIP's 77 tokens.

    python -m benchmarks.rsicd_long --input=captions.jsonl --output=long.jsonl
    python -m rsclip_jax.prepare --format=jsonl --input=long.jsonl --images=images --output=data \\
        --name=rsicd_long

A long caption is one of the image's captions, then a passage on how the picture was taken, then its
other captions: cut at 77 tokens, only the first is read. Images that have but one distinct caption
are left out. The passage is as GeoRSCLIP's meta captions of fMoW are, its values are drawn at
random and tell nothing of the image; training images have four long captions, with other values and
another order of the captions in each, the others one. Nothing depends on the order of the rows.
`prepare` prints how many tokens the captions have.
"""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from absl import app, flags

VARIANTS = {"train": 4}  # long captions of an image; else one
SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)


def main(argv: list[str]) -> None:
    """Write the rows with their long captions."""
    del argv
    values = flags.FLAGS
    try:
        lines = Path(values.input).read_text(encoding="utf-8").splitlines()
        rows = list(lengthened(json.loads(line) for line in lines if line.strip()))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"rsicd_long: {values.input}: {error!r}")
    Path(values.output).write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    print(f"{values.output}: {len(rows):,} of {len(lines):,} images have two captions or more")


def lengthened(rows: Iterable[dict]) -> Iterator[dict]:
    """Yield the rows that have two distinct captions or more, each with `long_captions`."""
    for row in rows:
        captions = list(dict.fromkeys(caption.strip() for caption in row["captions"]))
        if len(captions) < 2:
            continue
        rng = random.Random(row["filename"])
        number = VARIANTS.get(row["split"], 1)
        yield {**row, "long_captions": [compose(captions, rng) for _ in range(number)]}


def compose(captions: Sequence[str], rng: random.Random) -> str:
    """Return one caption, the passage, and the other captions, in random order."""
    first, *others = rng.sample(captions, len(captions))
    return " ".join([first, passage(rng), *others])


def passage(rng: random.Random) -> str:
    """Describe an acquisition that never was."""
    month = rng.randrange(12)
    season = next(name for name, months in SEASONS.items() if month + 1 in months)
    scan = rng.choice(("forward", "backward"))
    return (
        f"this picture was taken in {season}, on {MONTHS[month]} {rng.randint(1, 28)}, "
        f"{rng.randint(2008, 2018)}, at {rng.randint(8, 17)} o'clock, with a ground sample "
        f"distance of {rng.uniform(0.5, 3):.2f} metres. it lies in utm zone "
        f"{rng.randint(1, 60)}{rng.choice('NS')}, clouds covered {rng.randint(0, 30)} percent of "
        f"the scene, the scan went {scan}, the target azimuth was {rng.uniform(0, 360):.2f} and "
        f"the off-nadir angle {rng.uniform(0, 35):.2f} degrees."
    )


def define_flags() -> None:
    """Define the flags of the command; not on import, where a test would meet them."""
    flags.DEFINE_string("input", None, "captions.jsonl of RSICD.", required=True)
    flags.DEFINE_string("output", None, "JSONL file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
