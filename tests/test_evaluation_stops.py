"""A run that is stopped within its evaluations: nothing is lost, and nothing is measured twice."""

import json

import numpy as np
import pytest
from small_run import flat, small_config, stop_at

from rsclip_jax import evaluators
from rsclip_jax.training import loop
from rsclip_jax.training.checkpoint import load_for_inference


class TwoBatches:
    """Evaluator of a number that depends on the parameters alone."""

    protocol = "any"
    metrics = ("score",)

    def __init__(self, runner):
        self._runner = runner

    def run(self, params):
        for _ in range(2):
            self._runner.before_batch()
        yield "score", float(np.abs(flat(params)).sum())

    def about(self):
        return []

    def picture(self, path):
        path.parent.mkdir(exist_ok=True)
        path.write_text("drawn", encoding="utf-8")


@pytest.fixture(autouse=True)
def two_evaluators(monkeypatch):
    monkeypatch.setattr(
        evaluators, "build", lambda config, runner: {k: TwoBatches(runner) for k in config.evals}
    )


def config_of(scenes):
    evals = {name: {"type": "retrieval", "data": "scenes", "split": "val"} for name in ("a", "b")}
    config = small_config(scenes, evals=evals, eval_steps=2, ema_decay=0.5, total_steps=3)
    config.checkpoint = {**config.checkpoint, "steps": 100, "keep": 1, "best": "a/score"}
    return config


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        two_evaluators.__wrapped__(patch)
        return workdir, loop.train(config_of(scenes), workdir)


def rows(workdir):
    speed = ("samples_per_s", "mfu", "input_wait")
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in speed} for line in lines]


def test_a_run_stopped_again_and_again_ends_as_if_nothing_had_been(
    whole, scenes, tmp_path, monkeypatch, capsys
):
    stopped = []
    while not (tmp_path / "finished.json").exists():
        with monkeypatch.context() as patch:
            stop_at(patch, 5)
            state = loop.train(config_of(scenes), tmp_path)
        if "stopped at step" in capsys.readouterr().out:
            stopped.append((int(state["step"]), [x for x in rows(tmp_path) if "lr" not in x]))
            assert load_for_inference(tmp_path)[2] == stopped[-1][0]  # it was saved before
    # Each evaluator has two batches, for the last parameters and for their average.
    assert [(step, len(found)) for step, found in stopped] == [
        (2, 1),
        (2, 3),
        (3, 4),
        (3, 6),
        (3, 8),
    ]
    assert rows(tmp_path) == rows(whole[0])
    np.testing.assert_array_equal(flat(state["params"]), flat(whole[1]["params"]))
    assert (tmp_path / "eval" / "b.png").read_text("utf-8") == "drawn"


def test_a_failing_evaluation_loses_no_training(scenes, tmp_path, monkeypatch):
    def fail(self, params):
        raise RuntimeError("no such picture")

    monkeypatch.setattr(TwoBatches, "run", fail)
    with pytest.raises(RuntimeError, match="no such picture") as error:
        loop.train(config_of(scenes), tmp_path)
    assert "config.evals.a; the step is saved" in error.value.__notes__[0]
    assert load_for_inference(tmp_path)[2] == 2


def test_the_best_checkpoint_is_kept_beside_the_newest_also_after_a_stop(
    scenes, tmp_path, monkeypatch
):
    scores = iter([9.0, float("nan"), 5.0])
    config = config_of(scenes)
    config.eval_steps, config.evals = 1, {"a": config.evals.a}
    monkeypatch.setattr(loop, "evaluated_params", lambda state: {"": None})
    monkeypatch.setattr(TwoBatches, "run", lambda *_: iter([("score", next(scores))]))
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        loop.train(config, tmp_path)
    loop.train(config, tmp_path)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [1, 3]
