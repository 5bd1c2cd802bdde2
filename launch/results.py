"""The results of a sweep: one table of all runs, one of groups for the reader, and plots."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from scipy import stats

from launch.plan import Run, Sweep
from launch.processes import finished

SIGNIFICANT = 0.05


def write(sweep: Sweep, directory: Path) -> list[Path]:
    """Write results.parquet, results.csv, table.md and, with matplotlib, the plots of a sweep.

    Args:
      directory: of the sweep; its runs lie in `directory / "runs"`.

    Returns:
      What was written; nothing before the first run has finished.
    """
    rows = gather(sweep, directory / "runs")
    if not rows:
        return []
    table = pa.Table.from_pylist(rows)
    written = [
        _whole(directory / "results.parquet", lambda path: pq.write_table(table, path)),
        _whole(directory / "results.csv", lambda path: pa.csv.write_csv(table, path)),
        _whole(directory / "table.md", lambda path: path.write_text(markdown(sweep, rows))),
    ]
    try:
        from launch import plots
    except ImportError:  # matplotlib comes with the extra "report"
        return written
    return [*written, *plots.draw(sweep, rows, directory)]


def gather(sweep: Sweep, runs_dir: Path) -> list[dict[str, Any]]:
    """Return a row for each finished run: name, group, seed, its fields, steps, and last scores."""
    fields = dict.fromkeys(field for run in sweep.runs for field in run.fields)
    rows = []
    for run in sweep.runs:
        workdir = runs_dir / run.name
        if not (run.compared and finished(workdir)):
            continue
        own = {field: _cell(run.fields.get(field)) for field in fields}
        row = {"run": run.name, "group": run.group, "seed": run.seed, **own}
        lines = metrics(workdir)
        row["step"] = max(line["step"] for line in lines)
        for line in lines:  # the latest of each
            row |= {name: value for name, value in line.items() if "/" in name}
        losses = [line["training_loss"] for line in lines if "training_loss" in line]
        if losses:
            row["training_loss"] = losses[-1]
        rows.append(row)
    return rows


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; one that is being written is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def markdown(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> str:
    """Write the table of groups: mean and standard deviation over seeds, the best in bold.

    A "*" stands behind a mean that differs from the baseline's with p < 0.05 by a paired t-test
    over the seeds that both have.
    """
    shown = _shown(sweep, rows)
    groups = {row["group"]: row for row in rows}
    fields = [field for field in _fields(sweep) if len({str(r.get(field)) for r in rows}) > 1]
    header = ["run", *fields, "seeds", *shown]
    body = []
    best = {name: max(mean(rows, group, name) for group in groups) for name in shown}
    for group, row in groups.items():
        cells = [group, *(str(row.get(field, "")) for field in fields)]
        cells.append(str(len(values(rows, group, shown[0]))))
        for name in shown:
            here = list(values(rows, group, name).values())
            text = f"{statistics.fmean(here):.2f}"
            text = f"**{text}**" if statistics.fmean(here) == best[name] else text
            if len(here) > 1:
                text += f" ± {statistics.stdev(here):.2f}"
            if differs(rows, group, sweep.baseline, name):
                text += " *"
            cells.append(text)
        body.append(cells)
    widths = [max(len(line[k]) for line in [header, *body]) for k in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in [header, ["-" * w for w in widths], *body]
    ]
    missing = sum(run.compared for run in sweep.runs) - len(rows)
    notes = [f"{sweep.name}: mean ± standard deviation over seeds; best in bold."]
    if sweep.baseline:
        notes.append(f"* differs from {sweep.baseline} (paired t-test over seeds, p < 0.05).")
    if missing:
        notes.append(f"{missing} of {missing + len(rows)} runs are not finished.")
    return "\n".join([" ".join(notes), "", *lines, ""])


def values(rows: Sequence[dict[str, Any]], group: str, name: str) -> dict[int, float]:
    """Return seed -> value of one metric of one group."""
    return {row["seed"]: row[name] for row in rows if row["group"] == group and name in row}


def mean(rows: Sequence[dict[str, Any]], group: str, name: str) -> float:
    """Return the mean over seeds of one metric of one group, -inf without any."""
    found = values(rows, group, name)
    return statistics.fmean(found.values()) if found else -float("inf")


def differs(rows: Sequence[dict[str, Any]], group: str, baseline: str, name: str) -> bool:
    """Tell whether a group's metric differs significantly from the baseline's, seed by seed."""
    ours, theirs = values(rows, group, name), values(rows, baseline, name)
    common = sorted(ours.keys() & theirs.keys())
    if group == baseline or len(common) < 2:
        return False
    difference = np.array([ours[seed] - theirs[seed] for seed in common])
    if not difference.std():
        return bool(difference[0])  # the same difference each time
    return bool(stats.ttest_1samp(difference, 0.0).pvalue < SIGNIFICANT)


def _shown(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Choose the metrics of the table: the sweep's own, and its evaluator's other means."""
    evaluator = sweep.metric.split("/")[0]
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(f"{evaluator}/"))
    others = [n for n in names if n.endswith(("mean_recall", "_mean", "R@1", "top1"))]
    if sweep.metric not in names:
        raise ValueError(
            f"METRIC={sweep.metric!r} of sweep {sweep.name} is none of the runs' "
            f"{', '.join(names) or 'metrics: they have no such evaluator'}"
        )
    return list(dict.fromkeys([sweep.metric, *others]))


def _fields(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(field for run in sweep.runs for field in run.fields))


def _cell(value: Any) -> Any:
    """Keep numbers and text, write down the rest."""
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _whole(path: Path, write_to: Any) -> Path:
    unfinished = path.with_name(f".{path.name}.unfinished")
    write_to(unfinished)
    os.replace(unfinished, path)
    return path


def describe(run: Run) -> str:
    """Return the fields of a run in one line."""
    return "  ".join(f"{field}={value}" for field, value in run.fields.items())
