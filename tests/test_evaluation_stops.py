"""A run that is stopped within its evaluations: nothing is lost, and nothing is measured twice."""

import itertools
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


def config_of(scenes, **overrides):
    evals = {name: {"type": "retrieval", "data": "scenes", "split": "val"} for name in ("a", "b")}
    return small_config(
        scenes,
        evals=evals,
        eval_steps=2,
        ema_decay=0.5,
        checkpoint__steps=100,
        checkpoint__keep=1,
        checkpoint__best="a/score",
        total_steps=4,
        **overrides,
    )


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
    for _ in range(30):
        with monkeypatch.context() as patch:
            stop_at(patch, 4)  # after two steps within an evaluation, or behind one and a half
            state = loop.train(config_of(scenes), tmp_path)
        if (tmp_path / "finished.json").exists():
            break
        stopped.append((int(state["step"]), len(rows(tmp_path))))
        assert load_for_inference(tmp_path)[2] == int(state["step"])  # it was saved before
        assert "stopped at step" in capsys.readouterr().out
    # Eight rows of evaluators, two batches each, are known one by one.
    assert len(stopped) > 5 and {step for step, _ in stopped} == {2, 3, 4}
    assert rows(tmp_path) == rows(whole[0])
    np.testing.assert_array_equal(flat(state["params"]), flat(whole[1]["params"]))
    assert (tmp_path / "eval" / "b.png").read_text("utf-8") == "drawn"


def test_the_step_is_on_disk_while_its_evaluation_runs_and_fails(scenes, tmp_path, monkeypatch):
    def fail(self, params):
        raise RuntimeError("no such picture")

    with monkeypatch.context() as patch:
        patch.setattr(TwoBatches, "run", fail)
        with pytest.raises(RuntimeError, match="no such picture") as error:
            loop.train(config_of(scenes), tmp_path)
    assert "config.evals.a; the step is saved" in error.value.__notes__[0]
    assert load_for_inference(tmp_path)[2] == 2
    loop.train(config_of(scenes), tmp_path)
    assert [x["step"] for x in rows(tmp_path) if "a/score" in x] == [2, 4]


def test_the_best_step_is_known_to_a_resumed_run(scenes, tmp_path, monkeypatch):
    scores = itertools.chain([1.0, 9.0, 5.0, float("nan"), 3.0])
    config = config_of(scenes, ema_decay=0.0, total_steps=5)
    config.eval_steps, config.evals = 1, {"a": config.evals.a}
    monkeypatch.setattr(TwoBatches, "run", lambda *_: iter([("score", next(scores))]))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        loop.train(config, tmp_path)
    loop.train(config, tmp_path)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [2, 5]
