"""Sweeps, with a stand-in for the trainer: what is run, resumed, retried, and compared."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from absl import flags
from scipy.stats import ttest_rel

from launch import plan, plots, processes, report, results, sweep
from launch.plan import Run, grid, name_of, random, seeds, zipped
from rsclip_jax import main
from rsclip_jax.training.resolve import resolve

HERE = Path(__file__).parent
ROOT = HERE.parent
READY = sorted(p for p in ROOT.glob("launch/sweeps/*.py") if "\ndef runs(" in p.read_text())
FAKE = [sys.executable, str(HERE / "fake_trainer.py")]
FILE = """
from launch.plan import Run, grid, name_of, seeds

METRIC = "val/mean_recall"
BASELINE = "lr0.1"
FIELD = "lr"

def runs(scale):
    yield Run("base", {{}}, "configs/lrsclip.py:demo", compared=False)
    for fields in grid({{"lr": {values}}}):
        run = Run(name_of(fields), fields, "configs/lrsclip.py:demo", {shared}, after="base")
        yield from seeds(run, 2)
"""


def write_file(tmp_path, values="(0.1, 0.2)", shared="{}"):
    path = tmp_path / "some.py"
    path.write_text(FILE.format(values=values, shared=shared))
    return path


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(processes, "TRAINER", FAKE)
    monkeypatch.setattr(sweep, "POLL_S", 0.02)
    monkeypatch.setattr(sweep, "SHOW_S", 0.0)


def run(path, workdir, *arguments):
    return sweep.main([f"--sweep={path}", f"--workdir={workdir}", *arguments])


def starts(workdir):
    return {p.parent.name: len(p.read_text().splitlines()) for p in workdir.glob("runs/*/starts")}


def test_fields_are_combined_by_grid_zip_and_at_random():
    assert list(grid({"a": (1, 2), "b": "xy"})) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert list(zipped({"a": (1, 2), "b": "xy"})) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    with pytest.raises(ValueError):
        list(zipped({"a": (1, 2), "b": "x"}))
    drawn = list(random({"lr": lambda rng: rng.uniform(1e-4, 1e-3)}, 3, seed=1))
    assert drawn == list(random({"lr": lambda rng: rng.uniform(1e-4, 1e-3)}, 3, seed=1))
    assert len({fields["lr"] for fields in drawn}) == 3
    assert name_of({"model.keep": 8, "loss_pairs": (("img", "txt"),)}) == (
        "keep8-loss_pairs_img_txt"
    )
    two = list(seeds(Run("a", {}, "c"), (3, 5)))
    assert [(r.name, r.group, r.seed) for r in two] == [("a-s3", "a", 3), ("a-s5", "a", 5)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("runs = lambda scale: []\nMETRIC = 'm'", "it has no runs"),
        ("runs = lambda scale: []", "has no METRIC"),
        ("METRIC = 'm'\nruns = lambda scale: [R('a'), R('a')]", "two runs are called 'a'"),
        ("METRIC = 'm'\nruns = lambda scale: [R('a/b')]", "cannot be the name of a directory"),
        ("METRIC = 'm'\nruns = lambda scale: [R('a', after='b')]", "start from 'b', no run before"),
        (
            "METRIC = 'm'\nruns = lambda scale: [R('a', model__kep=1)]",
            "nearest are --config.model.k",
        ),
        ("METRIC = 'm'\nBASELINE = 'z'\nruns = lambda scale: [R('a')]", "'z' is none of a"),
        ("METRIC = 'm'\nruns = lambda scale: [R('a', file='configs/no.py')]", "no config file"),
    ],
)
def test_mistakes_in_a_sweep_file_are_told_before_any_run(lines, message, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "from launch.plan import Run\n"
        "def R(name, file='configs/lrsclip.py:demo', after='', **fields):\n"
        "    fields = {k.replace('__', '.'): v for k, v in fields.items()}\n"
        "    return Run(name, fields, file, after=after)\n" + lines
    )
    with pytest.raises(ValueError, match=message):
        plan.load(path)


def test_sweep_files_that_are_absent_and_wrong_scales_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are: .*some\.py"):
        plan.load(write_file(tmp_path).with_name("same.py"))
    with pytest.raises(ValueError, match="expected one of small, paper"):
        plan.load(write_file(tmp_path), "large")
    with pytest.raises(ValueError, match=r"expected --config\.FIELD=VALUE"):
        plan.load(write_file(tmp_path), extra=["--lr=3"])


@pytest.mark.parametrize("scale", plan.SCALES)
@pytest.mark.parametrize("path", READY, ids=str)
def test_ready_sweeps_can_be_planned(path, scale, capsys, tmp_path):
    extra = ["--config.init_from=/ViT.pt"] if scale == "paper" else []
    if extra:
        with pytest.raises(ValueError, match=r"give --config\.init_from=\.\.\."):
            plan.load(path, scale)
    assert run(path, tmp_path / "w", "--dry_run", f"--sweep.scale={scale}", *extra) == 0
    assert not (tmp_path / "w").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("the time is known when one has finished")
    assert all("to do" in line for line in lines[1:-1])
    sweep = plan.load(path, scale, extra)
    for one in sweep.runs:  # what the trainer would make of it
        argv = ["main", *one.arguments(tmp_path)]
        values = flags.FlagValues()
        main.define_flags(values, argv)
        values(argv)
        config = resolve(values.config, tmp_path)
        for field, value in one.overrides(tmp_path).items():
            found = functools.reduce(lambda node, key: node[key], field.split("."), config)
            assert (found.to_dict() if isinstance(value, dict) else found) == value, field
        assert not one.compared or sweep.metric.split("/")[0] in config.evals


def test_every_run_is_trained_once_and_compared(fake, tmp_path, capsys):
    path, workdir = write_file(tmp_path), tmp_path / "w"
    assert run(path, workdir, "--parallel=2", "--config.eps=1e-7") == 0
    assert starts(workdir) == dict.fromkeys(
        ("base", "lr0.1-s0", "lr0.1-s1", "lr0.2-s0", "lr0.2-s1"), 1
    )
    log = processes.tail(workdir / "runs/lr0.2-s1")
    for argument in ("--config=configs/lrsclip.py:demo", "--config.lr=0.2", "--config.seed=1",
                     f"--config.init_from={workdir}/runs/base", "--config.eps=1e-7"):  # fmt: skip
        assert argument in log
    lines = pq.read_table(workdir / "results.parquet").to_pylist()
    assert len(lines) == 5 * 10 + 4  # every step of every run, and the ends of those compared
    rows = [row for row in lines if row["final"]]
    assert [(row["run"], row["group"], row["seed"], row["lr"]) for row in rows] == [
        ("lr0.1-s0", "lr0.1", 0, 0.1),
        ("lr0.1-s1", "lr0.1", 1, 0.1),
        ("lr0.2-s0", "lr0.2", 0, 0.2),
        ("lr0.2-s1", "lr0.2", 1, 0.2),
    ]
    assert rows[3]["val/mean_recall"] == pytest.approx(21) and rows[3]["step"] == 10
    assert pyarrow.csv.read_csv(workdir / "results.csv").num_rows == len(lines)
    table = (workdir / "table.md").read_text()
    assert "| lr0.1 | 0.1 | 2     | 10.50 ± 0.71 " in table
    assert "**20.50** ± 0.71 " in table and "R@1" not in table
    assert [row["training_loss"] for row in lines if row["run"] == "base"] == [
        pytest.approx(5 / step) for step in range(1, 11)
    ]
    assert {"metric.png", "curves.png"} < {p.name for p in workdir.iterdir()}
    before = capsys.readouterr().out
    assert "base finished in 0:00:0" in before
    assert run(path, workdir, "--config.eps=1e-7") == 0
    assert starts(workdir)["base"] == 1
    assert "nothing to do" in capsys.readouterr().out


def test_failed_runs_are_retried_once_and_reported_with_their_log(fake, tmp_path, capsys):
    path = tmp_path / "some.py"
    path.write_text(
        FILE.format(values="(0.1,)", shared="{}")
        + '    yield Run("bad", {"wd": 1}, "configs/lrsclip.py:demo")\n'
        + '    yield Run("child", {}, "configs/lrsclip.py:demo", after="bad")\n'
        + '    yield Run("shaky", {"wd": 2}, "configs/lrsclip.py:demo")\n'
        + '    yield Run("preempted", {"wd": 3}, "configs/lrsclip.py:demo")\n'
    )
    assert run(path, tmp_path / "w") == 1
    assert starts(tmp_path / "w") == {
        **{"base": 1, "lr0.1-s0": 1, "lr0.1-s1": 1},
        **{"bad": 2, "shaky": 2, "preempted": 2},
    }
    printed = capsys.readouterr()
    assert "bad FAILED" in printed.err and "the loss is not finite" in printed.err
    assert "child FAILED\nit starts from bad, which failed" in printed.err
    assert "2 of 6 runs are not finished" in printed.out
    lines = results.metrics(tmp_path / "w/runs/preempted")
    assert [line["step"] for line in lines] == list(range(1, 11))  # it went on where it stopped


def killed_and_resumed(tmp_path, number):
    """Start a sweep, send it a signal in the midst, start it again; return (status, output)."""
    path = write_file(tmp_path, shared='{"warmup_steps": 10}')  # a second each
    code = (
        "import sys; from launch import processes, sweep; "
        f"processes.TRAINER = {FAKE!r}; sweep.POLL_S = 0.05; sys.exit(sweep.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, f"--sweep={path}", f"--workdir={tmp_path / 'w'}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start():
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)

    first = start()
    metrics = tmp_path / "w/runs/lr0.1-s1/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(number)
    first.communicate(timeout=60)
    second = start()
    out, _ = second.communicate(timeout=120)
    return first.returncode, second.returncode, out


def test_kill_9_in_the_midst_loses_nothing_and_repeats_nothing(tmp_path):
    first, second, out = killed_and_resumed(tmp_path, signal.SIGKILL)
    assert (first, second) == (-signal.SIGKILL, 0)
    assert "finished  lr=0.1" in out  # the plan of the second time
    # The trainer of the killed sweep was told to save: its run went on, nothing was done twice.
    assert starts(tmp_path / "w") == {
        **{"base": 1, "lr0.1-s0": 1, "lr0.1-s1": 2, "lr0.2-s0": 1, "lr0.2-s1": 1}
    }
    lines = results.metrics(tmp_path / "w/runs/lr0.1-s1")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert "about 0:00:0" in out


def test_sigterm_stops_the_runs_and_exits_0(tmp_path):
    first, second, _ = killed_and_resumed(tmp_path, signal.SIGTERM)
    assert (first, second) == (0, 0)
    assert starts(tmp_path / "w")["lr0.1-s1"] == 2


def test_runs_begun_with_other_fields_and_second_sweeps_are_refused(fake, tmp_path):
    path, workdir = write_file(tmp_path), tmp_path / "w"
    run(path, workdir)
    with pytest.raises(
        ValueError, match=r"other fields \(eps: absent there, 1e-7 now\); use another"
    ):
        run(path, workdir, "--config.eps=1e-7")
    with sweep._alone(workdir), pytest.raises(ValueError, match="another sweep is running"):
        run(path, workdir)


def rows_of(**groups):
    return [
        {"run": f"{group}-{seed}", "group": group, "seed": seed, "m/x": value, "lr": 1.0}
        for group, found in groups.items()
        for seed, value in enumerate(found)
    ]


def test_significance_is_paired_over_seeds():
    # Seeds differ by far more than groups do: only the pairs tell.
    rows = rows_of(a=[10.0, 20.0, 30.0], b=[11.0, 21.1, 30.9], c=[11.0, 12.0, 40.0])
    assert results.differs(rows, "b", "a", "m/x")
    assert not results.differs(rows, "c", "a", "m/x")
    assert not results.differs(rows, "a", "a", "m/x")
    assert ttest_rel([11.0, 21.1, 30.9], [10.0, 20.0, 30.0]).pvalue < 0.05
    # Two seeds, or the same quantised gain each time, tell nothing.
    rows = rows_of(a=[1.0, 2.0], b=[9.0, 10.1], c=[3.0, 4.0])
    assert not results.differs(rows, "b", "a", "m/x") and not results.differs(rows, "c", "a", "m/x")


def test_odd_results_leave_gaps_and_ties_are_all_bold():
    sweep_of = plan.Sweep("s", (Run("a", {"lr": 1}, "c"), Run("b", {"lr": "x|y"}, "c")), "m/x", "a")
    rows = rows_of(a=[1.001, float("nan")], b=[1.004], c=[None], d=[0.5])
    rows[0]["m/mean_recall"] = 3.0  # which only one run has
    rows[1]["lr"] = "x|y"
    lines = results.markdown(sweep_of, rows).splitlines()
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines[4:]]
    assert [row[3:] for row in cells if len(row) > 3] == [
        ["**1.00**", "**3.00**"],
        ["**1.00**", ""],
        ["", ""],
        ["0.50", ""],
    ]
    table = report.table([{"a": 1, "b": 1}, {"a": 0.5, "c": "x"}, {"b": "all", "d": None}])
    assert table.to_pylist()[2] == {"a": None, "b": "all", "c": None, "d": None}
    assert table["a"].to_pylist() == [1.0, 0.5, None] and table["b"].to_pylist()[0] == "1"


def test_results_that_cannot_be_written_do_not_stop_the_runs(fake, tmp_path, monkeypatch, capsys):
    calls = []

    def write(*_):
        calls.append(1)
        if len(calls) < 3:
            raise OSError("disk full")
        return []

    monkeypatch.setattr(report, "write", write)
    assert run(write_file(tmp_path), tmp_path / "w") == 0
    assert len(starts(tmp_path / "w")) == 5
    assert "could not be written: disk full" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 3}, "the seed is no field"),
        ({"lr": None}, "lr"),
        ({"loss_pairs": [["img", "txt", 0.5]]}, "would arrive as"),
        ({"log_steps": 4.5}, "log_steps"),
    ],
)
def test_values_that_would_not_arrive_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        plan._check(
            plan.Sweep("s", (Run("a", fields, "configs/lrsclip.py:demo"),), "m/x"), Path("s.py")
        )


def test_the_time_left_is_at_least_that_of_one_run(fake, tmp_path):
    loaded = plan.load(write_file(tmp_path))
    run(write_file(tmp_path), tmp_path / "w")
    state = sweep.State(tmp_path / "w")
    state.seconds = {one.name: 100.0 for one in loaded.runs}
    (tmp_path / "w/runs/lr0.2-s1/finished.json").unlink()
    state.seconds.pop("lr0.2-s1")
    assert sweep.time_left(loaded, state, parallel=4) == pytest.approx(100)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"fields": 1, "seconds": {}}'])
def test_a_damaged_memory_of_a_sweep_is_set_aside_and_its_runs_are_kept(
    fake, tmp_path, capsys, damage
):
    run(write_file(tmp_path), tmp_path / "w")
    table = (tmp_path / "w/table.md").read_text()
    (tmp_path / "w/sweep.json").write_text(damage)
    (tmp_path / "w/table.md").unlink()
    run(write_file(tmp_path), tmp_path / "w")
    assert "sweep.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "w/sweep.json.damaged").read_text() == damage
    assert (tmp_path / "w/table.md").read_text() == table


def test_runs_are_compared_by_the_parameters_they_trained(fake, tmp_path):
    path = write_file(tmp_path)
    path.write_text(path.read_text().replace('FIELD = "lr"', 'FIELD = "trained_parameters"'))
    run(path, tmp_path / "w")
    table = (tmp_path / "w/table.md").read_text().splitlines()
    assert [c.strip() for c in table[2].split("|")][1:4] == ["run", "lr", "trained_parameters"]
    assert [c.strip() for c in table[5].split("|")][1:4] == ["lr0.2", "0.2", "200"]


def test_a_wide_field_is_drawn_on_a_logarithmic_axis_with_zero(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure.axes[0]) or path)
    runs = tuple(Run(name, {"lr": name}, "c") for name in "abc")
    rows = rows_of(a=[1.0, 2.0], b=[2.0, 3.0], c=[3.0, 4.0])
    for size, row in zip((0, 0, 50, 50, 90_000, 90_000), rows, strict=True):
        row |= {"n": size, "lr": row["group"]}
    plots._metric(plan.Sweep("s", runs, "m/x", field="n"), rows, tmp_path)
    (axes,) = drawn
    assert axes.get_xscale() == "symlog"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    for row in rows:
        row["lr"] = 1.0
    plots._metric(plan.Sweep("s", runs, "m/x", field="n"), rows[2:4] * 2, tmp_path)
    assert drawn[1].get_xscale() == "linear" and list(drawn[1].get_xticks()) == [50]


def test_a_metric_that_no_run_has_is_told(fake, tmp_path):
    path = write_file(tmp_path)
    path.write_text(path.read_text().replace("val/mean_recall", "val/top1"))
    with pytest.raises(ValueError, match=r"'val/top1' of sweep some is none of .*val/mean_recall"):
        run(path, tmp_path / "w")


def test_lines_being_written_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert results.metrics(tmp_path) == [{"step": 1}]
