"""Checkpoints that leave frozen parameters to the base: what they hold; nothing is lost."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from small_run import small_config, stop_at

from rsclip_jax import convert
from rsclip_jax.models import clip, peft
from rsclip_jax.sharding import make_mesh
from rsclip_jax.training import initial, loop
from rsclip_jax.training.base import base_of, checksum, joined, without
from rsclip_jax.training.checkpoint import load_for_inference, save_for_inference
from rsclip_jax.training.initial import parameters_from
from rsclip_jax.training.optim import param_names
from rsclip_jax.training.state import to_plain

FROZEN_TOWER = (("img/.*", None), (".*", 1.0))


def named(tree):
    names, leaves = jax.tree.leaves(param_names(tree)), jax.tree.leaves(tree)
    return {name: np.asarray(leaf) for name, leaf in zip(names, leaves, strict=True)}


def assert_same(found, expected):
    found, expected = named(found), named(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def base(scenes, tmp_path_factory):
    """A model of random parameters, as a workdir."""
    workdir = tmp_path_factory.mktemp("base")
    config = loop.resolve(small_config(scenes), workdir)
    params = clip.init_params(clip.build(config.model), jax.random.key(5))
    save_for_inference(workdir, config, params)
    return workdir


@pytest.fixture(scope="module")
def lora(scenes, base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora")
    return workdir, loop.train(lora_config(scenes, base), workdir)


def lora_config(scenes, base, **overrides):
    config = small_config(scenes, init_from=str(base), lr=1e-2, total_steps=2, **overrides)
    config.loss.max_scale = 0.0  # it clamps a frozen temperature, which is then kept as well
    config.model.peft.method = "lora"
    return config


def change(workdir, **fields):
    """Edit a run's config.json, as a user would."""
    path = workdir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def stored(step, item):
    """Return the names of the arrays in an item, from the metadata that Orbax writes."""
    entries = json.loads((step / item / "_METADATA").read_text())["tree_metadata"].values()
    return {"/".join(key["key"] for key in entry["key_metadata"]) for entry in entries}


def size_of(directory):
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


def fingerprint_of(params):
    """Sum the bits of all leaves in order, each times its odd place, modulo 2 ** 32."""
    total = 0
    for leaf in jax.tree.leaves(params):
        bits = np.asarray(leaf, np.float32).ravel().view(np.uint32).astype(object)
        total = (total * 31 + int((bits * (2 * np.arange(bits.size) + 1)).sum())) % 2**32
    return f"{total:08x}"


def test_a_checkpoint_holds_only_what_is_trained(lora, base):
    step = lora[0] / "checkpoints" / "2"
    trained = {k: v for k, v in named(lora[1]["params"]).items() if re.fullmatch(peft.ADDED, k)}
    assert stored(step, "params") == trained.keys() and len(trained) == 8
    opt_state = stored(step, "train")
    assert {n.split("mu/")[1] for n in opt_state if "/mu/" in n} == trained.keys()
    assert size_of(step) < size_of(base / "checkpoints" / "0") / 4


def test_the_whole_model_is_read_again_bit_by_bit(lora, base):
    config, params, step = load_for_inference(lora[0])
    assert step == 2 and config.init_from == str(base)
    assert_same(params, lora[1]["params"])


def test_a_relative_path_of_the_base_becomes_absolute(scenes, base, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parent)
    config = loop.resolve(lora_config(scenes, base.name), tmp_path)
    assert config.init_from == str(base)


def test_a_base_that_is_gone_or_another_is_told_and_can_be_put_right(lora, base, tmp_path, scenes):
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(lora[0], run)
    fingerprint = fingerprint_of(load_for_inference(base)[1])

    change(run, init_from=str(moved))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_for_inference(run)
    for part in (str(moved), fingerprint, f"{run}/config.json", "init_from"):
        assert part in str(error.value)
    change(run, init_from="")
    with pytest.raises(ValueError, match=rf"init_from is empty.*{fingerprint}"):
        load_for_inference(run)
    change(run, init_from=str(lora[0]))
    other = fingerprint_of(lora[1]["params"])
    with pytest.raises(ValueError, match=rf"another model now .*{other}.*{fingerprint}"):
        load_for_inference(run)
    with pytest.raises(ValueError, match=rf"another model now .*{other}.*{fingerprint}"):
        loop.train(lora_config(scenes, lora[0], seed=1), run)
    assert (run / "checkpoints" / "2").is_dir()  # it is not the checkpoint that is damaged

    shutil.copytree(base, moved)
    change(run, init_from=str(moved))
    assert_same(load_for_inference(run)[1], lora[1]["params"])


