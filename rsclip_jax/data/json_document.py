"""JSON documents that hold all rows of a table, as the field's caption files are distributed.

    {"images": [{"filename": ..., "sentences": [{"raw": ...}, ...]}, ...], "dataset": "rsicd"}
    {"images": [{"id": 1, "file_name": ...}, ...],
     "annotations": [{"image_id": 1, "caption": ...}, ...], "info": ...}
    {"airplane": [{"filename": ..., "raw": ..., "raw_1": ...}, ...], "airport": [...], ...}
    [{"filename": ..., "captions": [...]}, ...]
    {"image": ..., "caption": ..., "objects": [...]}

The first is Karpathy's form (RSICD, RSITMD, UCM-captions, Sydney-captions). The second is COCO's:
an image gets what the objects with its `image_id` say, lists of values where there are several. The
third is that of NWPU-Captions, whose rows get their class as the column "class"; keys that are
called like splits (`splits.is_split`) become the column "split", and a single other key with rows
names no class. Lists without any object are passed over. The last is one row (VRSBench has a file
for each image).
"""

import collections
import itertools
import json
import os
import pickle
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsclip_jax import atomic
from rsclip_jax.data.cells import TOO_DEEP, is_too_deep
from rsclip_jax.data.sources import InputError, is_image_name, some
from rsclip_jax.data.splits import is_split
from rsclip_jax.data.text_files import wrong_encoding

ROWS_KEY, IMAGE_ID = "images", "image_id"
CLASS_COLUMN, SPLIT_COLUMN = "class", "split"
MAX_GUESS_BYTES = 2**30
_CHUNK_ROWS = 100
_SPOOL_BYTES = 2**20  # of rows are kept in memory
# (where, row or the reason why it is none, bytes read)
Row = tuple[str, dict[str, Any] | str, int]


