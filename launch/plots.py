"""Plots of a sweep: the metric against the swept field, and curves by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from launch.plan import Sweep
from launch.results import metrics, values
from rsclip_jax import atomic
from rsclip_jax.training import plot_curves

WIDE = 100  # a field of which one value is so many times another is drawn on a logarithmic axis
LEGEND_ROWS = 24


def draw(sweep: Sweep, rows: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Draw metric.png and curves.png of a sweep; return their paths."""
    return [_metric(sweep, rows, directory / "metric.png"), _curves(sweep, rows, directory)]


def _metric(sweep: Sweep, rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw mean and standard deviation over seeds, against FIELD where that is a number."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    groups = {row["group"]: row for row in rows}
    numeric = sweep.field and all(isinstance(r.get(sweep.field), int | float) for r in rows)
    if numeric:
        others = [f for f in _swept(sweep, rows) if f != sweep.field]
        lines: dict[str, list[str]] = {}
        for group, row in groups.items():
            label = ", ".join(f"{f.split('.')[-1]} {row[f]}" for f in others)
            lines.setdefault(label, []).append(group)
        if len(lines) == len(groups):  # no two share a line: the points are named, not joined
            lines = {group: [group] for group in groups}
        for label, members in lines.items():
            members.sort(key=lambda group: groups[group][sweep.field])
            x = [groups[group][sweep.field] for group in members]
            _points(axes, x, rows, members, sweep.metric, label, "o-")
        axes.set_xlabel(sweep.field)
        places = sorted({groups[group][sweep.field] for group in groups})
        positive = [place for place in places if place > 0]
        if positive and places[0] >= 0 and places[-1] > WIDE * positive[0]:
            axes.set_xscale("symlog", linthresh=positive[0])
        else:
            axes.set_xticks(places)
        if any(lines):
            axes.legend(frameon=False)
    else:
        places = list(range(len(groups)))
        _points(axes, places, rows, list(groups), sweep.metric, "", "o")
        axes.set_xticks(places, list(groups), rotation=30, ha="right")
    axes.set_ylabel(sweep.metric)
    axes.set_title(f"{sweep.name}: mean and standard deviation over seeds", fontsize=11)
    return _save(figure, path)


def _points(axes, x, rows, groups, metric: str, label: str, style: str) -> None:
    found = [list(values(rows, group, metric).values()) for group in groups]
    middle = [np.mean(v) if v else np.nan for v in found]
    spread = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in found]
    axes.errorbar(x, middle, spread, fmt=style, capsize=3, label=label or None)


def _curves(sweep: Sweep, rows: Sequence[dict[str, Any]], directory: Path) -> Path:
    """Draw training loss and the metric by step, the mean of each group's runs."""
    runs: dict[str, list[str]] = {}
    for row in rows:
        runs.setdefault(row["group"], []).append(row["run"])
    lines = {
        group: [line for name in names for line in metrics(directory / "runs" / name)]
        for group, names in runs.items()
    }
    last = max((line["step"] for some in lines.values() for line in some), default=0)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axes, metric in zip(panels, ("training_loss", sweep.metric), strict=True):
        plot_curves.style(axes, last)
        axes.set_ylabel(metric)
        for group, some in lines.items():
            by_step: dict[int, list[float]] = {}
            for line in some:
                if line.get(metric) is not None:
                    by_step.setdefault(line["step"], []).append(line[metric])
            means = {step: float(np.mean(by_step[step])) for step in sorted(by_step)}
            plot_curves.draw(axes, means, group)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = -(-len(labels) // LEGEND_ROWS)
    figure.legend(
        handles, labels, loc="outside right upper", ncols=columns, frameon=False, fontsize=8
    )
    return _save(figure, directory / "curves.png")


def _swept(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> list[str]:
    fields = dict.fromkeys(field for run in sweep.runs for field in run.fields)
    return [field for field in fields if len({str(row.get(field)) for row in rows}) > 1]


def _save(figure, path: Path) -> Path:
    with atomic.replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=140, format="png")
    plt.close(figure)
    return path
