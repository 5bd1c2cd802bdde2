"""Captions for pairs of aerial photographs and near-infrared images (NAIP), split by city.

    python -m benchmarks.naip --input=DIR --output=naip.jsonl
    python -m rsclip_jax.prepare --format=jsonl --input=naip.jsonl --images=DIR --output=data \\
        --name=naip

DIR has metadata.csv (id, city, n_trees, mean_ndvi), rgb/ID.jpg and nir/ID.jpg. Three cities become
`train`, one `val`, one `test`: neighbouring images must not lie on both sides.

The short captions say how many trees were counted and how much grows there (mean NDVI). The
infrared captions say what is measured in the infrared image: brightness, contrast, edges, bright
and dark shares. As FusionRS's, they name no colours and claim nothing physical. The words are of
equal steps of the measured values, and nothing is random. The city is not named: within a test it
is the same for all.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from rsclip_jax.data import images

SPLITS = {"claremont": "val", "riverside": "test"}  # the other three: train

# (below this value, these words); the last words are for all above.
Steps = Sequence[tuple[float, str]]
INF = float("inf")
TREES: Steps = (
    (10, "hardly any trees"),
    (25, "few trees"),
    (40, "some trees"),
    (55, "quite a few trees"),
    (70, "many trees"),
    (85, "very many trees"),
    (INF, "trees almost everywhere"),
)
PLANTS: Steps = (
    (-0.12, "almost no vegetation"),
    (-0.06, "very sparse vegetation"),
    (0.0, "sparse vegetation"),
    (0.06, "moderate vegetation"),
    (0.12, "plenty of vegetation"),
    (INF, "dense vegetation"),
)
BRIGHTNESS: Steps = (  # mean grey level, of 255
    (100, "very dark"),
    (110, "dark"),
    (120, "medium dark"),
    (130, "medium bright"),
    (140, "bright"),
    (INF, "very bright"),
)
CONTRAST: Steps = (  # standard deviation of the grey level
    (24, "very low contrast"),
    (30, "low contrast"),
    (36, "medium contrast"),
    (42, "high contrast"),
    (INF, "very high contrast"),
)
EDGES: Steps = (  # mean length of the grey level's gradient, per pixel
    (7, "smooth areas with hardly any outlines"),
    (9, "few outlines"),
    (11, "moderately fine texture"),
    (13, "fine texture"),
    (INF, "dense outlines and very fine texture"),
)
BRIGHT, DARK = 170, 60  # grey levels
SHARE: Steps = (  # of the pixels that are brighter, or darker
    (0.01, "no"),
    (0.04, "tiny"),
    (0.08, "small"),
    (0.16, "large"),
    (INF, "very large"),
)


def main(argv: list[str]) -> None:
    """Write a JSONL row for each image pair."""
    del argv
    values = flags.FLAGS
    try:
        rows = manifest(Path(values.input))
    except (OSError, ValueError) as error:
        sys.exit(f"naip: {error}")
    Path(values.output).write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    for split in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == split]
        distinct = [len({row[field][0] for row in own}) for field in ("captions", "ir_captions")]
        print(f"{split}: {len(own)} pairs, {distinct[0]} short and {distinct[1]} infrared captions")


def manifest(directory: Path) -> list[dict]:
    """Return the rows of DIR/metadata.csv as `rsclip_jax.prepare --format=jsonl` reads them.

    Raises:
      ValueError: metadata.csv lacks a column, or an infrared image cannot be decoded.
      FileNotFoundError: metadata.csv or an infrared image is not there.
    """
    with (directory / "metadata.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"id", "city", "n_trees", "mean_ndvi"} - set(reader.fieldnames or ()):
            raise ValueError(f"{file.name}: no column {', '.join(sorted(missing))}")
        rows = list(reader)
    return [_row(directory, row) for row in rows]


def _row(directory: Path, row: Mapping[str, str]) -> dict:
    ir = f"nir/{row['id']}.jpg"
    grey = images.decode((directory / ir).read_bytes())[..., 0]
    return {
        "id": row["id"],
        "image": f"rgb/{row['id']}.jpg",
        "ir": ir,
        "captions": captions(float(row["n_trees"]), float(row["mean_ndvi"])),
        "ir_captions": ir_captions(grey, float(row["n_trees"])),
        "split": SPLITS.get(row["city"], "train"),
        "source": row["city"],
    }


def captions(trees: float, ndvi: float) -> list[str]:
    """Return two captions of the counted trees and the mean vegetation index (-1 to 1)."""
    counted = f"about {10 * round(trees / 10)} trees" if trees >= 10 else "fewer than ten trees"
    return [
        f"an aerial photograph of a neighbourhood with {say(TREES, trees)} and "
        f"{say(PLANTS, ndvi)}.",
        f"{counted} and {say(PLANTS, ndvi)}, seen from above.",
    ]


def ir_captions(grey: np.ndarray, trees: float) -> list[str]:
    """Return two captions of an infrared image, uint8 [H, W], where trees were counted."""
    level = grey.astype(float)
    dy, dx = np.gradient(level)
    tone = f"{say(BRIGHTNESS, level.mean())} overall, {say(CONTRAST, level.std())}"
    texture = say(EDGES, float(np.hypot(dy, dx).mean()))
    bright, dark = (say(SHARE, float(np.mean(part))) for part in (level > BRIGHT, level < DARK))
    return [
        f"a near-infrared aerial image of a neighbourhood with {say(TREES, trees)}: {tone}, "
        f"{texture}.",
        f"near infrared, {tone}: {bright} bright areas and {dark} dark areas among {texture}.",
    ]


def say(steps: Steps, value: float) -> str:
    """Return the words of the step that a value lies in."""
    return next(words for end, words in steps if value < end)


def define_flags() -> None:
    """Define the flags of the command; not on import, where a test would meet them."""
    flags.DEFINE_string("input", None, "Directory with metadata.csv, rgb/ and nir/.", required=True)
    flags.DEFINE_string("output", None, "JSONL file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
