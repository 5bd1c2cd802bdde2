"""Infrared views of rows that came without: the outputs of any translator, in a directory.

The image of the row with id ID is the file DIRECTORY/ID with the suffix .png, .jpg, .jpeg, .webp,
.tif or .tiff appended (an ID like "rsicd/a.jpg" may also be the file's whole name). FusionRS used
DiffV2IR. A translator reads the list that `write_translation_list` makes; it is told nothing else.
"""

import dataclasses
import functools
import json
import posixpath
from pathlib import Path

import apache_beam as beam

from rsclip_jax.build import files
from rsclip_jax.build.image_checks import check_infrared
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, Stage, Table, each_row

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def write_translation_list(table: Table, path: str) -> int:
    """List the rows without an infrared image as JSON lines; return how many.

    A line is {"id", "image", "ir"}: `image` as `files.read_image` takes it, `ir` the file to write
    below the translator's directory.
    """
    lines = [
        json.dumps({"id": row["id"], "image": row["image"], "ir": f"{row['id']}{SUFFIXES[0]}"})
        for row in table.read(["id", "image", "ir"])
        if not row["ir"]
    ]
    if lines:
        files.write(path, "".join(f"{line}\n" for line in sorted(lines)).encode())
    return len(lines)


def find_view(directory: str, name: str) -> str:
    """Return the path of a row's infrared view, "" if there is none."""
    if ".." in name.split("/"):  # would lead out of it
        return ""
    whole = ("",) if posixpath.splitext(name)[1].lower() in SUFFIXES else ()
    paths = (files.join(directory, f"{name}{suffix}") for suffix in (*SUFFIXES, *whole))
    return next(filter(files.exists, paths), "")


def infrared_stage(directory: str, max_pixels: int) -> Stage:
    """Return the stage that gives rows their infrared image; see `Infrared`."""
    settings = {"state": files.tree_state(directory)} if directory else {}
    return Stage(
        "infrared", Infrared(directory, max_pixels), column="with infrared", settings=settings
    )


@dataclasses.dataclass
class Infrared(beam.PTransform):
    """Give rows without an infrared image, whose images were checked, the one of a translator.

    Those without either go.

    Attributes:
      directory: of its outputs, "" if there are none.
      max_pixels: see `CheckImages`.
    """

    directory: str
    max_pixels: int

    def expand(self, rows):
        return rows | each_row(functools.partial(with_infrared, **dataclasses.asdict(self)))


def with_infrared(row: Row, directory: str, max_pixels: int) -> Row:
    """Return the row with an infrared image and its hashes.

    Raises:
      Drop: there is none, or it cannot be used.
    """
    if row["ir"]:
        return row
    path = find_view(directory, row["id"]) if directory else ""
    if not path:
        raise Drop("no infrared image")
    if files.is_local(path) and not Path(path).resolve().is_relative_to(Path(directory).resolve()):
        raise Drop(f"infrared image leaves {directory} by a link (copy it there): {row['id']!r}")
    return check_infrared(row | {"ir": path}, max_pixels)
