"""JSON documents that hold all rows of a table, as the field's caption files are distributed.

    {"images": [{"filename": ..., "sentences": [{"raw": ...}, ...]}, ...], "dataset": "rsicd"}
    {"airplane": [{"filename": ..., "raw": ..., "raw_1": ...}, ...], "airport": [...], ...}
    [{"filename": ..., "captions": [...]}, ...]

The first is Karpathy's form (RSICD, RSITMD, UCM-captions, Sydney-captions), the second that of
NWPU-Captions, whose rows get their class as the column "class"; keys that are called like splits
(`splits.SPELLINGS`) become the column "split".
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsclip_jax.data.sources import InputError
from rsclip_jax.data.splits import is_split

ROWS_KEY = "images"
CLASS_COLUMN, SPLIT_COLUMN = "class", "split"
MAX_GUESS_BYTES = 2**30


def read_rows(paths: list[Path], encoding: str) -> Iterator[tuple[str, dict[str, Any] | str, int]]:
    """Yield (where, row or the reason why it is none, bytes read) for each row of the documents.

    Raises:
      InputError: a file that is not in `encoding`, not JSON, cut off, or holds no rows.
    """
    done = 0
    for path in paths:
        lists = row_lists(_load(path, encoding))
        if lists is None:
            raise InputError(
                f'{path} holds no rows: a list of objects, {{"{ROWS_KEY}": [objects]}} or '
                '{"CLASS": [objects], ...} is expected'
            )
        size = path.stat().st_size
        count = sum(map(len, lists.values()))
        index = 0
        for key, rows in lists.items():
            for number, row in enumerate(rows):
                index += 1
                position = done + size * index // count
                yield f"{path.name}:{key}[{number}]", _row(row, key), position
        done += size


def row_lists(document: Any) -> dict[str, list] | None:
    """Find the lists of rows in a document, by their keys ("" for the document itself).

    Returns:
      None if it holds no row.
    """
    if isinstance(document, dict):
        lists = {ROWS_KEY: document[ROWS_KEY]} if ROWS_KEY in document else document
    else:
        lists = {"": document}
    if not all(isinstance(rows, list) for rows in lists.values()):
        return None
    has_rows = any(isinstance(row, dict) for rows in lists.values() for row in rows)
    return lists if has_rows else None


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
        raise InputError(
            f"{path} is not {encoding}: {error}; name its encoding with --encoding (gb18030 is "
            "common for Chinese text)"
        ) from error
    except (ValueError, RecursionError) as error:
        # What JSON calls extra data is the second object of a file with one object a line.
        mend = (
            "one object a line is --format=jsonl"
            if str(error).startswith("Extra data")
            else "fetch it again if its download was cut off"
        )
        raise InputError(f"{path} is not one JSON document: {error}; {mend}") from error


def _row(row: Any, key: str) -> dict[str, Any] | str:
    if not isinstance(row, dict):
        return f"not a JSON object: {row!r:.80}"
    if key in ("", ROWS_KEY):
        return row
    column = SPLIT_COLUMN if is_split(key) else CLASS_COLUMN
    return {**row, column: row.get(column, key)}
