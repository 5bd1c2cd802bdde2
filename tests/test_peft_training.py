"""Training with a frozen base: what moves, what is kept, what comes out."""

import json
import re

import jax
import numpy as np
import pytest
from small_run import losses, small_config, stop_at

import rsclip_jax
from rsclip_jax import convert, weights
from rsclip_jax.models import clip, peft
from rsclip_jax.training import loop
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.initial import parameters_from
from rsclip_jax.training.optim import param_names


@pytest.fixture(scope="module")
def base(scenes, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("base")
    state = loop.train(small_config(scenes, total_steps=2), workdir)
    return workdir, state["params"]


def config_of(scenes, base, method, **overrides):
    config = small_config(scenes, init_from=str(base[0]), lr=1e-2, **overrides)
    config.model.peft.method = method
    return config


def named(tree):
    names, leaves = jax.tree.leaves(param_names(tree)), jax.tree.leaves(tree)
    return {name: np.asarray(leaf) for name, leaf in zip(names, leaves, strict=True)}


@pytest.fixture(scope="module")
def lora(scenes, base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora")
    return workdir, loop.train(config_of(scenes, base, "lora"), workdir)


def test_only_what_is_added_moves_and_has_optimiser_state(lora, base, scenes, capsys):
    workdir, state = lora
    before, after = named(base[1]), named(state["params"])
    added = after.keys() - before.keys()
    assert added == {name for name in after if re.fullmatch(peft.ADDED, name)}
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    moved = [name for name in added if name.endswith("/b") and np.abs(after[name]).max() > 0]
    assert len(moved) == 4  # query and value of both towers
    moments = sum(leaf.size for leaf in jax.tree.leaves(state["opt_state"]))
    assert (
        2 * sum(after[name].size for name in added)
        <= moments
        < 2.1 * sum(after[name].size for name in added)
    )
    assert len(losses(workdir)) == 6
    end = json.loads((workdir / "finished.json").read_text())
    assert end == {"step": 6, "trained_parameters": sum(after[name].size for name in added)}


def test_it_resumes_where_it_stopped(lora, base, scenes, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        loop.train(config_of(scenes, base, "lora"), tmp_path)
    state = loop.train(config_of(scenes, base, "lora"), tmp_path)
    whole, again = named(lora[1]["params"]), named(state["params"])
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)
    trained = sum(v.size for k, v in whole.items() if re.fullmatch(peft.ADDED, k))
    assert f"parameters, {trained:,} trained" in capsys.readouterr().out


def test_the_trained_model_is_loaded_merged_and_exported(lora, tmp_path):
    texts = np.array([[1, 40, 50, 60, 2], [1, 70, 2, 0, 0]], np.int32)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    whole = rsclip_jax.load(lora[0])
    assert whole.config.model.peft.method == "lora"
    for layout in ("rsclip_jax", "open_clip"):
        out = tmp_path / layout
        convert.main([f"--input={lora[0]}", f"--output={out}", f"--to={layout}"])
        plain = rsclip_jax.load(out, activation=None)
        assert not plain.config.model.get("peft", {}).get("method")
        found, expected = plain.encode_image(images), whole.encode_image(images)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    merged = rsclip_jax.load(tmp_path / "rsclip_jax")
    np.testing.assert_allclose(merged.encode_text(texts), whole.encode_text(texts), atol=2e-5)


def test_it_can_go_on_from_a_tuned_model_with_the_same_settings_only(lora, scenes, tmp_path):
    config = config_of(scenes, lora, "lora")
    ready = resolved(config, tmp_path)
    params, _ = parameters_from(ready, clip.build(ready.model))
    before = named(lora[1]["params"])
    for name, value in named(params).items():
        np.testing.assert_array_equal(value, before[name])
    config.model.peft.alpha = 16.0
    with pytest.raises(ValueError, match=r"model\.peft: .*alpha=8\.0.* there, .*alpha=16\.0.* now"):
        loop.train(config, tmp_path / "other")


def resolved(config, workdir):
    return loop.resolve(config, workdir)


@pytest.mark.parametrize("method", ["pfeiffer", "unipelt"])
def test_other_methods_train_sharded_and_rematerialised(method, base, scenes, tmp_path):
    config = config_of(scenes, base, method, total_steps=2, model__remat="full")
    config.mesh = {"data": -1, "fsdp": 2}
    state = loop.train(config, tmp_path)
    before, after = named(base[1]), named(state["params"])
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    curve = losses(tmp_path)
    assert np.isfinite(list(curve.values())).all()
    found, params, _ = load_for_inference(tmp_path)
    settled, _ = weights.settle_peft(found, params)
    assert settled.model.peft.folded == (method == "unipelt")
    with pytest.raises(ValueError, match=f"{method} cannot be merged"):
        convert.main([f"--input={tmp_path}", f"--output={tmp_path}/x", "--to=open_clip"])


def test_a_schedule_of_ones_own_is_left_as_it_is(base, scenes, tmp_path):
    config = config_of(scenes, base, "lora")
    assert resolved(config, tmp_path).schedule == ((peft.ADDED, 1.0), (".*", None))
    config.schedule = (("t", 1.0), (peft.ADDED, 0.5), (".*", None))
    assert resolved(config, tmp_path).schedule[0] == ("t", 1.0)
