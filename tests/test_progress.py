"""What a run tells about its speed."""

import contextlib
import functools
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from small_run import small_config

from rsclip_jax.data.pipeline import device_prefetch
from rsclip_jax.training import progress
from rsclip_jax.training.loop import evaluate
from rsclip_jax.training.metrics import MetricWriter, read_metrics
from rsclip_jax.training.progress import Progress


@pytest.fixture
def make_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "device_peak", lambda: (1e12, "made up"))

    def make(total_steps):
        config = small_config("data", log_steps=1)
        return Progress(config, lambda *_: 1e9, tmp_path, 0, total_steps)

    return make


METRICS = {"training_loss": jnp.array(1.0), "bad_steps": jnp.array(0)}


def report(make_progress, monkeypatch, waits: list[float]) -> None:
    """Report steps of a second each, so much of which was spent waiting for input."""
    now = waited = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now))
    reports = make_progress(len(waits))
    reports.start(0, waited=lambda: waited)
    for step, wait in enumerate(waits):
        now += 1.0
        waited += wait
        reports.push(step + 1, METRICS)
        reports.flush()
    reports.close()


def test_the_share_of_the_step_that_waits_for_input_is_told(make_progress, monkeypatch, capsys):
    report(make_progress, monkeypatch, [0.37, 0.0, 0.08, 0.12])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    told = [line.partition("input-bound: ")[2] for line in lines]
    assert told == ["37% of the step", "", "", "12% of the step"]


@pytest.mark.parametrize(
    ("waits", "hints"),
    [([0.3, 0.05, 0.3, 0.05], 0), ([0.05, 0.3, 0.3], 1), ([0.3] * 4 + [0.0] + [0.3] * 4, 1)],
)
def test_an_input_that_stays_too_slow_gets_one_hint(
    waits, hints, make_progress, monkeypatch, capsys
):
    report(make_progress, monkeypatch, waits)
    assert capsys.readouterr().out.count("prepare --resize=37") == hints  # 32 px are trained on


def test_the_hint_names_what_can_be_raised(monkeypatch):
    config = small_config("data")
    for cores, threads, workers, expected in (
        (2, 0, 0, "more cores"),
        (8, 3, 0, "config.input.threads=0 takes all 8"),
        (64, 0, 0, "config.input.workers=6"),
        (64, 0, 6, "more cores"),
    ):
        monkeypatch.setattr(progress, "available_cores", lambda cores=cores: cores)
        config.input.threads, config.input.workers = threads, workers
        assert expected in progress.input_advice(config)
        assert ("config.input" in progress.input_advice(config)) == ("config" in expected)


@pytest.mark.parametrize(
    ("loader_s", "step_s", "low", "high"), [(0.06, 0.02, 50, 80), (0, 0.02, 0, 10)]
)
def test_a_slow_loader_is_reported_and_a_fast_one_is_not(
    loader_s, step_s, low, high, make_progress, capsys
):
    def batches():
        for _ in range(16):
            time.sleep(loader_s)
            yield {"image": np.zeros((8, 2, 2, 3), np.uint8)}

    mesh = jax.make_mesh((jax.device_count(), 1), ("data", "fsdp"))
    prefetch = device_prefetch(batches(), NamedSharding(mesh, P(("data", "fsdp"))))
    next(prefetch)
    reports = make_progress(15)
    reports._config.log_steps = 15
    reports.start(0, waited=lambda: prefetch.wait_s)
    for step in range(1, 16):
        time.sleep(step_s)
        reports.push(step, METRICS)
        if step < 15:
            next(prefetch)
    reports.flush()
    reports.close()
    prefetch.close()
    share = capsys.readouterr().out.partition("input-bound: ")[2].partition("%")[0]
    assert low <= int(share or 0) <= high


class Named:
    """Stands for an evaluator."""

    protocol = "plain"

    def __init__(self, failing=False):
        self._failing = failing

    def run(self, params):
        yield "top1", 50.0
        if self._failing:
            raise OSError("broken")

    def about(self):
        return ["d/val: 8 images"]


def test_results_are_written_and_explained_as_each_evaluator_finishes(
    make_progress, tmp_path, capsys
):
    reports = make_progress(8)
    config = small_config("data", checkpoint__best="")
    one = Named()
    for step in (4, 8):
        evals = {"one": one, "other": Named(failing=step == 8)}
        report = functools.partial(reports.scores, step)
        with pytest.raises(OSError, match="broken") if step == 8 else contextlib.nullcontext():
            evaluate(evals, {"": None}, config, tmp_path, report, {})
    reports.close()
    lines = [{k: v for k, v in line.items() if k != "step"} for line in read_metrics(tmp_path)]
    assert lines == [{"one/top1": 50.0}, {"other/top1": 50.0}, {"one/top1": 50.0}]
    told = capsys.readouterr().out
    assert told.count("step 8, one\n") == 1 and told.count("  plain") == 3
    assert told.count("  d/val: 8 images") == 2  # once for each evaluator


def test_damaged_lines_of_metrics_are_counted_and_the_others_are_kept(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "a": 1.0}\n\0\0\0\0\n{"step": 2, "a"\n\xff\n[]\n{"step": 3}\n{"step": 4'
    )
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1.0}, {"step": 3}]
    assert "4 damaged lines are left out" in capsys.readouterr().err
    MetricWriter(tmp_path, 2).close()
    assert path.read_text() == '{"step": 1, "a": 1.0}\n'
    capsys.readouterr()
    assert len(read_metrics(tmp_path)) == 1 and capsys.readouterr().err == ""
