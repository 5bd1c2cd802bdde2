import itertools
import json
import os
import shutil

import numpy as np
import pytest
from small_run import flat, losses, small_config

from configs import lrsclip
from rsclip_jax.training import loop
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.workdir import (
    check_workdir,
    load_config,
    lock_workdir,
    remember,
    save_config,
    set_damaged_aside,
)


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """A run with checkpoints of steps 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, loop.train(small_config(scenes), workdir)


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def largest_file(directory):
    files = [p for p in directory.rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def truncate(step):
    path = largest_file(step / "params")
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(step):
    path = largest_file(step / "params")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def half_written(step):
    shutil.rmtree(step / "train")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, half_written])
def test_a_damaged_step_is_passed_over_with_a_warning(finished, run, scenes, damage, capfd):
    damage(run / "checkpoints" / "6")
    assert load_for_inference(run)[2] == (6 if damage is half_written else 4)
    capfd.readouterr()
    state = loop.train(small_config(scenes), run)
    assert "".join(capfd.readouterr()).count("passing over checkpoint 6") == 1
    assert (run / "checkpoints" / "6.damaged").is_dir()
    assert losses(run) == losses(finished[0])
    np.testing.assert_array_equal(flat(state["params"]), flat(finished[1]["params"]))
    assert load_for_inference(run)[2] == 6  # written anew


def test_a_run_that_cannot_read_on_saves_its_step_first(scenes, tmp_path, monkeypatch, finished):
    def damaged(batches, *_):
        yield from ((batch, 0) for batch in itertools.islice(batches, 3))
        raise ValueError("record 17 is damaged")

    config = small_config(scenes, checkpoint__steps=100)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="record 17"):
        patch.setattr(loop, "with_packed_rows", damaged)
        loop.train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    state = loop.train(config, tmp_path)
    np.testing.assert_array_equal(flat(state["params"]), flat(finished[1]["params"]))


def test_an_empty_step_of_the_future_is_never_chosen(run, scenes, capsys):
    (run / "checkpoints" / "100").mkdir()
    state = loop.train(small_config(scenes, log_steps=2), run)
    said = capsys.readouterr().out
    assert int(state["step"]) == 6 and "passing over checkpoint 100" in said
    assert said.count("these changed fields could change\n  log_steps: 1 there, 2 now") == 1


def test_a_run_whose_every_checkpoint_is_unreadable_is_not_started_over(run, scenes):
    for step in (2, 4, 6):
        truncate(run / "checkpoints" / str(step))
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"none of the checkpoints \[2, 4, 6\]"):
        loop.train(small_config(scenes), run)
    assert (run / "metrics.jsonl").read_text() == before


def test_a_best_metric_that_no_evaluator_yields_is_refused(scenes, tmp_path):
    class Evaluator:
        def run(self, params):
            yield "mean_recall", 1.0

    def report(*given):
        pass

    config = small_config(scenes, checkpoint__best="val/recall")
    with pytest.raises(ValueError, match="'val/recall' is none of val/mean_recall"):
        loop.evaluate({"val": Evaluator()}, {"": None}, config, tmp_path, report, {})
    with pytest.raises(ValueError, match="EVALUATOR/METRIC"):
        loop.train(small_config(scenes, checkpoint__best="test/mean_recall"), tmp_path)


def test_checkpoints_by_time_alone(scenes, tmp_path):
    config = small_config(scenes, checkpoint__steps=0, checkpoint__minutes=1e-6)
    loop.train(config, tmp_path)
    kept = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert 6 in kept and min(kept) < 6


def test_an_architecture_may_change_while_nothing_is_saved(scenes, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no workdir|no such file"):
        loop.train(small_config(scenes, init_from=str(tmp_path / "nowhere")), tmp_path / "run")
    config = small_config(scenes, model__context_length=77)
    assert int(loop.train(config, tmp_path / "run")["step"]) == 6


def test_steps_whose_scores_are_lost_are_kept(scenes, tmp_path, capsys):
    val = {"type": "retrieval", "data": "scenes", "split": "val"}
    settings = {"eval_steps": 2, "evals": {"val": val}, "checkpoint__best": "val/mean_recall"}
    loop.train(small_config(scenes, total_steps=4, **settings), tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    loop.train(small_config(scenes, total_steps=8, checkpoint__keep=1, **settings), tmp_path)
    told = "steps 2 are kept: metrics.jsonl has no val/mean_recall of them"
    assert told in capsys.readouterr().out
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert {2, 8} <= kept and len(kept) <= 4  # those that are scored are pruned at the next save


def test_only_the_newest_checkpoints_are_kept(scenes, tmp_path):
    loop.train(small_config(scenes, checkpoint__steps=1, checkpoint__keep=2), tmp_path)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [5, 6]


def test_inference_loads_the_asked_step_or_says_what_there_is(finished, tmp_path):
    assert load_for_inference(finished[0], step=2)[2] == 2
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; it has \[2, 4, 6\]"):
        load_for_inference(finished[0], step=3)
    with pytest.raises(FileNotFoundError, match=r"is no workdir|no such file"):
        load_for_inference(tmp_path)


def test_configs_survive_their_file(finished, tmp_path, scenes):
    config = load_config(finished[0] / "config.json")
    assert config.loss_pairs == (("img", "txt_long", 1.0), ("img", "txt", 1.0))
    assert config.model.vocab_size == 400 and config.model.image_size == 32
    save_config(tmp_path / "again.json", config)
    assert load_config(tmp_path / "again.json") == config


def test_lines_after_the_resumed_step_and_a_torn_line_are_dropped(run, scenes):
    shutil.rmtree(run / "checkpoints" / "6")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "training_lo')
    loop.train(small_config(scenes), run)
    steps = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_two_runs_cannot_share_a_workdir(run, scenes):
    with lock_workdir(run), pytest.raises(ValueError, match="another process is training"):
        loop.train(small_config(scenes), run)
    assert int(loop.train(small_config(scenes), run)["step"]) == 6


def test_a_run_from_before_a_field_was_there_goes_on(tmp_path):
    config = lrsclip.get_config("demo")
    old = config.copy_and_resolve_references().unlock()
    del old.model["sizes"]
    save_config(tmp_path / "config.json", old)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    check_workdir(tmp_path, config)
    save_config(tmp_path / "config.json", old)
    config.model.variant = "B/32"
    with pytest.raises(ValueError, match=r"model\.variant: tiny there, B/32 now"):
        check_workdir(tmp_path, config)


def test_a_finished_run_keeps_its_config_and_another_start_must_be_there(tmp_path, capsys):
    config = lrsclip.get_config("demo")
    (tmp_path / "checkpoints" / "9").mkdir(parents=True)
    save_config(tmp_path / "config.json", config)
    config.init_from = str(tmp_path / "nowhere.pt")
    with pytest.raises(FileNotFoundError, match=r"config\.init_from=.*nowhere\.pt: no such file"):
        check_workdir(tmp_path, config)
    config.init_from, config.lr, config.export = "", 0.5, {"more": ("val",)}
    remember(tmp_path, config, steps_left=False)
    said = capsys.readouterr().out
    assert "no step is left that these changed fields could change\n  lr: " in said
    assert "export" not in said
    stored = load_config(tmp_path / "config.json")
    assert stored.lr != 0.5 and stored.export.more == ("val",)
    remember(tmp_path, config, steps_left=True)
    assert "resuming with changed fields\n  lr: " in capsys.readouterr().out
    assert load_config(tmp_path / "config.json").lr == 0.5


@pytest.mark.parametrize("damage", ["", "[1]", "{", "\0" * 9])
def test_a_damaged_config_is_set_aside_and_does_not_stop_a_run(tmp_path, capsys, damage):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    path = tmp_path / "config.json"
    path.write_text(damage)
    with pytest.raises(ValueError, match=r"config\.json is damaged, no JSON"):
        load_config(path)
    config = lrsclip.get_config("demo")
    set_damaged_aside(tmp_path)
    check_workdir(tmp_path, config)
    remember(tmp_path, config, steps_left=True)
    assert "the run goes on with the fields given now" in capsys.readouterr().err
    assert load_config(path).lr == config.lr
    assert (tmp_path / "config.json.damaged").read_text() == damage


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", 3, r"config\.json: config\.model=3: expected a dictionary"),
        ("model.image_size", "x", r"config\.json: config\.model\.image_size='x': expected a whole"),
        (
            "model.image_size",
            None,
            r"config\.json: a field of config\.model is missing: .*image_size",
        ),
        ("evals", [1], r"config\.json: config\.evals=\(1,\): expected a dictionary"),
        ("evals.val", 1, r"config\.json: config\.evals=.*: expected a dictionary of evaluators"),
        ("input", 3, r"config\.json: config\.input\.data_dir is missing"),
        ("input.lengths", None, r"config\.json: config\.input\.lengths is missing"),
        ("task", "x", r"config\.json: config\.task='x': expected one of"),
        ("", None, r"config\.json is missing, and tells"),
    ],
)
def test_an_edited_config_of_a_run_is_refused_in_a_line(tmp_path, field, value, message):
    config = json.loads(lrsclip.get_config("demo").to_json())
    (tmp_path / "checkpoints").mkdir()
    if field:
        *sections, name = field.split(".")
        part = config[sections[0]] if sections else config
        part[name] = value
        if value is None:
            del part[name]
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_for_inference(tmp_path)
