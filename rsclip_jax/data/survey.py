"""What the columns of an input hold, learnt from all its rows: a column may come in late ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from rsclip_jax.data.cells import has_content
from rsclip_jax.data.columns import Columns
from rsclip_jax.data.sources import InputError

PEEK = 100  # rows that tell what the columns hold
EXAMPLES = 10  # likewise, of a column that is empty in these
MAX_COLUMNS = 2_000


class Survey:
    """How many rows fill each column, and examples of each.

    Attributes:
      filled: column -> how many rows hold something there.
      examples: the first rows, and the first that fill a column.

    Args:
      where: the input, for the error.
    """

    def __init__(self, where: str):
        self.where = where
        self.filled: dict[str, int] = {}
        self.examples: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Take note of a row.

        Raises:
          InputError: there are more than MAX_COLUMNS columns.
        """
        keep = len(self.examples) < PEEK
        for name, cell in row.items():
            count = self.filled.setdefault(name, 0)
            if has_content(cell):
                self.filled[name] = count + 1
                keep = keep or count < EXAMPLES
        if keep:
            self.examples.append(row)
        if len(self.filled) > MAX_COLUMNS:
            raise InputError(
                f"{self.where}: more than {MAX_COLUMNS:,} columns; what differs from row to row is "
                "no name of a column"
            )


def column_notes(filled: Mapping[str, int], columns: Columns, unused: Sequence[str]) -> list[str]:
    """Say which columns are not used, or are and hold nothing."""
    notes = []
    if unused:
        counts = (f"{name or '(no name)'} ({filled[name]:,})" for name in unused)
        notes.append(f"columns not used (rows that fill them): {', '.join(counts)}")
    empty = [name for names in columns.values() for name in names if not filled[name]]
    if empty:
        notes.append(f"columns that are empty in all rows: {', '.join(empty)}")
    return notes
