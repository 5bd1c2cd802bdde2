"""Scenes for semantic localisation made of the tiles of a data set, in AIR-SLT's file layout.

    python -m benchmarks.mosaics --data=DIR --name=rsicd --split=test --output=DIR

AIR-SLT's own scenes cannot always be had. A scene here is a square of tiles, each enlarged to 256
pixels. One rectangle of it shows tiles of one class, the others tiles of other classes, and the
query is a caption of a tile in the rectangle: what it describes, and where that is, is known.
Writes OUTPUT/AIR-SLT/annotations/anno.json and OUTPUT/AIR-SLT/imgs/, which `rsclip_jax.evaluate
--suite=georsclip --data=OUTPUT` reads.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from absl import app, flags

from rsclip_jax.data import images, records

_DATA = flags.DEFINE_string("data", "data", "Directory of the data sets.")
_NAME = flags.DEFINE_string("name", "rsicd", "Data set with labels and captions.")
_SPLIT = flags.DEFINE_string("split", "test", "Its split.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory that AIR-SLT is made in.", required=True)
_SCENES = flags.DEFINE_integer("scenes", 12, "How many scenes.")
_TILES = flags.DEFINE_integer("tiles", 10, "Tiles along the side of a scene.")

TILE = 256
REGION = (2, 4)  # tiles along a side of the rectangle, at least and at most


def main(_: Sequence[str]) -> None:
    """Draw the scenes and write the annotations."""
    source = records.open_source(_DATA.value, _NAME.value, _SPLIT.value)
    make(source, Path(_OUTPUT.value) / "AIR-SLT", _SCENES.value, _TILES.value)


def make(source: records.RecordSource, output: Path, scenes: int, tiles: int) -> None:
    """Write `scenes` scenes of `tiles` x `tiles` records each, with one query for each."""
    (output / "imgs").mkdir(parents=True, exist_ok=True)
    (output / "annotations").mkdir(exist_ok=True)
    by_label: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(source):
        by_label[record["label"]].append(index)
    rng = np.random.default_rng(0)
    queries = []
    for number in range(scenes):
        height, width = rng.integers(REGION[0], REGION[1] + 1, 2)
        fitting = sorted(label for label, own in by_label.items() if len(own) >= height * width)
        label = fitting[rng.integers(len(fitting))]
        others = [i for other, own in by_label.items() if other != label for i in own]
        grid = rng.choice(others, (tiles, tiles), replace=len(others) < tiles**2)
        y, x = rng.integers(0, tiles - np.array([height, width]) + 1)
        shown = rng.choice(by_label[label], (height, width), replace=False)
        grid[y : y + height, x : x + width] = shown
        scene = np.concatenate(
            [np.concatenate([_tile(source[int(i)]) for i in row], axis=1) for row in grid]
        )
        name = f"{number}.jpg"
        cv2.imwrite(str(output / "imgs" / name), scene[..., ::-1])
        left, top, right, bottom = TILE * np.array([x, y, x + width, y + height])
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        queries.append(
            {
                "caption": source[int(shown[0, 0])]["captions"][0],
                "jpg_name": name,
                "points": [np.array(corners, float).tolist()],
            }
        )
    (output / "annotations" / "anno.json").write_text(json.dumps(queries, indent=1))


def _tile(record: dict) -> np.ndarray:
    return images.eval_preprocess(images.decode(record["image"]), TILE)


if __name__ == "__main__":
    app.run(main)