def test_the_base_may_have_gone_on_training(lora, base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(lora[0], tmp_path / "lora")
    change(tmp_path / "lora", init_from=str(tmp_path / "base"))
    _, params, _ = load_for_inference(tmp_path / "base")
    later = jax.tree.map(lambda x: x + 1, params)
    with ocp.CheckpointManager(tmp_path / "base/checkpoints") as manager:
        meta = {"step": 1, "checksums": {"params": checksum(later)}}
        items = {"meta": ocp.args.JsonSave(meta), "params": ocp.args.StandardSave(later)}
        manager.save(1, args=ocp.args.Composite(**items))
    assert load_for_inference(tmp_path / "base")[2] == 1
    assert_same(load_for_inference(tmp_path / "lora")[1], lora[1]["params"])


def test_a_converted_model_needs_no_base(lora, base, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(lora[0], run)
    shutil.copytree(base, moved)
    change(run, init_from=str(moved))
    convert.main([f"--input={run}", f"--output={tmp_path / 'whole'}", "--to=rsclip_jax"])
    shutil.rmtree(moved)
    params = load_for_inference(tmp_path / "whole")[1]
    assert stored(tmp_path / "whole/checkpoints/0", "params") == named(params).keys()
    merged = peft.merge_lora(lora[1]["params"], peft.Peft(lora="attn/(query|value)"))
    assert_same(params, merged)


def test_a_run_may_start_from_one_whose_checkpoints_are_partial(lora, scenes, tmp_path):
    state = loop.train(lora_config(scenes, lora[0], seed=1), tmp_path)
    _, params, _ = load_for_inference(tmp_path)
    assert_same(params, state["params"])
    assert stored(tmp_path / "checkpoints/2", "params") == stored(
        lora[0] / "checkpoints/2", "params"
    )
    before = named(lora[1]["params"])
    moved = [k for k, v in named(params).items() if (v != before[k]).any()]
    assert moved and all(re.fullmatch(peft.ADDED, name) for name in moved)


def test_a_frozen_tower_its_average_and_shards_resume_bit_by_bit(
    base, scenes, tmp_path, monkeypatch
):
    config = small_config(
        scenes,
        init_from=str(base),
        schedule=FROZEN_TOWER,
        ema_decay=0.5,
        mesh={"data": -1, "fsdp": 2},
        total_steps=4,
    )
    whole = loop.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        loop.train(config, tmp_path / "stopped")
    state = loop.train(config, tmp_path / "stopped")
    assert_same(to_plain(state), to_plain(whole))
    sharded = whole["params"]["img"]["transformer"]["blocks"]["mlp"]["fc1"]["kernel"]
    again = state["params"]["img"]["transformer"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert again.sharding == sharded.sharding and not again.sharding.is_fully_replicated
    for item in ("params", "ema"):
        names = stored(tmp_path / "stopped/checkpoints/4", item)
        assert names == {k for k in named(whole["params"]) if not k.startswith("img/")}
    assert_same(load_for_inference(tmp_path / "stopped")[1], whole["ema"])


def test_whole_checkpoints_of_before_are_read_and_continued(base, scenes, tmp_path, monkeypatch):
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(base, start)
    config = lora_config(scenes, start)
    with monkeypatch.context() as patch:
        patch.setattr(initial, "base_of", lambda *_: None)
        stop_at(patch, 1)
        loop.train(config, run)
    shutil.rmtree(start)  # nothing asks for it
    state = loop.train(config, run)
    assert int(state["step"]) == 2
    assert_same(load_for_inference(run)[1], state["params"])


def test_the_base_is_read_onto_all_devices(base, scenes, tmp_path):
    # The first device of all belongs to one process; the others could not read onto it.
    config = loop.resolve(small_config(scenes, init_from=str(base)), tmp_path)
    params, left = parameters_from(config, clip.build(config.model), make_mesh())
    assert left is None  # all is trained
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(params)} == {8}


def test_only_what_is_handed_on_unchanged_is_left_to_the_base():
    source = {
        "img": {"proj": jnp.ones(3), "pos_embedding": jnp.ones(2)},
        "txt": {"proj": jnp.zeros(3)},
        "t": jnp.ones(()),
    }
    params = {
        "img": {**source["img"], "pos_embedding": jnp.ones(4), "adapter": {"down": jnp.ones(1)}},
        "txt": source["txt"],
        "t": source["t"],
    }

    def left(schedule, max_scale=0.0):
        config = ConfigDict({"schedule": schedule, "loss": {"max_scale": max_scale}})
        found = base_of(config, source, 7, params)
        return found and found.leaves

    assert left(((".*", None),)) == ("img/proj", "t", "txt/proj")
    assert left(((".*", None),), max_scale=100.0) == ("img/proj", "txt/proj")  # t may be clamped
    assert left((("txt/.*", 1.0), (".*", None))) == ("img/proj", "t")
    assert left(((".*", 1.0),)) is None
    cut = without(params, ("img/proj", "txt/proj"))
    assert named(cut).keys() == {"img/pos_embedding", "img/adapter/down", "t"}
    assert_same(joined(cut, {k: named(params)[k] for k in ("img/proj", "txt/proj")}), params)
