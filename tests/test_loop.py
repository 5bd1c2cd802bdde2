import json

import golden_models
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image
from small_run import flat, losses, small_config, stop_at

from configs import lrsclip
from rsclip_jax import evaluate, export
from rsclip_jax.models import clip
from rsclip_jax.models.positions import stretch_positions
from rsclip_jax.training import loop
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.initial import parameters_from


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """A run of 6 steps, never interrupted: (workdir, final state)."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, loop.train(small_config(scenes), workdir)


def test_the_shipped_demo_trains_evaluates_draws_and_exports(scenes, tmp_path, capsys):
    shipped = lrsclip.get_config("demo")
    config = small_config(scenes, evals=shipped.evals, export=shipped.export, eval_steps=3)
    loop.train(config, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for metric in ("val/t2i_R@10", "scene_types/top1"):  # each evaluator has a line
        assert [x["step"] for x in lines if metric in x] == [3, 6]
    assert Image.open(tmp_path / "eval" / "val.png").size[0] > 500
    (shard,) = (tmp_path / "embeddings" / "scenes").glob("*.parquet")
    modalities = set(pq.read_table(shard)["modality"].to_pylist())
    assert modalities == {"image", "text", "text_long"}
    assert list((tmp_path / "tensorboard").iterdir())
    out = capsys.readouterr().out
    for shown in ("parameters", "compiled in", "temporary", "step 6/6", "samples/s", "MFU", "ETA"):
        assert shown in out

    # The same alone, from the workdir.
    metrics = evaluate.main([f"--model={tmp_path}", f"--output={tmp_path / 'alone'}"])
    last = {k: v for k, v in (lines[-2] | lines[-1]).items() if k != "step"}
    assert last == pytest.approx(metrics, abs=1e-3)
    arguments = [f"--model={tmp_path}", "--dataset=scenes", "--split=val"]
    export.main([*arguments, f"--output={tmp_path / 'vectors'}"])
    (again,) = (tmp_path / "vectors").glob("*.parquet")
    vectors = [np.array(pq.read_table(p)["vector"].to_pylist()) for p in (shard, again)]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)


def test_the_loss_falls_on_data_it_has_seen(scenes, tmp_path):
    config = small_config(scenes, total_steps=30, warmup_steps=5, lr=3e-3, checkpoint__steps=100)
    loop.train(config, tmp_path)
    curve = losses(tmp_path)
    assert np.mean([curve[s] for s in range(26, 31)]) < 0.8 * curve[1]


def test_resume_continues_the_same_loss_curve(finished, scenes, tmp_path, monkeypatch):
    mark = tmp_path / "finished.json"
    mark.write_text("{}")  # as of an earlier end, before total_steps was raised
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        state = loop.train(small_config(scenes), tmp_path)
        assert int(state["step"]) == 3
        assert not mark.exists()
    state = loop.train(small_config(scenes), tmp_path)
    trained = flat(state["params"]).size
    assert json.loads(mark.read_text()) == {"step": 6, "trained_parameters": trained}
    workdir, whole = finished
    assert losses(tmp_path) == losses(workdir)
    np.testing.assert_array_equal(flat(state["params"]), flat(whole["params"]))
    np.testing.assert_array_equal(flat(state["opt_state"]), flat(whole["opt_state"]))


def test_a_finished_run_is_not_trained_again(finished, scenes):
    workdir, whole = finished
    before = (workdir / "metrics.jsonl").read_text()
    state = loop.train(small_config(scenes), workdir)
    assert (workdir / "metrics.jsonl").read_text() == before
    np.testing.assert_array_equal(flat(state["params"]), flat(whole["params"]))


def test_fsdp_trains_as_replicated_parameters_do(finished, scenes, tmp_path):
    config = small_config(scenes, mesh={"data": 2, "fsdp": 4})
    state = loop.train(config, tmp_path)
    table = state["params"]["txt"]["token_embedding"]
    assert table.addressable_shards[0].data.size == table.size // 4
    workdir, whole = finished
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(losses(workdir).values()), rtol=1e-4
    )
    np.testing.assert_allclose(flat(state["params"]), flat(whole["params"]), atol=2e-3)


def test_a_run_resumes_on_another_mesh(finished, scenes, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        loop.train(small_config(scenes), tmp_path)
    loop.train(small_config(scenes, mesh={"data": 2, "fsdp": 4}), tmp_path)
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(losses(finished[0]).values()), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [({"model__context_length": 100}, ["model.context_length: 248 there, 100 now"]),
     ({"model__image_size": 64, "ema_decay": 0.9}, ["model.image_size", "ema_decay"]),
     ({"schedule": (("img/cls", None), (".*", 1.0))}, ["schedule"])],
)  # fmt: skip
def test_another_architecture_in_an_old_workdir_is_refused(finished, scenes, overrides, fields):
    with pytest.raises(ValueError, match="another architecture") as error:
        loop.train(small_config(scenes, **overrides), finished[0])
    for field in fields:
        assert field in str(error.value)


def test_kept_positions_survive_stretching_and_training(scenes, tmp_path):
    base = small_config(scenes, model__context_length=77)
    loop.train(base, tmp_path / "base")
    _, old, _ = load_for_inference(tmp_path / "base")
    config = small_config(
        scenes,
        init_from=str(tmp_path / "base"),
        frozen_positions=20,
        wd_mask=(".*",),
        wd=0.5,
        lr=1e-2,
    )
    new = np.asarray(loop.train(config, tmp_path / "long")["params"]["txt"]["pos_embedding"])
    old = np.asarray(old["txt"]["pos_embedding"])
    assert new.shape == (248, old.shape[1])
    np.testing.assert_array_equal(new[:20], old[:20])
    assert np.all(np.any(new[20:32] != old[20:32], axis=1))


def test_the_average_is_kept_and_preferred_and_the_sigmoid_loss_trains_its_bias(scenes, tmp_path):
    config = small_config(
        scenes, ema_decay=0.5, loss__kind="sigmoid", model__logit_bias=True, lr=1e-2
    )
    state = loop.train(config, tmp_path)
    _, params, step = load_for_inference(tmp_path)
    assert step == 6
    np.testing.assert_array_equal(flat(params), flat(state["ema"]))
    assert np.any(flat(state["ema"]) != flat(state["params"]))
    assert float(state["params"]["b"]) != -10.0


def test_non_finite_steps_change_nothing_and_then_stop_the_run(scenes, tmp_path, capsys):
    # The first step multiplies the parameters out of range, the following ones are not finite.
    far = {"lr": 0.9, "schedule": ((".*", 1e36),)}
    config = small_config(scenes, **far, max_bad_steps=3, grad_clip_norm=0.0, warmup_steps=0)
    with pytest.raises(FloatingPointError, match="3 steps in a row") as error:
        loop.train(config, tmp_path)
    (diagnosis,) = error.value.__notes__
    for word in ("parameters", "embeddings", "gradients", "config.lr"):
        assert word in diagnosis
    assert "parameters left as they were (3 in a row)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"total_epochs": 1.0}, "exactly one"),
     ({"input__batch_size": 12}, "multiple of 8"),
     ({"input__lengths": {"text": 16}}, "input.lengths.text_long"),
     ({"input__lengths": {"text": 16, "text_long": 300}}, "text_long=300"),
     ({"loss__kind": "sigmoid"}, "logit_bias"),
     ({"loss_pairs": (("img", "ir", 1.0),)}, "config.input.ir=True"),
     ({"model__vocab_size": 1000}, "config.model.vocab_size=1000"),
     ({"tokenizer": "bert"}, "bert"),
     ({"mesh": {"data": 3, "fsdp": 1}}, "config.mesh"),
     ({"frozen_positions": 248}, "config.frozen_positions"),
     ({"log_steps": 0}, "config.log_steps=0"),
     ({"input__batch_size": 1, "mesh": {"data": 1, "fsdp": 1}}, "batch_size=1"),
     ({"schedule": (("img/.*", None), (".*", 1.0))}, "freezes img, which would stay random"),
     ({"model__peft__method": "lora"}, r"freezes img and txt.*--config\.init_from=PATH")],
)  # fmt: skip
def test_bad_configs_are_refused_before_any_work(scenes, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        loop.train(small_config(scenes, **overrides), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_epochs_are_turned_into_steps(scenes):
    config = small_config(scenes, total_steps=0, total_epochs=2.5)
    assert loop.steps_of_epochs(config) == 15  # of 16 samples each, over 96 scenes


def test_starting_from_a_model_of_another_activation_is_refused(finished, scenes, tmp_path):
    config = small_config(scenes, init_from=str(finished[0]), model__activation="gelu")
    with pytest.raises(ValueError, match=r"model\.activation: quick_gelu there, gelu now"):
        loop.train(config, tmp_path)


def test_training_starts_from_another_codebases_file(scenes, tmp_path):
    rng = np.random.default_rng(0)
    state = golden_models.state("openclip_tiny_gelu")
    state["token_embedding.weight"] = rng.normal(size=(49408, 64)).astype(np.float32)
    safetensors.numpy.save_file(state, tmp_path / "base.safetensors")
    config = small_config(
        scenes,
        tokenizer="clip",
        total_steps=1,
        lr=0.0,
        init_from=str(tmp_path / "base.safetensors"),
        model__variant="custom",
        model__sizes=(8, 64, 2, 1, 64, 2, 1, 24, 32),
        model__activation="quick_gelu",
    )
    loop.train(config, tmp_path / "run")
    _, params, _ = load_for_inference(tmp_path / "run")
    np.testing.assert_array_equal(params["txt"]["proj"], state["text_projection"])
    expected = stretch_positions(state["positional_embedding"])
    np.testing.assert_array_equal(params["txt"]["pos_embedding"], expected)
    config.model.activation = "gelu"
    with pytest.raises(ValueError, match=r"model\.activation: quick_gelu there, gelu now"):
        loop.train(config, tmp_path / "other")


def test_another_name_of_the_same_sizes_is_no_other_model(scenes, finished, tmp_path):
    tiny = clip.VARIANTS["tiny"]._asdict()
    sizes = tuple(v for k, v in tiny.items() if k != "activation")
    config = small_config(
        scenes, init_from=str(finished[0]), model__variant="custom", model__sizes=sizes
    )
    config = loop.resolve(config, tmp_path)
    params, _ = parameters_from(config, clip.build(config.model))
    np.testing.assert_array_equal(flat(params), flat(finished[1]["params"]))
    config.model.sizes = (*sizes[:3], 4, *sizes[4:])  # heads, which no shape tells
    with pytest.raises(ValueError, match="image heads: 3 there, 4 now"):
        parameters_from(config, clip.build(config.model))


def test_fine_tuning_may_normalise_otherwise(finished, scenes, tmp_path, capsys):
    config = small_config(scenes, init_from=str(finished[0]), total_steps=1)
    config.model.mean = (0.4, 0.4, 0.4)
    loop.train(config, tmp_path)
    assert "model.mean: " in capsys.readouterr().out
