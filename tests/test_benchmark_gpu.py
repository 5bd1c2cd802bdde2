"""The GPU program: its stages at toy sizes, and what a stage that fails costs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_stage import plan

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import rows, table
from benchmarks.gpu.plan import STAGES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a plan of fake stages into tmp_path."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setattr(table, "STAGES", plan("raising", "broken", "slow", "good"))
    return lambda *names, seconds=300, **kwargs: program.run(
        tmp_path, plan(*names, **kwargs), seconds, toy=True
    )


def made(out: Path) -> list[tuple[str, str]]:
    return [(row["stage"], row["what"]) for row in rows.read(out) if "what" in row]


def test_what_fails_costs_only_itself_and_a_second_call_goes_on(run, tmp_path, capsys):
    assert run("raising", "broken", "good")
    found = rows.read(tmp_path)
    assert program.ends(found) == {"raising": "failed", "broken": "failed", "good": "done"}
    (error,) = [row["error"] for row in found if row.get("what") == "second"]
    assert error.startswith("ZeroDivisionError")
    (words,) = [row["error"] for row in found if row.get("stage") == "broken" and "error" in row]
    assert words == "status 3: broken: first / the last words"
    assert "missing: raising,broken" in capsys.readouterr().out

    (tmp_path / "mended").touch()
    before = made(tmp_path)
    run("raising", "broken", "good")
    # What had been measured is not measured again, nor is a stage that was done.
    assert made(tmp_path)[len(before) :] == [("raising", "second")]
    assert program.ends(rows.read(tmp_path))["raising"] == "done"
    page = (tmp_path / table.FILE).read_text()
    assert "ZeroDivisionError" not in page.partition("## raising")[2]  # the later one counts


def test_a_stage_over_its_limit_is_ended_and_goes_on_later(run, tmp_path):
    run("slow", "good", seconds=40, minutes=0.3)
    found = rows.read(tmp_path)
    assert program.ends(found) == {"slow": "over its limit", "good": "done"}
    assert ("slow", "first") in made(tmp_path) and ("slow", "third") not in made(tmp_path)
    (tmp_path / "mended").touch()
    assert not run("slow", "good")
    assert program.ends(rows.read(tmp_path))["slow"] == "done"
    assert made(tmp_path).count(("slow", "first")) == 1


def test_a_line_that_was_cut_off_is_written_over(tmp_path):
    rows.append(tmp_path, {"stage": "a", "what": "x", "setting": ""})
    with (tmp_path / rows.FILE).open("a") as file:
        file.write('{"stage": "a", "wh')
    assert len(rows.read(tmp_path)) == 1
    rows.append(tmp_path, {"stage": "a", "what": "y", "setting": ""})
    assert [row["what"] for row in rows.read(tmp_path)] == ["x", "y"]


def test_floors_stand_beside_the_best_number(tmp_path):
    for setting, share in (("one", 38.5), ("other", 43.21)):
        row = {"stage": "step", "what": "B/16+77", "setting": setting, "% of the peak": share}
        rows.append(tmp_path, row)
    row = {"stage": "loss", "what": "batch 16,384", "setting": "", "ring's time / dense's": 1.3}
    rows.append(tmp_path, row)
    table.write(tmp_path)
    page = (tmp_path / table.FILE).read_text()
    assert "| B/16+77 | % of the peak >= 40 | 43.21 | yes |" in page
    assert "| batch 16,384 | ring's time / dense's <= 1.2 | 1.3 | **no** |" in page
    assert "| L/14+77 | % of the peak >= 50 | not measured |  |" in page


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--stages=stepp", "--stages names stepp: expected some of demo,"),
        ("--toy", "without --toy"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, flag, words):
    rows.append(tmp_path, {"machine": {}, "toy": False})
    command = [sys.executable, "-m", "benchmarks.gpu", f"--out={tmp_path}", flag]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and words in ended.stderr and "Traceback" not in ended.stderr


def test_without_a_gpu_nothing_starts(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", f"--out={tmp_path}"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert ended.returncode == 1 and "expected a GPU that JAX sees" in ended.stderr
    assert rows.read(tmp_path) == []


def test_the_whole_program_runs_at_toy_sizes(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--toy",
        "--minutes=300",
        f"--out={tmp_path}",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    log = (tmp_path / program.LOG).read_text()
    assert ended.returncode == 0 and "missing" not in ended.stdout, ended.stdout + log[-3000:]
    found = rows.read(tmp_path)
    assert program.ends(found) == {stage.name: "done" for stage in STAGES}
    measured = rows.latest(found)
    assert {stage for stage, _, _ in measured} == {stage.name for stage in STAGES}
    assert measured["demo", "resume", "as shipped"]["bit-exact"]
    # The table has what the rows have.
    page = (tmp_path / table.FILE).read_text()
    for row in measured.values():
        cells = [table._text(value) for name, value in row.items() if name != "stage"]
        assert f"| {' | '.join(cells)} |" in page
        assert re.search(rf"^## {row['stage']}: ", page, re.MULTILINE)
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(path.stat().st_size < 16 * 2**20 for path in files)
