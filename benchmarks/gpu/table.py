"""Rows as a Markdown page: the machine, the floors, the stages, and a table for each of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu import rows
from benchmarks.gpu.plan import STAGES

FILE = "table.md"


class Floor(NamedTuple):
    """A number that a measurement is to reach: at least, or with `most` at most."""

    what: str
    column: str
    number: float
    most: bool = False


FLOORS = (
    Floor("B/16+77", "% of the peak", 40),
    Floor("B/16+248", "% of the peak", 40),
    Floor("B/16+248+77", "% of the peak", 40),
    Floor("L/14+77", "% of the peak", 50),
    Floor("L/14+248", "% of the peak", 50),
    Floor("B/16+248", "times as fast", 1.3),
    Floor("L/14+248", "times as fast", 1.3),
    Floor("B/16+248+77, theirs padded to 248", "times as fast", 1.5),
    Floor("batch 16,384", "ring's time / dense's", 1.2, most=True),
)


def write(out: Path) -> None:
    """Write the page of the rows that there are so far."""
    found = rows.read(out)
    measured = rows.latest(found)
    parts = [_machine(found), _floors(list(measured.values())), _stages(found)]
    for stage in STAGES:
        mine = [row for row in measured.values() if row["stage"] == stage.name]
        if mine:
            parts.append(f"## {stage.name}: {stage.title}\n\n{_rows(mine)}")
    (out / FILE).write_text("# The GPU program\n\n" + "\n\n".join(parts) + "\n")


def _machine(found: list[rows.Row]) -> str:
    described = [row["machine"] for row in found if "machine" in row]
    distinct = [m for i, m in enumerate(described) if m not in described[:i]]
    lines = [", ".join(f"{name} {value}" for name, value in m.items()) for m in distinct]
    if len(lines) > 1:
        lines.insert(0, "**Calls on different machines: their numbers must not be compared.**")
    if any(row.get("toy") for row in found):
        lines.append("**Toy sizes (--toy): no number here is a measurement of anything.**")
    return "\n\n".join(lines)


def _floors(measured: list[rows.Row]) -> str:
    table = []
    for floor in FLOORS:
        values = [
            row[floor.column]
            for row in measured
            if row["what"] == floor.what and floor.column in row
        ]
        best = (min if floor.most else max)(values, default=None)
        reached = best is not None and (
            best <= floor.number if floor.most else best >= floor.number
        )
        table.append(
            [
                floor.what,
                f"{floor.column} {'<=' if floor.most else '>='} {_text(floor.number)}",
                "not measured" if best is None else _text(best),
                "" if best is None else reached,
            ]
        )
    return "## Floors\n\n" + _markdown(["of", "floor", "best", "reached"], table)


def _stages(found: list[rows.Row]) -> str:
    table = []
    for stage in STAGES:
        ends = [row for row in found if row.get("status") and row["stage"] == stage.name]
        for row in ends or [{"status": "not started"}]:
            seconds, error = row.get("seconds", ""), row.get("error", "")
            table.append([stage.name, row["status"], seconds, row.get("card", ""), error])
    return "## Stages\n\n" + _markdown(
        ["stage", "how it ended", "s", "card before", "error"], table
    )


def _rows(measured: list[rows.Row]) -> str:
    alike: dict[tuple[str, ...], list[rows.Row]] = {}
    for row in measured:
        alike.setdefault(tuple(name for name in row if name != "stage"), []).append(row)
    tables = [_markdown(heads, [[r[h] for h in heads] for r in rs]) for heads, rs in alike.items()]
    return "\n\n".join(tables)


def _markdown(heads: Sequence[str], table: list[list[Any]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *table]
    return "\n".join("| " + " | ".join(map(_text, line)) + " |" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " / ")
