"""Where the images of a table lie: as it says below the image root, or in folders there."""

import glob
import itertools
import os
from collections.abc import Sequence
from typing import Any

from rsclip_jax.data.class_names import words
from rsclip_jax.data.columns import Columns
from rsclip_jax.data.sources import IMAGE_SUFFIXES, InputError, is_image_name, some
from rsclip_jax.data.splits import usual_name

Row = dict[str, Any]
_MOST_FOLDERS = 10_000  # looked through for a hint


class ImageRoot:
    """The directory of a table's images, and how its paths lead to them.

    If it holds none of the first images, they are looked for in folders of it: in that which
    another column names (the class of NWPU-Captions, `filepath` of Karpathy's COCO); if there are
    none either, in those called like the split (COCO's `train2017`); else in whichever has it.

    Attributes:
      path: resolved.
      column: that names the folders; None: there is none.
      slashes: whether backslashes of paths stand for slashes, as in tables written on Windows.

    Args:
      path: an existing directory.
      rows: the first ones, each (row, split of its file).
      columns: role -> columns.

    Raises:
      InputError: none of the first images is there.
    """

    def __init__(self, path: str, rows: Sequence[tuple[Row, str]], columns: Columns):
        self.path = os.path.realpath(path)
        image, *_ = columns["image"]
        split_column, *_ = columns.get("split", ("",))
        self.slashes = False
        paths = [
            path
            for row, _ in rows
            for column in (image, *columns.get("ir", ()))
            if isinstance(path := self.mended(row.get(column)), str) and "\\" in path
        ]
        self.slashes = bool(paths) and not any(map(self._has, paths))
        rows = [
            ({**row, image: name}, str(row.get(split_column) or split))
            for row, split in rows
            if isinstance(name := self.mended(row.get(image)), str) and name
        ]
        names = [self.mended(row[image]) for row, _ in rows]
        self._suffix = ""
        self._folders: list[str] | None = None  # None: images lie where the table says
        self.column: str | None = None
        self._by_split = False
        if not rows or any(map(self._has, names)):
            return  # without looking through what may be a million files
        with os.scandir(self.path) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir())
        # "baseball diamond" may lie in `baseball_diamond`.
        self._named = {words(folder).lower(): folder for folder in folders}
        self._named |= {folder: folder for folder in folders}
        others = dict.fromkeys(columns.get("label", ()))
        others |= dict.fromkeys(name for row, _ in rows for name in row)
        others.pop(split_column, None)
        ways: list[tuple[list[str] | None, str | None, bool]] = [
            (None, None, False),
            *((folders, name, False) for name in others),
            (folders, None, True),
            (folders, None, False),
        ]
        suffixes = () if any(map(is_image_name, names)) else sorted(IMAGE_SUFFIXES)
        for self._suffix, (self._folders, self.column, self._by_split) in itertools.product(
            ("", *suffixes), ways
        ):
            if any(
                self._has(place)
                for name, (row, split) in zip(names, rows, strict=True)
                for place in self._places(name, row, split)
            ):
                return
        name = names[0]
        raise InputError(
            f"none of the first {len(rows)} images of column {image!r} is in {self.path} or a "
            f"folder there (such as {name!r}); {self._how_to_find(name)}"
        )

    def notes(self) -> list[str]:
        """Tell what was guessed."""
        notes = ["backslashes in paths are read as slashes"] if self.slashes else []
        if self._suffix:
            notes.append(f"names of images have no suffix and are read with {self._suffix}")
        if self._folders is not None:
            how = "called like its split" if self._by_split else "that has it"
            how = how if self.column is None else f"that column {self.column!r} names"
            notes.append(f"no image is in {self.path} itself: each is taken from the folder {how}")
        return notes

    def mended(self, cell: Any) -> Any:
        """Return the path of a cell; objects such as Hugging Face's {"path": ...} have one."""
        if isinstance(cell, dict) and not cell.get("bytes"):
            cell = cell.get("path", cell)
        return cell.replace("\\", "/") if self.slashes and isinstance(cell, str) else cell

    def find(self, name: str, row: Row, split: str) -> str:
        """Return the path below the root of the image that a row calls `name`.

        Raises:
          ValueError: several folders have one of this name; the message is the reason to skip it.
        """
        places = self._places(name, row, split)
        if len(places) != 1:
            places = [place for place in places if self._has(place)] or [name]
        if len(places) > 1:
            raise ValueError(f"image name in several folders: {some(places)}")
        return places[0]

    def _places(self, name: str, row: Row, split: str) -> list[str]:
        """Return where the image may lie."""
        if self._suffix and not is_image_name(name):
            name += self._suffix
        if self._folders is None:
            return [name]
        folders = self._folders
        if self.column is not None:
            cell = str(row.get(self.column, "")).strip()
            folders = [self._named.get(cell) or self._named.get(words(cell).lower(), cell)]
        elif self._by_split:
            folders = [folder for folder in folders if usual_name(folder) == usual_name(split)]
        return [os.path.join(folder, name) for folder in folders]

    def _has(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.path, path))

    def _how_to_find(self, name: str) -> str:
        if "\0" in name:
            return "no file is called so"
        if "://" in name:
            return "fetch what URLs point to first: img2dataset writes tars for --format=webdataset"
        like = glob.glob(f"{glob.escape(os.path.join(self.path, os.path.splitext(name)[0]))}.*")
        if images := sorted(filter(is_image_name, like)):
            there = os.path.relpath(images[0], self.path)
            return f"there is {there!r}: write names with the suffixes of their files"
        for directory, _, files in itertools.islice(os.walk(self.path), _MOST_FOLDERS):
            if os.path.basename(name) in files:
                there = os.path.relpath(os.path.join(directory, os.path.basename(name)), self.path)
                return f"there is {there!r}: give the directory that paths go on from with --images"
        return "give their directory with --images"
