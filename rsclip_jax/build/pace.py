"""How far slow work on rows is, said early and then now and then."""

import time


class Pace:
    """Counts rows; the first line is due after 2 seconds, the others every 10."""

    FIRST, INTERVAL = 2.0, 10.0

    def __init__(self):
        self.rows = 0
        self._start = time.monotonic()
        self._due = self._start + self.FIRST

    def add(self, what: str) -> str:
        """Count a row; return the line that is due ("12 WHAT, 3.1/s"), "" if there is none."""
        self.rows += 1
        now = time.monotonic()
        if now < self._due:
            return ""
        self._due = now + self.INTERVAL
        return f"{self.rows:,} {what}, {self.rows / max(now - self._start, 1e-9):,.1f}/s"
