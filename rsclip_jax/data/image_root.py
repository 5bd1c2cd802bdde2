"""Where the images of a table lie: as it says below the image root, or in folders there."""

import glob
import os
from collections.abc import Sequence
from typing import Any

from rsclip_jax.data.columns import Columns
from rsclip_jax.data.sources import InputError, is_image_name, some
from rsclip_jax.data.splits import usual_name

Row = dict[str, Any]


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

    def __init__(
        self,
        path: str,
        rows: Sequence[tuple[Row, str]],
        columns: Columns,
    ):
        self.path = os.path.realpath(path)
        image, *_ = columns["image"]
        split_column, *_ = columns.get("split", ("",))
        self.column: str | None = None
        self._by_split = False
        self._folders: list[str] | None = None  # None: images lie where the table says
        self.slashes = False
        rows = [
            ({**row, image: name}, str(row.get(split_column) or split))
            for row, split in rows
            if isinstance(name := self.mended(row.get(image)), str) and name
        ]
        names = [row[image] for row, _ in rows]
        if not rows or any(map(self._has, names)):
            return
        self.slashes = any("\\" in name for name in names)
        names = [self.mended(name) for name in names]
        if any(map(self._has, names)):
            return
        with os.scandir(self.path) as entries:
            self._folders = sorted(entry.name for entry in entries if entry.is_dir())
        others = dict.fromkeys(columns.get("label", ()))
        others |= dict.fromkeys(name for row, _ in rows for name in row)
        others.pop(split_column, None)
        for self.column, self._by_split in (
            *((c, False) for c in others),
            (None, True),
            (None, False),
        ):
            for name, (row, split) in zip(names, rows, strict=True):
                if any(self._has(os.path.join(f, name)) for f in self._where(row, split)):
                    return
        name = names[0]
        raise InputError(
            f"none of the first {len(rows)} images of column {image!r} is in {self.path} or a "
            f"folder there (such as {name!r}); {self._how_to_find(name)}"
        )

    def notes(self) -> list[str]:
        """Tell what was guessed."""
        notes = ["backslashes in paths are read as slashes"] if self.slashes else []
        if self._folders is None:
            return notes
        how = "that has it"
        if self.column is not None:
            how = f"that column {self.column!r} names"
        elif self._by_split:
            how = "called like its split"
        return [*notes, f"no image is in {self.path} itself: each is taken from the folder {how}"]

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
        if self._folders is None:
            return name
        folders = self._where(row, split)
        if len(folders) != 1:
            folders = [folder for folder in folders if self._has(os.path.join(folder, name))]
        if len(folders) > 1:
            raise ValueError(f"image name in several folders: {name!r} in {some(folders)}")
        return os.path.join(*folders, name)

    def _where(self, row: Row, split: str) -> list[str]:
        assert self._folders is not None
        if self.column is not None:
            return [str(row.get(self.column, "")).strip()]
        wanted = usual_name(split)
        return [f for f in self._folders if not self._by_split or usual_name(f) == wanted]

    def _has(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.path, path))

    def _how_to_find(self, name: str) -> str:
        if "://" in name:
            return "fetch what URLs point to first: img2dataset writes tars for --format=webdataset"
        for stem in (name, os.path.splitext(name)[0]):
            like = glob.glob(f"{glob.escape(os.path.join(self.path, stem))}.*")
            if images := sorted(filter(is_image_name, like)):
                there = os.path.relpath(images[0], self.path)
                return f"there is {there!r}: write names with the suffixes of their files"
        return "give their directory with --images"
