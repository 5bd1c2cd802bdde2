"""Stands in for a stage of `benchmarks.gpu`: `plan` says how each of a few behaves."""

import sys
import time

from benchmarks.gpu.plan import Planned
from benchmarks.gpu.rows import Stage


def plan(*names: str, minutes: float = 1) -> list[Planned]:
    """Return stages that are named for what they do: good, raising, broken, slow."""
    return [Planned(name, "fake_stage", minutes, f"a {name} one") for name in names]


def run(stage: Stage) -> None:
    stage.measure("first", "", lambda: {"ms": 1.0})
    if stage.name == "raising":
        stage.measure("second", "", lambda: {"ms": 1 / (stage.out / "mended").exists()})
    elif stage.name == "broken":
        print("the last words")
        sys.exit(3)
    elif stage.name == "slow" and not (stage.out / "mended").exists():
        time.sleep(600)
    stage.measure("third", "", lambda: {"ms": 3.0})
