"""How far a data set is, while it is prepared."""

import sys
import time

from rsclip_jax.data.summary import Summary


class Progress:
    """A line on stderr that tells how far the work is and how long it will take."""

    def __init__(self, name: str, size: int):
        self._name = name
        self._size = max(1, size)
        self._start = self._last = 0.0
        # A log file wants few lines, a terminal one that moves.
        self._terminal = sys.stderr.isatty()
        self._interval = 0.2 if self._terminal else 10.0

    def show(self, summary: Summary, position: int) -> None:
        """Print the line if it is time for one."""
        now = time.monotonic()
        if not self._start:  # The workers have started: their rate counts from here.
            self._start = self._last = now
        if now - self._last < self._interval:
            return
        self._last = now
        elapsed = now - self._start
        share = position / self._size
        left = round(elapsed * (1 - share) / share) if share else 0
        line = (
            f"{self._name}: {share:4.0%}  {summary.records.total():,} records  "
            f"{summary.total() / elapsed:,.0f}/s  {summary.skipped.total():,} skipped  "
            f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        )
        ending = ("\r", "\033[K") if self._terminal else ("", "\n")
        print(ending[0] + line + ending[1], end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the moving line."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
