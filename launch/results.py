"""The results of a sweep: a row for each run, and a table of groups for the reader."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from launch.plan import Run, Sweep
from launch.processes import finished
from rsclip_jax.training.workdir import FINISHED_FILE

SIGNIFICANT, PAIRS = 0.05, 3  # fewer pairs tell next to nothing


def gather(sweep: Sweep, runs_dir: Path) -> list[dict[str, Any]]:
    """Return a row for each finished run: name, group, seed, its fields, and last metrics."""
    rows = []
    for run in sweep.runs:
        if run.compared and finished(runs_dir / run.name):
            row = ended(runs_dir / run.name)
            for line in metrics(runs_dir / run.name):
                row |= line
            rows.append(with_own(sweep, run, row))
    return rows


def ended(workdir: Path) -> dict[str, Any]:
    """Return what a finished run says of itself: its step, and how many parameters it trained."""
    return json.loads((workdir / FINISHED_FILE).read_text(encoding="utf-8"))


def own(sweep: Sweep, run: Run) -> dict[str, Any]:
    """Return what every row of a run has: its name, group, seed and fields."""
    fields = {field: _cell(run.fields.get(field)) for field in _fields(sweep)}
    return {"run": run.name, "group": run.group, "seed": run.seed, **fields}


def with_own(sweep: Sweep, run: Run, line: dict[str, Any]) -> dict[str, Any]:
    """Put a run's name, group, seed and fields before what it has measured.

    A field that it has of its own is stronger than a metric of that name, such as `lr`.
    """
    fields = own(sweep, run)
    return {**fields, **line, **{k: v for k, v in fields.items() if v is not None}}


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; one that is being written is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            parsed = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(parsed, dict) and "step" in parsed:
            found.append(parsed)
    return found


def markdown(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> str:
    """Write the table of groups: mean and standard deviation over seeds, the best in bold.

    A "*" stands behind a mean that differs from the baseline's with p < 0.05 by a paired t-test
    over the seeds that both have, three at least.
    """
    shown = _shown(sweep, rows)
    groups = {row["group"]: row for row in rows}
    fields = [field for field in _fields(sweep) if len({str(r.get(field)) for r in rows}) > 1]
    header = ["run", *fields, "seeds", *shown]
    means = {name: {group: mean(rows, group, name) for group in groups} for name in shown}
    body = []
    for group, row in groups.items():
        number = sum(other["group"] == group for other in rows)
        cells = [group, *(str(row.get(field, "")) for field in fields), str(number)]
        for name in shown:
            here = list(values(rows, group, name).values())
            text = f"{means[name][group]:.2f}" if here else ""
            if text == f"{max(means[name].values()):.2f}":
                text = f"**{text}**"
            if len(here) > 1:
                text += f" ± {np.std(here, ddof=1):.2f}"
            if differs(rows, group, sweep.baseline, name):
                text += " *"
            cells.append(text)
        body.append([cell.replace("|", "\\|").replace("\n", " ") for cell in cells])
    widths = [max(len(line[k]) for line in [header, *body]) for k in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in [header, ["-" * w for w in widths], *body]
    ]
    missing = sum(run.compared for run in sweep.runs) - len(rows)
    notes = [f"{sweep.name}: mean ± standard deviation over seeds; best in bold."]
    if sweep.baseline:
        notes.append(
            f"* differs from {sweep.baseline} (paired t-test over three or more seeds, p < 0.05)."
        )
    if missing:
        notes.append(f"{missing} of {missing + len(rows)} runs are not finished.")
    return "\n".join([" ".join(notes), "", *lines, ""])


def values(rows: Sequence[dict[str, Any]], group: str, name: str) -> dict[int, float]:
    """Return seed -> finite value of one metric of one group."""
    return {
        row["seed"]: row[name]
        for row in rows
        if row["group"] == group and row.get(name) is not None and math.isfinite(row[name])
    }


def mean(rows: Sequence[dict[str, Any]], group: str, name: str) -> float:
    """Return the mean over seeds of one metric of one group, -inf without any."""
    found = values(rows, group, name)
    return statistics.fmean(found.values()) if found else -float("inf")


def differs(rows: Sequence[dict[str, Any]], group: str, baseline: str, name: str) -> bool:
    """Tell whether a group's metric differs significantly from the baseline's, seed by seed."""
    ours, theirs = values(rows, group, name), values(rows, baseline, name)
    common = sorted(ours.keys() & theirs.keys())
    difference = np.array([ours[seed] - theirs[seed] for seed in common])
    if group == baseline or len(common) < PAIRS or not difference.std():
        return False
    return bool(stats.ttest_1samp(difference, 0.0).pvalue < SIGNIFICANT)


def _shown(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Choose the metrics of the table: the sweep's own, else the evaluators' other means."""
    if sweep.columns:
        return [sweep.metric, *sweep.columns]
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    others = [n for n in names if n.endswith(("mean_recall", "_mean", "top1"))]
    return list(dict.fromkeys([sweep.metric, *others]))


def check_metric(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError if no run has the metric of the sweep."""
    names = sorted({name for row in rows for name in row if "/" in name})
    if rows and sweep.metric not in names:
        raise ValueError(
            f"METRIC={sweep.metric!r} of sweep {sweep.name} is none of the runs' "
            f"{', '.join(names) or 'metrics: they have no evaluator'}"
        )


def _fields(sweep: Sweep) -> list[str]:
    fields = [field for run in sweep.runs for field in run.fields]
    return list(dict.fromkeys([*fields, *([sweep.field] if sweep.field else [])]))


def _cell(value: Any) -> Any:
    """Keep numbers and text, write down the rest."""
    return value if value is None or isinstance(value, int | float | str) else str(value)