class Documents:
    """Documents in one encoding, each parsed once: later its rows come from a temporary file.

    So only one lies in memory at a time, and none while the images are read.
    """

    def __init__(self, encoding: str):
        self._encoding = encoding
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)
        weakref.finalize(self, self._file.close)
        self._places: dict[Path, list[tuple[int, int]]] = {}  # (offset, size) of its rows' chunks
        self._only_key: dict[str, list[str]] = {}  # -> documents whose rows all lie under it
        self._unused: collections.Counter[str] = collections.Counter()

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield the rows of a document.

        Raises:
          InputError: a file that is not in the encoding, not JSON, cut off, or holds no rows.
        """
        if path not in self._places:
            self._places[path] = self._parse(path)
        for offset, size in self._places[path]:
            self._file.seek(offset)
            yield from pickle.loads(self._file.read(size))

    def notes(self) -> list[str]:
        """Tell which lists and objects of the documents are not used, and what is guessed."""
        lengths = [f"{key} ({count:,})" for key, count in self._unused.most_common() if count]
        guesses = [
            f"{some(names)}: all rows lie under {key!r}, which is taken for no class"
            for key, names in self._only_key.items()
        ]
        unused = [f"parts of the JSON document that are not used: {some(lengths)}"]
        return [*guesses, *unused] if lengths else guesses

    def _parse(self, path: Path) -> list[tuple[int, int]]:
        document = _load(path, self._encoding)
        if _is_row(document):
            document = [document]
        lists = row_lists(document)
        if lists is None:
            raise InputError(
                f'{path} holds no rows: a list of objects, {{"{ROWS_KEY}": [objects]}}, '
                '{"CLASS": [objects], ...} or an object with the name of its image is expected'
            )
        told = _told_of_images(document)
        self._note(path, document, lists, told)
        places = []
        rows = _rows(path, lists, told)
        while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
            data = pickle.dumps(chunk)
            self._file.seek(0, os.SEEK_END)
            places.append((self._file.tell(), len(data)))
            with atomic.writing(tempfile.gettempdir()):
                self._file.write(data)
        return places

    def _note(self, path: Path, document: Any, lists: dict[str, list], told: dict) -> None:
        for key in lists.keys() - {"", ROWS_KEY}:
            if len(lists) == 1 and not is_split(key):
                self._only_key.setdefault(key, []).append(path.name)
        for key, of in document.items() if isinstance(document, dict) else ():
            if key not in lists and key not in told and isinstance(of, list | dict):
                self._unused[key] += len(of)


def _rows(path: Path, lists: dict[str, list], told: dict[str, list]) -> Iterator[Row]:
    lost: list = []
    if told:
        lists[ROWS_KEY], lost = _joined(lists[ROWS_KEY], told)
    size = path.stat().st_size
    count = sum(map(len, lists.values()))
    index = 0
    for key, rows in lists.items():
        for number, row in enumerate(rows):
            index += 1
            yield (
                f"{path.name}:{key}[{number}]",
                _row(row, key, len(lists) > 1),
                size * index // count,
            )
    for item in lost:
        yield path.name, f"no image has its {IMAGE_ID}: {item!r:.80}", size


def _told_of_images(document: Any) -> dict[str, list]:
    """Return the lists beside that of the images whose objects have an `image_id`, by their key."""
    if not isinstance(document, dict) or not isinstance(document.get(ROWS_KEY), list):
        return {}
    return {
        key: of
        for key, of in document.items()
        if key != ROWS_KEY
        and isinstance(of, list)
        and any(isinstance(item, dict) and IMAGE_ID in item for item in of)
    }


def _joined(images: list, told: dict[str, list]) -> tuple[list, list]:
    """Give each image what is told of it; return the images, and what is told of none."""
    of_image = collections.defaultdict(list)
    for items in told.values():
        for item in items:
            image_id = item.get(IMAGE_ID) if isinstance(item, dict) else None
            of_image[str(image_id)].append(item)  # one of the two may be a text
    rows = []
    for image in images:
        if isinstance(image, dict) and "id" in image:
            values = collections.defaultdict(list)
            for item in of_image.pop(str(image["id"]), ()):
                for name in item.keys() - {"id", IMAGE_ID}:
                    values[name].append(item[name])
            for name in values.keys() & image.keys():
                own = image[name]
                values[name] = (own if isinstance(own, list) else [own][own is None :]) + values[
                    name
                ]
            of_both = {name: of if of[1:] else of[0] for name, of in sorted(values.items())}
            image = of_both | {name: own for name, own in image.items() if name not in of_both}
        rows.append(image)
    return rows, list(itertools.chain.from_iterable(of_image.values()))


def row_lists(document: Any) -> dict[str, list] | None:
    """Find the lists with rows in a document, by their keys ("" for the document itself).

    Returns:
      None if it holds no row.
    """
    if isinstance(document, dict):
        lists = {ROWS_KEY: document[ROWS_KEY]} if ROWS_KEY in document else document
    else:
        lists = {"": document}
    if not all(isinstance(rows, list) for rows in lists.values()):
        return None
    with_rows = {
        key: rows for key, rows in lists.items() if any(isinstance(row, dict) for row in rows)
    }
    return with_rows or None


def _is_row(document: Any) -> bool:
    """Tell whether a document is a single row, as where each image has a file of its own."""
    return isinstance(document, dict) and any(
        isinstance(value, str) and is_image_name(value) for value in document.values()
    )


def is_document(path: Path, encoding: str) -> bool:
    """Tell whether a file is such a document, unless it is too large to be read for a guess."""
    if path.stat().st_size > MAX_GUESS_BYTES:
        return False
    try:
        return row_lists(_load(path, encoding)) is not None
    except InputError:
        return False


def _load(path: Path, encoding: str) -> Any:
    try:
        return json.loads(path.read_text(encoding))
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding) from error
    except (ValueError, RecursionError) as error:
        # What JSON calls extra data is the second object of a file with one object a line.
        mend = (
            "one object a line is --format=jsonl"
            if str(error).startswith("Extra data")
            else "fetch it again if its download was cut off"
        )
        raise InputError(f"{path} is not one JSON document: {error}; {mend}") from error


def _row(row: Any, key: str, several: bool) -> dict[str, Any] | str:
    if not isinstance(row, dict):
        return f"not a JSON object: {row!r:.80}"
    if is_too_deep(row):
        return TOO_DEEP
    column = SPLIT_COLUMN if is_split(key) else CLASS_COLUMN
    if column == CLASS_COLUMN and not several:
        return row
    return {**row, column: row.get(column, key)}
