"""The rows of the program: a line of JSON for each measurement, written when it is made."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FILE = "rows.jsonl"


def read(out: Path) -> list[Row]:
    """Return the rows of a folder; a line that was being written when all was cut off is left out.

    Raises:
      ValueError: another line that is no JSON.
    """
    path = out / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}: not this program's rows, take another --out") from error


def append(out: Path, row: Row) -> None:
    """Add a row."""
    path = out / FILE
    whole = path.read_bytes() if path.exists() else b""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(whole.rfind(b"\n") + 1)  # over what was cut off
        file.truncate()
        file.write(json.dumps(row).encode() + b"\n")


def latest(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    """Return measurements by (stage, what, setting): of those made twice the later one."""
    return {(r["stage"], r["what"], r["setting"]): r for r in rows if "what" in r}


class Stage:
    """What a stage measures with.

    Attributes:
      toy: whether sizes are a toy's, for a CPU.
      scratch: an empty folder for large files, deleted afterwards.
      seconds: that the stage has in all.
      torch_python: interpreter that has torch and open_clip.
      failed: how many measurements have failed.
    """

    def __init__(
        self,
        name: str,
        out: Path,
        scratch: Path,
        toy: bool = False,
        seconds: float = 600,
        torch_python: str = "",
    ):
        self.name, self.out, self.scratch = name, out, scratch
        self.toy, self.seconds, self.torch_python = toy, seconds, torch_python
        self.failed = 0
        made = latest(read(out))
        self._made = {key: row for key, row in made.items() if "error" not in row}

    def measure(self, what: str, setting: str, function: Callable[[], Row]) -> Row | None:
        """Make a measurement, unless an earlier call of the program has, and write its row.

        Args:
          what, setting: name it within the stage.
          function: returns numbers and words by the head of their column.

        Returns:
          What it returned, now or then; None if it failed, which is written as well.
        """
        key = {"stage": self.name, "what": what, "setting": setting}
        if row := self._made.get((self.name, what, setting)):
            return row
        print(f"{self.name}: {what} {setting}", flush=True)
        try:
            values = function()
        except Exception as error:  # it costs no other measurement
            traceback.print_exc()
            self.failed += 1
            append(self.out, {**key, "error": brief(error)})
            return None
        append(self.out, {**key, **values})
        return values


def brief(error: Exception, length: int = 300) -> str:
    """Return the kind of an error and the beginning of its message, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:length]
