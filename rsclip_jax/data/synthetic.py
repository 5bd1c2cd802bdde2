"""Synthetic overhead scenes: the data of the embedded demo, drawn from a seed.

One description (a `Scene`) gives the colour image, the pixel-aligned infrared image, three short
captions, a long one and an infrared one. Scene number i of a seed never depends on how many others
are drawn. Write a data set with

    python -m rsclip_jax.data.synthetic --output=DIR --name=scenes --train=2048 --val=256

Infrared is near infrared, or thermal with --infrared=thermal: the same scenes and colour images.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from absl import app, flags

from rsclip_jax.data import records
from rsclip_jax.data.scenes.canvas import SIDE, develop
from rsclip_jax.data.scenes.captions import captions, ir_caption, long_caption
from rsclip_jax.data.scenes.description import KINDS, Scene, describe
from rsclip_jax.data.scenes.drawing import paint
from rsclip_jax.data.scenes.palette import INFRARED

__all__ = [
    "LABELS",
    "Scene",
    "captions",
    "describe",
    "example",
    "ir_caption",
    "long_caption",
    "render",
    "render_ir",
    "write_scenes",
]

LABELS = tuple(KINDS)
VAL_START = 1_000_000  # validation scenes are numbered from here on
JPEG_QUALITY = 92
_THERMAL = "thermal infrared"  # in the description of a data set


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """Draw the colour image, uint8 [size, size, 3] RGB."""
    return develop(paint(scene), scene, _checked(size))[0]


def render_ir(scene: Scene, size: int = 128, infrared: str = "near") -> np.ndarray:
    """Draw the infrared image, uint8 [size, size], aligned with `render` to the pixel."""
    return develop(paint(scene), scene, _checked(size), _known(infrared))[1]


def example(seed: int, index: int, size: int = 128, infrared: str = "near") -> dict[str, Any]:
    """Return scene number `index` as a record for `records.write_dataset`.

    Args:
      seed, index: whole numbers >= 0.
      size: side of both images in pixels.
      infrared: "near" or "thermal".
    """
    scene = describe(seed, index)
    colour, ir = develop(paint(scene), scene, _checked(size), _known(infrared))
    return {
        "id": f"scene_{index:06d}",
        "image": simplejpeg.encode_jpeg(colour, JPEG_QUALITY, "RGB", "444"),
        "ir": simplejpeg.encode_jpeg(ir[..., None], JPEG_QUALITY, "GRAY"),
        "captions": captions(scene),
        "long_captions": [long_caption(scene)],
        "ir_captions": [ir_caption(scene, infrared)],
        "label": scene.kind,
        "source": "synthetic",
    }


def write_scenes(
    data_dir: str | os.PathLike,
    name: str = "scenes",
    train: int = 2048,
    val: int = 256,
    seed: int = 0,
    size: int = 128,
    infrared: str = "near",
) -> Path:
    """Write the data set DATA_DIR/NAME with the splits "train" and "val".

    Args:
      train, val: number of scenes; the scenes of the two splits are numbered apart.
      seed: another seed gives other scenes.
      size: side of the images in pixels.
      infrared: "near" or "thermal", of the infrared images and their captions.

    Returns:
      The directory of the data set.

    Raises:
      ValueError: no scenes, more than 1,000,000 to train on, an impossible size, no such infrared.
      FileExistsError: the data set exists.
    """
    if not 0 < train <= VAL_START or val < 1:
        raise ValueError(
            f"train={train} must lie in 1..{VAL_START} and val={val} be at least 1: change "
            "--train or --val"
        )
    _checked(size)
    _known(infrared)

    def examples(start: int, count: int) -> Iterator[dict[str, Any]]:
        return (example(seed, index, size, infrared) for index in range(start, start + count))

    return records.write_dataset(
        data_dir,
        name,
        {"train": examples(0, train), "val": examples(VAL_START, val)},
        description=f"Synthetic overhead scenes, seed {seed}, {size} x {size} pixels, "
        f"{_THERMAL if infrared == 'thermal' else 'near infrared'}.",
    )


def check_infrared(data_dir: str | os.PathLike, name: str, infrared: str) -> None:
    """Check that a data set that `write_scenes` has written is in this infrared.

    Raises:
      ValueError: it is in the other one, or there is no such infrared.
    """
    info = Path(data_dir) / name / records.VERSION / "dataset_info.json"
    if not info.exists():  # whoever opens it says what is wrong
        return
    thermal = _THERMAL in json.loads(info.read_text(encoding="utf-8"))["description"]
    if (_known(infrared) == "thermal") != thermal:
        there = "thermal" if thermal else "near"
        raise ValueError(
            f"config.scenes.infrared={infrared!r}, but {info.parent} holds scenes in the {there} "
            f"infrared: set config.scenes.infrared={there}, or remove it to draw others"
        )


def _checked(size: int) -> int:
    if not 16 <= size <= SIDE:
        raise ValueError(f"size={size}: scenes can be drawn 16 to {SIDE} pixels wide, see --size")
    return size


def _known(infrared: str) -> str:
    if infrared not in INFRARED:
        raise ValueError(f"infrared={infrared!r}: expected one of {', '.join(INFRARED)}")
    return infrared


def _main(_) -> None:
    directory = write_scenes(
        _OUTPUT.value,
        _NAME.value,
        _TRAIN.value,
        _VAL.value,
        _SEED.value,
        _SIZE.value,
        _INFRARED.value,
    )
    print(f"{_TRAIN.value} + {_VAL.value} scenes written to {directory}")


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", None, "Directory of the data sets.", required=True)
    _NAME = flags.DEFINE_string("name", "scenes", "Name of the data set.")
    _TRAIN = flags.DEFINE_integer("train", 2048, "Scenes to train on.")
    _VAL = flags.DEFINE_integer("val", 256, "Held-out scenes.")
    _SEED = flags.DEFINE_integer("seed", 0, "Another seed, other scenes.")
    _SIZE = flags.DEFINE_integer("size", 128, "Side of the images in pixels.")
    _INFRARED = flags.DEFINE_enum("infrared", "near", INFRARED, "What the infrared images show.")
    app.run(_main)
