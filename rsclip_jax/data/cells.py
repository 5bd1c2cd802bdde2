"""What the cells of tables hold: a text, several, or several written as one text.

Spreadsheets and CSV files have no lists, so Python's and NumPy's ways to print one come in cells:

    ["a", "b"]        JSON
    ['a', 'b']        a Python list
    ['a' 'b']         a NumPy array
    [{'raw': 'a'}]    sentences, as the RSICD family has them
"""

import ast
import json
import math
import re
from typing import Any

MAX_LIST_CHARS = 2**16  # of a list written as text
MAX_DEPTH = 64  # of lists within lists; what is deeper cannot be written and read at will
TOO_DEEP = f"nested too deep: lists or objects more than {MAX_DEPTH} within one another"
# Of an object that stands for a caption: RSICD has {"raw": "...", "tokens": [...]}, COCO "caption".
TEXT_KEYS = ("raw", "caption", "text", "sentence")

_NOTHING = r"None|nan|NaN|null"
# Numbers, or what may begin with some but has quotation marks or brackets, between brackets: a
# caption such as "[a boat]" is none.
_LIST = re.compile(
    rf"[\[({{](?:{_NOTHING}|\de|[-+.,\s\d])*(?:['\"\[({{].*)?[\])}}]", re.DOTALL | re.ASCII
)
# A string, closed or not, or something else that ends an item; then white space.
_ITEM_END = re.compile(
    rf"('(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?|[\])}}]|\b(?:{_NOTHING})\b)(\s+(?=['\"\[({{Nn]))?",
    re.DOTALL,
)
_NO_TEXT = re.compile(r"(?:nan|none|null|true|false|\de|[-+.,\s\d\[\](){}])*", re.IGNORECASE)


def is_too_deep(cell: Any, levels: int = MAX_DEPTH) -> bool:
    """Tell whether lists and objects lie within one another more than `levels` deep."""
    if not isinstance(cell, list | dict):
        return False
    items = cell.values() if isinstance(cell, dict) else cell
    return levels == 0 or any(is_too_deep(item, levels - 1) for item in items)


def text_of(cell: Any, name: str) -> str:
    """Read a cell that holds one text or a number; "" if it is empty.

    Raises:
      ValueError: it holds something else; `name` is the column's, for the message.
    """
    if _is_nothing(cell):
        return ""
    if isinstance(cell, str | int | float):
        return str(cell).strip()
    raise ValueError(f"not a text in column {name!r}: {cell!r:.80}")


def items_of(cell: Any, name: str) -> list[str]:
    """Read a cell that holds one caption, a list of them, or a list written as text.

    Returns:
      The captions, "" for each item that is empty, None or NaN.

    Raises:
      ValueError: it, or an item, is no text; `name` is the column's, for the message.
    """
    if isinstance(cell, str) and _LIST.fullmatch(stripped := cell.strip()):
        cell = _written(stripped, name)
    if not isinstance(cell, list | tuple | dict):
        return [text_of(cell, name)]
    return [_item(item, name) for item in ([cell] if isinstance(cell, dict) else cell)]


def texts_of(cell: Any, name: str) -> list[str]:
    """Read the captions of a cell, see `items_of`, without the empty ones."""
    return [text for text in items_of(cell, name) if text]


def has_content(cell: Any) -> bool:
    """Tell whether a cell is not empty; a NaN is."""
    return not (_is_nothing(cell) or cell in ("", [], {}) or (type(cell) is str and cell.isspace()))


def holds_text(cell: Any) -> bool:
    """Tell whether a cell holds more than numbers, truth values, lists of them, or nothing."""
    return not _NO_TEXT.fullmatch(str(cell))


def _item(item: Any, name: str) -> str:
    if isinstance(item, dict):
        key = next((key for key in TEXT_KEYS if key in item), None)
        item = item if key is None else item[key]
    if not (isinstance(item, str) or _is_nothing(item)):
        raise ValueError(
            f"not a text in column {name!r}: {item!r:.80}, where a caption, or an object with one "
            f"of {', '.join(TEXT_KEYS)}, is expected"
        )
    return text_of(item, name)


def _is_nothing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _written(cell: str, name: str) -> Any:
    """Parse a list, tuple or object that was written as text.

    Raises:
      ValueError: it is longer than MAX_LIST_CHARS, or none after all.
    """
    if len(cell) > MAX_LIST_CHARS:
        raise ValueError(
            f"list too long in column {name!r}: {len(cell):,} characters, at most "
            f"{MAX_LIST_CHARS:,} are read"
        )
    for read in (json.loads, _python):
        try:
            return read(cell)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    raise ValueError(f"unreadable list in column {name!r}: {cell!r:.80}")


def _python(cell: str) -> Any:
    """Parse what Python or NumPy prints."""

    def ended(match: re.Match) -> str:
        item = "None" if match[1] == "nan" else match[1]
        # NumPy puts white space alone between items, and Python would join the strings.
        return f"{item}, " if match[2] else item

    return ast.literal_eval(_ITEM_END.sub(ended, cell))
