"""config.profile: a trace of the steps it names, and of no others."""

import gzip
import json
from pathlib import Path

import pytest
from small_run import small_config

from rsclip_jax.training.loop import train
from rsclip_jax.training.resolve import resolve


def traced_steps(workdir: Path) -> set[int]:
    """Return the numbers of the steps that the trace names."""
    found = set()
    for path in workdir.glob("profile/plugins/profile/*/*.trace.json.gz"):
        assert list(path.parent.glob("*.xplane.pb"))  # what TensorBoard reads
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        found |= {int(e["args"]["step_num"]) for e in events if e.get("name") == "train"}
    return found


def test_the_named_steps_are_traced_and_the_place_is_told(scenes, tmp_path, capsys):
    train(small_config(scenes, profile=(3, 4)), tmp_path)
    assert traced_steps(tmp_path) == {3, 4}
    assert f"xprof --logdir={tmp_path / 'profile'}" in capsys.readouterr().out


def test_a_resumed_run_traces_what_is_left_and_nothing_after_the_last(scenes, tmp_path, capsys):
    train(small_config(scenes, total_steps=3), tmp_path)
    assert traced_steps(tmp_path) == set()
    train(small_config(scenes, total_steps=5, profile=(2, 4)), tmp_path)
    assert traced_steps(tmp_path) == {4}
    before = sorted((tmp_path / "profile").rglob("*"))
    capsys.readouterr()
    train(small_config(scenes, total_steps=6, profile=(2, 4)), tmp_path)
    assert sorted((tmp_path / "profile").rglob("*")) == before
    assert "config.profile=(2, 4): nothing to trace from step 5 to 6" in capsys.readouterr().out


def test_a_run_that_ends_within_the_steps_writes_what_it_has(scenes, tmp_path):
    config = small_config(scenes, total_steps=0, total_epochs=0.5, profile=(2, 9))  # 3 steps
    train(config, tmp_path)
    assert traced_steps(tmp_path) == {2, 3}


@pytest.mark.parametrize("steps", [(3,), (0, 2), (4, 3), (5, 7), (1.5, 2), ("a", "b")])
def test_steps_that_are_none_are_refused(scenes, tmp_path, steps):
    with pytest.raises(ValueError, match=r"config\.profile=.*expected \(first, last\)"):
        resolve(small_config(scenes, profile=steps), tmp_path)
