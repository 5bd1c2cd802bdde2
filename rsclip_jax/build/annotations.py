"""Annotations of objects, as detection and segmentation sets have them, to a table with boxes.

    python -m rsclip_jax.build.annotations --format=voc --input=DIOR/Annotations \\
        --images=DIOR/JPEGImages --output=dior.jsonl

    voc     --input is a folder of XML files, one of each image and named like it.
    yolo    of text files; --names are the classes, from 0.
    mask    of images whose pixels are class numbers; --names likewise, and classes that are no
            objects (background) have no name: --names=,building,road. Each connected part is one.
    coco    --input is the JSON file.

The table's rows are {"image", "captions": [], "boxes": [[label, left, top, right, bottom], ...]},
the boxes in fractions of the image. LRS2M's pipeline (--config.sources.det10.path=dior.jsonl,
--config.sources.det10.images) makes captions of them by RemoteCLIP's rules, and
`rsclip_jax.build.caption --task=rewrite` by a language model.
"""

import argparse
import collections
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
from PIL import Image
from tqdm import tqdm

from rsclip_jax import host
from rsclip_jax.build import boxes, files
from rsclip_jax.data.header import read_header
from rsclip_jax.data.pillow import open_image
from rsclip_jax.data.sources import IMAGE_SUFFIXES, find_file, read_file

_UNUSABLE = (
    *(OSError, ValueError, LookupError, TypeError, OverflowError),
    *(ParseError, Image.DecompressionBombError),
)
FORMATS = {"voc": (".xml",), "yolo": (".txt",), "mask": tuple(IMAGE_SUFFIXES), "coco": (".json",)}
Annotated = tuple[str, Callable[[], list[boxes.Box]]]  # an image's name, how its boxes are read


def write_table(
    form: str,
    input_path: str,
    images: str,
    names: Sequence[str],
    output: str,
    follow_links: bool = False,
) -> str:
    """Write the table; return what was written and left out.

    Args:
      form: one of FORMATS, see above; and so the rest.
      follow_links: see `sources.read_file`.

    Raises:
      OSError, ValueError: input, images or names that are not there, or nothing to write.
    """
    if (form in ("yolo", "mask")) != bool(names):
        raise ValueError(f"--names: the classes, of yolo and mask only (--format={form})")
    if not os.path.isdir(images):
        raise FileNotFoundError(f"--images={images}: no such folder")
    if os.path.isdir(output):
        raise ValueError(f"--output={output} is a directory: give the name of a JSONL file")
    annotated = (
        _coco(input_path)
        if form == "coco"
        else _folder(form, input_path, images, names, follow_links)
    )
    root, lines, count = os.path.realpath(images), [], 0
    for image, read in tqdm(annotated, unit=" images", delay=1):
        try:
            find_file(root, image, follow_links)
            found = read()
        except _UNUSABLE as error:
            print(f"{image}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        count += len(found)
        lines.append(json.dumps({"image": image, "captions": [], **boxes.boxes_to_meta(found)}))
    if not lines:
        raise ValueError(f"--input={input_path}: no annotation can be used, of {len(annotated):,}")
    files.write(output, "".join(f"{line}\n" for line in lines).encode())
    left_out = len(annotated) - len(lines)
    return f"{len(lines):,} images, {count:,} boxes, {left_out:,} images left out"


def _folder(
    form: str, folder: str, images: str, names: Sequence[str], follow_links: bool
) -> list[Annotated]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"--input={folder}: no such folder")
    parse = {"voc": _voc, "yolo": _yolo, "mask": _mask}[form]
    root = os.path.realpath(folder)

    def boxes_of(name: str) -> list[boxes.Box]:
        return parse(read_file(root, name, follow_links), names)

    by_stem = {os.path.splitext(name)[0]: name for name in _listed(images, tuple(IMAGE_SUFFIXES))}
    return [
        (by_stem.get(stem, stem), functools.partial(boxes_of, name))
        for name in _listed(folder, FORMATS[form])
        if (stem := os.path.splitext(name)[0])
    ]


def _listed(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths below a folder of files with a suffix, in order, relative to it."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                yield os.path.relpath(os.path.join(place, name), folder)


def _voc(data: bytes, names: Sequence[str]) -> list[boxes.Box]:
    del names
    return boxes.boxes_from_voc(data)


def _yolo(data: bytes, names: Sequence[str]) -> list[boxes.Box]:
    return boxes.boxes_from_yolo(data.decode(), names)


def _mask(data: bytes, names: Sequence[str]) -> list[boxes.Box]:
    read_header(data)  # checks the limits
    with open_image(data) as file:
        mask = np.asarray(file)  # of a palette its numbers, not its colours
    if mask.ndim != 2:
        raise ValueError("expected an image of one channel, whose pixels are class numbers")
    return boxes.mask_to_boxes(mask, {n: name for n, name in enumerate(names) if name})


def _coco(path: str) -> list[Annotated]:
    if files.is_local(path):
        host.regular_file(Path(path))
    try:
        document: dict[str, Any] = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one of the former
        raise ValueError(f"--input={path} is damaged, no JSON in UTF-8: {error}") from error
    if not isinstance(document, dict) or not {"images", "annotations", "categories"} <= set(
        document
    ):
        raise ValueError(f"--input={path}: expected COCO's images, annotations and categories")
    try:
        names = {category["id"]: category.get("name") for category in document["categories"]}
        of = collections.defaultdict(list)
        for annotation in document["annotations"]:
            of[annotation["image_id"]].append(annotation)
        ids = collections.Counter(image["id"] for image in document["images"])
        annotated: list[Annotated] = [
            (
                str(image.get("file_name")),
                functools.partial(_coco_boxes, of.pop(image["id"], []), names, image),
            )
            for image in document["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--input={path} is not written as COCO's files are: {error!r}") from error
    if repeated := [number for number, count in ids.items() if count > 1]:
        raise ValueError(
            f"--input={path}: {len(repeated):,} ids are those of several images ({repeated[0]!r} "
            "first), so that nothing tells whose an annotation is: number the images anew"
        )
    if of:
        print(
            f"{sum(map(len, of.values())):,} annotations are of no image in {path}", file=sys.stderr
        )
    return annotated


def _coco_boxes(annotations: list, names: dict, image: dict) -> list[boxes.Box]:
    return boxes.boxes_from_coco(annotations, names, image["width"], image["height"])


def main(argv: Sequence[str]) -> None:
    """Run the command with its arguments (without the program's name)."""
    parser = argparse.ArgumentParser(
        "python -m rsclip_jax.build.annotations",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--input", required=True, help="folder of annotations, or COCO's file")
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument("--names", default="", help="classes from 0, separated by commas")
    parser.add_argument("--output", required=True, help="JSONL file")
    parser.add_argument(
        "--follow_links", action="store_true", help="read what links below the folders point to"
    )
    args = parser.parse_args(argv)
    host.printable_output()
    names = [name.strip() for name in args.names.split(",")] if args.names else []
    told = write_table(args.format, args.input, args.images, names, args.output, args.follow_links)
    print(f"{args.output}: {told}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, KeyError) as wrong_input:
        sys.exit(f"annotations: {wrong_input}")
