"""Whole processes, killed and told to stop: `python -m rsclip_jax.main` must lose nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_run import flat, losses

from rsclip_jax.training.checkpoint import load_for_inference

ROOT = Path(__file__).parents[1]
STEPS = 60
SMALL = {
    "total_steps": STEPS, "warmup_steps": 5, "log_steps": 1, "eval_steps": 0,
    "model.image_size": 32, "model.scan": True, "input.batch_size": 16, "input.lengths.text": 16,
    "input.lengths.text_long": 32, "checkpoint.steps": 5, "scenes.train": 0,
}  # fmt: skip


def start(scenes: str, workdir: Path, devices: int = 1, **overrides) -> subprocess.Popen:
    words = f"sentencepiece:{scenes}/words.model"
    fields = {**SMALL, "input.data_dir": scenes, "tokenizer": words, **overrides}
    command = [sys.executable, "-m", "rsclip_jax.main", "--config=configs/lrsclip.py:demo"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in fields.items())]
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def steps_done(workdir: Path) -> int:
    try:
        return max(losses(workdir), default=0)
    except (FileNotFoundError, ValueError):  # not there yet, or its last line is being written
        return 0


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """A run of one process on one device."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(start(scenes, workdir))
    return workdir


def test_five_kills_at_random_moments_change_nothing(whole, scenes, tmp_path):
    rng = random.Random(0)
    kills = sorted(rng.sample(range(3, STEPS - 3), 5))
    for kill in kills:
        process = start(scenes, tmp_path)
        while steps_done(tmp_path) < kill and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)  # in the middle of a step, a save, a log line
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        process.communicate()
    out = finish(start(scenes, tmp_path))
    assert "resuming" in out
    assert losses(tmp_path) == losses(whole)
    _, params, step = load_for_inference(tmp_path)
    assert step == STEPS
    np.testing.assert_array_equal(flat(params), flat(load_for_inference(whole)[1]))


def test_sigterm_saves_exits_0_and_another_number_of_devices_goes_on(whole, scenes, tmp_path):
    process = start(scenes, tmp_path)
    while steps_done(tmp_path) < 7:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGTERM)
    out = finish(process)
    assert "stopped at step" in out
    stopped = load_for_inference(tmp_path)[2]
    assert 7 <= stopped < STEPS
    out = finish(start(scenes, tmp_path, devices=4))
    assert f"resuming {tmp_path} at step {stopped}" in out
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(losses(whole).values()), rtol=2e-3
    )


@pytest.mark.parametrize(
    ("flag", "hint"),
    [("lr_rate=1", "lr"), ("input.batchsize=8", "batch_size"), ("total_steps=many", "total_steps")],
)
def test_wrong_fields_and_types_are_refused_with_the_nearest_right_one(tmp_path, flag, hint):
    command = [sys.executable, "-m", "rsclip_jax.main", "--config=configs/lrsclip.py:demo"]
    command += [f"--workdir={tmp_path / 'never'}", f"--config.{flag}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode != 0 and hint in run.stderr
    assert not (tmp_path / "never").exists()
