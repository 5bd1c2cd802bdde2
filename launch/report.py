"""The files that a sweep leaves: all numbers as Parquet and CSV, a table, plots."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from launch import results
from launch.plan import Sweep
from rsclip_jax import atomic


def write(sweep: Sweep, directory: Path, plots: bool = True) -> list[Path]:
    """Write results.parquet, results.csv, table.md and, with matplotlib, the plots of a sweep.

    The first two have a row for every line of every run's metrics.jsonl, and one for its end, which
    has `final` set and the latest of each metric.

    Args:
      directory: of the sweep; its runs lie in `directory / "runs"`.
      plots: draw as well, which takes seconds.

    Returns:
      What was written; nothing before the first run has finished.
    """
    runs_dir = directory / "runs"
    rows = results.gather(sweep, runs_dir)
    if not rows:
        return []
    lines = [
        results.with_own(sweep, run, {"final": False, **line})
        for run in sweep.runs
        for line in results.metrics(runs_dir / run.name)
    ]
    whole = table([*lines, *({**row, "final": True} for row in rows)])
    written = [
        _whole(directory / "results.parquet", lambda path: pq.write_table(whole, path)),
        _whole(directory / "results.csv", lambda path: pa.csv.write_csv(whole, path)),
        _whole(
            directory / "table.md",
            lambda path: path.write_text(results.markdown(sweep, rows), encoding="utf-8"),
        ),
    ]
    if plots:
        try:
            from launch import plots as drawing
        except ImportError:  # matplotlib comes with the extra "report"
            return written
        written += drawing.draw(sweep, rows, directory)
    return written


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Make a table of all columns that any row has; one of several types becomes text."""
    columns = dict.fromkeys(name for row in rows for name in row)
    arrays = {}
    for name in columns:
        cells = [row.get(name) for row in rows]
        kinds = {float if type(cell) is int else type(cell) for cell in cells if cell is not None}
        if len(kinds) > 1:
            cells = [None if cell is None else str(cell) for cell in cells]
        elif kinds == {float} and not all(isinstance(cell, int | None) for cell in cells):
            cells = [None if cell is None else float(cell) for cell in cells]
        arrays[name] = pa.array(cells)
    return pa.table(arrays)


def _whole(path: Path, write_to: Callable[[Path], Any]) -> Path:
    with atomic.replacing(path) as unfinished:
        write_to(unfinished)
    return path
