"""CSV files row by row, and what quotation marks that nobody meant do to them.

A stray quotation mark at the start of a cell opens a text that goes on over the next rows, to the
next mark: rows would be lost within one caption. Captions of several lines are legitimate, so their
lines are looked at.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rsclip_jax.data.cells import holds_text
from rsclip_jax.data.sources import InputError, is_image_name
from rsclip_jax.data.text_files import shown

MAX_ROW_CHARS = 16 * 2**20
QUOTINGS = ("", "none")  # "": cells may be in quotation marks; none: these are as other letters
# So many lines of one text, each with as many cells as a row, are rows where images have no suffix.
MANY_LINES = 10
GARBLED = "wrong encoding"


def csv_rows(
    file: TextIO, path: Path, delimiter: str = "", quoting: str = ""
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, row or the reason why it is none); the first line names the columns.

    Columns without a name must be empty or hold numbers, as pandas writes its index: they are
    called "".

    Args:
      file: opened with errors="surrogateescape" and newline="".
      path: of the file, for messages.
      delimiter: see `tables.open_table`.
      quoting: one of QUOTINGS.

    Raises:
      InputError: a text in quotation marks that never ends, or holds rows; two columns of one name,
        or one without a name that holds texts; a first line that names no columns but an image.
    """
    csv.field_size_limit(MAX_ROW_CHARS)
    delimiter = delimiter or _delimiter(file, path)
    lines: list[str] = []  # of the row
    reader = csv.reader(
        _noted(file, lines),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header: list[str] = []
    unnamed: list[int] = []
    while True:
        lines.clear()
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number = reader.line_num
            if number > first or not header:
                stray = _stray(path, first, f"does not end before line {number}")
                raise InputError(stray) from error
            yield number, f"not CSV (--quoting=none takes quotation marks as they are): {error}"
            continue
        number = reader.line_num
        if not cells:
            continue
        if is_garbled("".join(cells)):
            yield number, f"{GARBLED}: the row has bytes that are not {shown(file.encoding)}"
            if not header:
                return
        elif not header:
            header = [name.strip().strip("\ufeff").strip() for name in cells]
            if values := [name for name in header if is_image_name(name) or "://" in name]:
                raise InputError(
                    f"{path}: its first line must name the columns, and holds {values[0]!r:.60}: "
                    "put a line such as image,caption before it"
                )
            unnamed = [place for place, name in enumerate(header) if not name]
            if len(set(header) - {""}) < len(header) - len(unnamed):
                raise InputError(f"{path}: two columns have the same name: {header}")
        elif _holds_rows(lines, cells, len(header), delimiter):
            raise InputError(_stray(path, first, f"goes on to line {number}, over other rows"))
        elif len(cells) != len(header):
            reason = f"wrong number of cells: {len(cells)}, where the header has {len(header)}"
            yield number, reason
        else:
            for place in unnamed:
                if holds_text(cells[place]):
                    raise InputError(
                        f"{path}, line {number}: column {place + 1} has no name in the first line, "
                        f"and holds {cells[place]!r:.60}: name it there"
                    )
            yield number, dict(zip(header, cells, strict=True))


def is_garbled(text: str) -> bool:
    """Tell whether a text, read with errors="surrogateescape", is in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _delimiter(file: TextIO, path: Path) -> str:
    """Guess what separates the cells from the first line, and go back to the start."""
    line = file.readline(MAX_ROW_CHARS)
    file.seek(0)
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",\t;|", key=line.count)  # a comma where none occurs


def _noted(file: TextIO, lines: list[str]) -> Iterator[str]:
    for line in file:
        lines.append(line)
        yield line


def _holds_rows(lines: list[str], cells: list[str], width: int, delimiter: str) -> bool:
    """Tell whether the lines after the first, of one row, look like rows of their own.

    They do if they name an image where the row does.

    Args:
      cells: of the row.
      width: how many cells a row has.
    """
    split = [line.split(delimiter) for line in lines[1:]]
    names = [n for n, cell in enumerate(cells) if "\n" not in cell and is_image_name(cell)]
    if not names:
        return sum(len(of) == width for of in split) >= MANY_LINES
    whole = [of for of in split if len(of) >= max(width, names[0] + 1)]
    return any(is_image_name(of[names[0]].strip('" \r\n')) for of in whole)


def _stray(path: Path, line: int, what: str) -> str:
    return (
        f"{path}: the text in quotation marks that begins in line {line} {what}. Close it, or "
        'double the mark ("") if it belongs to the text; --quoting=none takes all quotation marks '
        "as they are, and each line for a row; or write it as JSONL"
    )
