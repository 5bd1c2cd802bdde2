"""Which column of a row is what: names given by flags, or the field's usual ones."""

import ast
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsclip_jax.data.sources import InputError

# Role -> the flag that names its columns, and the names taken without the flag, best first.
ROLES = {
    "id": ("id_column", ()),
    "image": (
        "image_column",
        (
            *("filename", "file_name", "image", "image_path", "img", "img_path", "img_name"),
            "rgb_path",
            *("filepath", "file_path", "path", "file", "name"),
        ),
    ),
    "captions": (
        "caption_columns",
        ("captions", "caption", "text", "texts", "title", "sentences", "sentence", "raw"),
    ),
    "long_captions": ("long_caption_columns", ("long_captions", "long_caption")),
    "ir": ("ir_column", ("ir", "ir_path", "ir_image", "infrared")),
    "ir_captions": ("ir_caption_columns", ("ir_captions", "ir_caption")),
    "label": ("label_column", ("label", "class", "category", "class_name")),
    "split": ("split_column", ("split",)),
    "source": ("source_column", ("source",)),
}
LIST_ROLES = ("captions", "long_captions", "ir_captions")
Columns = Mapping[str, tuple[str, ...]]


def resolve(present: Iterable[str], given: Columns, where: str) -> dict[str, tuple[str, ...]]:
    """Map each role to its columns.

    A role of several texts whose column is not named by the user has that column's numbered
    siblings too: `caption`, `caption_1`, `caption_2`.

    Args:
      present: the columns that the first rows have.
      given: role -> columns named by the user.
      where: the input, for the error.

    Raises:
      InputError: a column named by the user does not exist; the nearest one is suggested.
    """
    present = list(present)
    by_lower_case = {name.lower(): name for name in reversed(present)}
    claimed = {name for names in given.values() for name in names}
    columns = {}
    for role, (flag, aliases) in ROLES.items():
        names = given.get(role, ())
        for name in names:
            if name not in present:
                raise InputError(_no_column(flag, name, present, where))
        if not names:
            found = (by_lower_case.get(alias) for alias in aliases)
            names = tuple(name for name in found if name and name not in claimed)[:1]
            if names and role in LIST_ROLES:
                # NWPU-Captions has raw, raw_1, ..., raw_4: one of five captions is not enough.
                more = re.compile(re.escape(names[0]) + r"_\d+")
                names += tuple(n for n in present if more.fullmatch(n) and n not in claimed)
        if names:
            columns[role] = names
    return columns


def _no_column(flag: str, name: str, present: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(name.lower(), [other.lower() for other in present], n=1)
    suggestion = ""
    if near:
        nearest = next(other for other in present if other.lower() == near[0])
        suggestion = f" (did you mean --{flag}={nearest}?)"
    return (
        f"--{flag}={name}: {where} has no column {name!r}{suggestion}; "
        f"it has {', '.join(present) or 'none'}"
    )


def read_row(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Take the fields of one row by role: lists of strings for the captions, else strings.

    Raises:
      ValueError: a cell holds something that is no text; the message is the reason to skip it.
    """
    fields: dict[str, Any] = {}
    for role, names in columns.items():
        if role in LIST_ROLES:
            fields[role] = [text for name in names for text in texts_of(row.get(name), name)]
        else:
            fields[role] = _text(row.get(names[0]), names[0])
    return fields


def without_roles(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Leave of a row what `read_row` does not read."""
    read = {name for names in columns.values() for name in names}
    return {name: cell for name, cell in row.items() if name not in read}


def _text(cell: Any, name: str) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, str | int | float):
        return str(cell).strip()
    raise ValueError(f"not a text: column {name!r} holds {cell!r:.80}")


def texts_of(cell: Any, name: str) -> list[str]:
    """Read a cell that holds one caption, a list of them, or a list written as text.

    Raises:
      ValueError: it, or one of them, is no text; `name` is the column's, for the message.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = _written_list(cell)
    cells = cell if isinstance(cell, list) else [cell]
    # The RSICD family's original files hold {"raw": "...", "tokens": [...]} for a sentence.
    texts = [
        _text(item.get("raw", item) if isinstance(item, dict) else item, name) for item in cells
    ]
    return [text for text in texts if text]


def _written_list(cell: str) -> list[str] | str:
    """Read `["a", "b"]` (JSON) or `['a', 'b']` (Python, as pandas writes); else leave it."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue  # A caption may well begin with a bracket.
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
    return cell
