"""RGB, infrared and text in one model: losses against float64 NumPy, the options for infrared."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from small_run import losses, stop_at
from test_clip import CONFIG
from test_contrastive import assert_equal, reference
from test_peft import randomised

from configs import fusionrs, unified
from rsclip_jax import convert, weights
from rsclip_jax.data import pipeline
from rsclip_jax.data.text import make_tokenizer
from rsclip_jax.evaluators import build
from rsclip_jax.losses.pairs import text_keys, total_loss
from rsclip_jax.models import clip, peft
from rsclip_jax.training import loop
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import with_added
from rsclip_jax.training.step import make_loss

ROWS, WIDTH = 24, 16
HAS_IR = np.random.default_rng(1).random(ROWS) < 0.7
KEYS = np.random.default_rng(2).integers(0, 9, (ROWS, 1))
SETTINGS = {
    **fusionrs.LOSS_PAIRS,
    "trimodal, w = 0.3": (*fusionrs.LOSS_PAIRS["dual_text"], ("img", "ir", 0.3)),
}


def embeddings():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(ROWS, WIDTH))
    out = {}
    for name in ("img", "ir", "txt", "txt_ir"):
        z = shared + rng.normal(size=shared.shape)
        out["z" + name] = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    return out | {"t": np.float32(9.0), "t_img_ir": np.float32(5.0)}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("own_scale", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_the_loss_and_gradients_of_float64_numpy(setting, own_scale, masked):
    out, pairs = embeddings(), SETTINGS[setting]
    if not own_scale:
        del out["t_img_ir"]
    masks = {"ir": HAS_IR} if masked else {}
    same = {"txt": KEYS, "txt_ir": KEYS} if masked else {}

    def loss_fn(out):
        return total_loss(out, pairs, normalize=True, masks=masks, same=same)[0]

    loss, grads = jax.value_and_grad(loss_fn)(out)
    want, want_grads = 0.0, {name: np.zeros(np.shape(x)) for name, x in out.items()}
    total = sum(weight for _, _, weight in pairs)
    for a, b, weight in pairs:
        t = "t_img_ir" if own_scale and (a, b) == ("img", "ir") else "t"
        one, (dza, dzb, dt, _), _ = reference(
            out["z" + a],
            out["z" + b],
            float(out[t]),
            mask=HAS_IR if masked and "ir" in (a, b) else None,
            same=[KEYS] if masked and b.startswith("txt") else (),
        )
        want += weight / total * one
        for name, grad in (("z" + a, dza), ("z" + b, dzb), (t, dt)):
            want_grads[name] += weight / total * grad
    assert_equal(loss, want)
    for name, grad in want_grads.items():
        np.testing.assert_allclose(grads[name], grad, atol=2e-6 * max(np.abs(grad).max(), 1))


def test_keys_are_equal_for_equal_texts_alone():
    ids = np.random.default_rng(3).integers(0, 49408, (500, 77))
    ids[:, 1:] = ids[0, 1:]  # they differ in one token
    ids[250:] = ids[:250]
    keys = np.asarray(text_keys(jnp.asarray(ids)))
    distinct = len(np.unique(ids[:250], axis=0))
    assert len(np.unique(keys, axis=0)) == distinct > 240
    np.testing.assert_array_equal(keys[250:], keys[:250])


FIELDS = {**CONFIG, "image_size": 16, "peft": {**fusionrs.get_config().model.peft}}
IMAGES = np.random.default_rng(4).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)


def apply(model, params, **images):
    return jax.tree.map(np.asarray, jax.jit(model.apply)({"params": params}, **images))


@pytest.fixture(scope="module")
def plain():
    model = clip.build(FIELDS)
    params = randomised(clip.init_params(model, jax.random.key(0)))
    return params, apply(model, params, image=IMAGES[0], ir=IMAGES[1])


@pytest.mark.parametrize(
    "option", [{"ir_tower": "lora"}, {"ir_tower": "separate"}, {"ir_wavelength": 10.0}]
)
def test_options_for_infrared_change_nothing_at_first(plain, option):
    params, expected = plain
    model = clip.build({**FIELDS, **option, "own_scale": ("img_ir",)})
    extended = with_added(model, params, seed=0)
    shapes = jax.eval_shape(lambda: clip.init_params(model, jax.random.key(0)))
    assert jax.tree.map(jnp.shape, extended) == jax.tree.map(jnp.shape, shapes)
    found = apply(model, extended, image=IMAGES[0], ir=IMAGES[1])
    for name, z in expected.items():
        np.testing.assert_allclose(found[name], z, atol=1e-6)
    assert found["t_img_ir"] == found["t"]
    alone = apply(model, extended, ir=IMAGES[1])
    before = apply(clip.build(FIELDS), params, ir=IMAGES[1])
    np.testing.assert_array_equal(alone["zir"], before["zir"])  # to the last bit
    assert re.fullmatch(peft.ADDED, "t_img_ir") and not re.fullmatch(peft.ADDED, "t")


def test_the_lora_of_infrared_is_a_tower_with_other_kernels(plain):
    fields = {**FIELDS, "ir_tower": "lora"}
    fields["peft"] |= {"targets": "attn/value|mlp/fc1", "rank": 2, "alpha": 6.0}
    model = clip.build(fields)
    params = with_added(model, plain[0], seed=0)
    params["ir"] = randomised(params["ir"], seed=1)
    found = apply(model, params, image=IMAGES[0], ir=IMAGES[1])
    np.testing.assert_allclose(found["zimg"], plain[1]["zimg"], atol=1e-6)

    tower = jax.tree.map(np.array, params["img"])
    blocks, updates = tower["transformer"]["blocks"], params["ir"]["transformer"]["blocks"]
    for part, name in (("attn", "value"), ("mlp", "fc1")):
        a, b = (np.asarray(updates[part][f"lora_{name}"][k], np.float64) for k in "ab")
        blocks[part][name]["kernel"] += 6.0 / 2 * a @ b
    expected = apply(clip.build(FIELDS), {**plain[0], "img": tower}, image=IMAGES[1])["zimg"]
    np.testing.assert_allclose(found["zir"], expected, atol=1e-5)
    assert np.abs(found["zir"] - plain[1]["zir"]).max() > 0.01


def test_what_is_trained_beside_infrareds_own_is_merged_and_folded(plain):
    for method, ir_tower in (("lora", "lora"), ("prefix", "separate")):
        config = ConfigDict({"model": {**FIELDS, "ir_tower": ir_tower, "variant": "tiny"}})
        config.model.peft = {**FIELDS["peft"], "method": method, "prefix": 2, "hidden": 4}
        model = clip.build(config.model)
        params = randomised(with_added(model, plain[0], seed=0))
        expected = apply(model, params, image=IMAGES[0], ir=IMAGES[1])
        settled, merged = weights.settle_peft(config, params)
        found = apply(clip.build(settled.model), merged, image=IMAGES[0], ir=IMAGES[1])
        for name, z in expected.items():
            np.testing.assert_allclose(found[name], z, atol=1e-5)
        assert settled.model.peft.folded or not settled.model.peft.method


def test_a_separate_tower_serves_infrared_alone(plain):
    model = clip.build({**FIELDS, "ir_tower": "separate"})
    params = with_added(model, plain[0], seed=0)
    params["ir"] = randomised(params["ir"], seed=1)
    found = apply(model, params, image=IMAGES[0], ir=IMAGES[1])
    np.testing.assert_allclose(found["zimg"], plain[1]["zimg"], atol=1e-6)
    expected = apply(clip.build(FIELDS), {**params, "img": params["ir"]}, image=IMAGES[1])
    np.testing.assert_allclose(found["zir"], expected["zimg"], atol=1e-6)


def test_kernels_are_made_for_the_wavelengths(plain):
    model = clip.build({**FIELDS, "ir_wavelength": 10.0})
    params = with_added(model, plain[0], seed=0)
    params["img"]["embedding"]["spectrum"] = randomised(params["img"]["embedding"]["spectrum"])
    found = apply(model, params, image=IMAGES[0], ir=IMAGES[1])

    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["img"]["embedding"])
    layers = p["spectrum"]
    for name, wavelengths, images in (
        ("zimg", (0.665, 0.56, 0.49), IMAGES[0]),
        ("zir", (10.0, 10.0, 10.0), IMAGES[1]),
    ):
        kernel = np.array(p["kernel"])
        for channel, wavelength in enumerate(wavelengths):
            angles = np.pi * np.log2(wavelength) * np.array([1 / 8, 1 / 4, 1 / 2, 1, 2, 4])
            x = np.concatenate([np.sin(angles), np.cos(angles)])
            x = np.tanh(x @ layers["fc1"]["kernel"] + layers["fc1"]["bias"])
            mix = x @ layers["fc2"]["kernel"] + layers["fc2"]["bias"]
            kernel[:, :, channel] += np.tensordot(mix, layers["kernels"], 1)
        tower = {**plain[0]["img"], "embedding": {"kernel": kernel.astype(np.float32)}}
        expected = apply(clip.build(FIELDS), {**plain[0], "img": tower}, image=images)["zimg"]
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"ir_tower": "own"}, "ir_tower='own': one of shared"), ({"ir_wavelength": -1.0}, "0.85")],
)
def test_impossible_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        clip.build({**FIELDS, **option})


def small(scenes, ir_text_source="caption", config=None, **overrides):
    """Return the demo of fusionrs.py, or another, as small as small_run.small_config."""
    config = config or fusionrs.get_config("demo")
    config.update(
        tokenizer=f"sentencepiece:{scenes}/words.model",
        total_steps=4,
        warmup_steps=1,
        log_steps=1,
        eval_steps=0,
        evals={},
        export={},
    )
    config.model.image_size, config.model.scan = 32, True
    config.input.data_dir, config.input.batch_size = scenes, 16
    config.input.lengths.update(text=16, text_ir=24)
    config.input.ir_text_source = ir_text_source
    config.checkpoint.steps = 2
    with config.unlocked():
        config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture(scope="module")
def shared(scenes, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("shared")
    return workdir, loop.train(small(scenes), workdir)["params"]


def test_a_run_with_all_options_trains_and_is_read_again(shared, scenes, tmp_path):
    options = {
        "init_from": str(shared[0]),
        "model.ir_tower": "lora",
        "model.ir_wavelength": 0.85,
        "model.own_scale": ("img_ir",),
        "loss.mask_same_text": True,
        "mesh.fsdp": 2,
        "evals": {"val": {"type": "ir_retrieval", "data": "scenes", "split": "val"}},
    }
    config = small(scenes, "mixed", **options)
    config.evals.val.texts = "ir_caption"
    state = loop.train(config, tmp_path / "run")
    assert np.isfinite(list(losses(tmp_path / "run").values())).all()
    params = state["params"]
    assert params["t_img_ir"] != params["t"]
    assert np.abs(params["ir"]["transformer"]["blocks"]["attn"]["lora_query"]["b"]).max() > 0
    assert np.abs(params["img"]["embedding"]["spectrum"]["kernels"]).max() > 0

    found, read, step = load_for_inference(tmp_path / "run")
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, read, jax.device_get(params))
    model = clip.build(found.model)
    scores = dict(build(found, loop.Encoder(model))["val"].run(read))
    assert {"ir2t_R@1", "rgb2ir_R@1", "mean_recall"} <= scores.keys()
    with pytest.raises(ValueError, match=r"no place for .* infrared .*ir_tower='lora'"):
        convert.main([f"--input={tmp_path}/run", f"--output={tmp_path}/x", "--to=open_clip"])


def test_long_text_infrared_and_lora_go_on_from_one_checkpoint(
    shared, scenes, tmp_path, monkeypatch
):
    def run(workdir):
        config = small(scenes, config=unified.get_config("demo,lora"), init_from=str(shared[0]))
        config.input.lengths.text_long = 48
        config.frozen_positions = 20
        config.loss.max_scale = 0.0
        return loop.train(config, workdir)["params"]

    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        run(tmp_path)
    params = run(tmp_path)
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4]
    table, before = params["txt"]["pos_embedding"], shared[1]["txt"]["pos_embedding"]
    assert table.shape[0] == 248
    np.testing.assert_array_equal(table[:20], before[:20])
    assert np.abs(table[20] - before[20]).max() > 0
    np.testing.assert_array_equal(params["img"]["proj"], shared[1]["img"]["proj"])
    _, read, _ = load_for_inference(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, read, jax.device_get(params))
    with pytest.raises(ValueError, match="freezes img and txt"):
        resolve(unified.get_config(), tmp_path)


def test_records_without_infrared_train_the_rest_of_the_loss(shared, scenes, tmp_path):
    config = resolve(small(scenes), tmp_path)
    config.grad_cache_steps = 1
    model = clip.build(config.model)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "ir": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "ir_mask": np.arange(8) < 5,
        "text": rng.integers(3, 300, (8, 16), np.int32),
        "record": np.arange(8),
    }
    batch["text"][:, -1] = config.model.eot_id
    grads = jax.jit(jax.grad(make_loss(model, config, None, 4), has_aux=True))
    with_noise, metrics = grads(shared[1], batch, 0)
    batch["ir"] = np.where(batch["ir_mask"][:, None, None, None], batch["ir"], 0)
    without, _ = grads(shared[1], batch, 0)
    jax.tree.map(np.testing.assert_array_equal, with_noise, without)
    assert 0 < metrics["loss_img_txt"] and metrics["loss_ir_txt_ir"] != metrics["loss_img_txt"]

    batch["text"][1] = batch["text"][0]
    config.loss.mask_same_text = True
    _, metrics = jax.jit(make_loss(model, config, None, 4))(shared[1], batch, 0)
    z = apply(model, shared[1], image=batch["image"], text=batch["text"])
    key = np.array([0, 0, *range(2, 8)])[:, None]
    want = reference(z["zimg"], z["ztxt"], float(z["t"]), same=[key])[0]
    np.testing.assert_allclose(metrics["loss_img_txt"], want, rtol=1e-5)

    batch["ir_mask"][:] = False
    _, metrics = grads(shared[1], batch, 0)
    assert metrics["loss_img_ir"] == 0 == metrics["loss_ir_txt_ir"] < metrics["loss_img_txt"]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_record_that_comes_twice_is_not_its_own_negative(kind):
    rng = np.random.default_rng(0)
    z = {name: rng.normal(size=(8, 16)).astype(np.float32) for name in ("img", "ir", "txt")}
    z = {f"z{name}": x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in z.items()}
    records = np.array([3, 5, 3, 7, 8, 9, 5, 3])
    masks = {"ir": np.arange(8) != 4}
    pairs = (("img", "ir", 1.0), ("img", "txt", 1.0), ("ir", "txt", 1.0))
    bias = -10.0 if kind == "sigmoid" else None
    out = {**z, "t": 20.0, **({"b": bias} if bias else {})}
    for impl in ("gather", "ring"):
        _, metrics = total_loss(out, pairs, kind=kind, masks=masks, records=records, impl=impl)
        for a, b, _ in pairs:
            mask = masks["ir"] if "ir" in (a, b) else None
            keys = [records[:, None]]
            want = reference(z["z" + a], z["z" + b], 20.0, bias=bias, mask=mask, same=keys)[0]
            np.testing.assert_allclose(metrics[f"loss_{a}_{b}"], want, rtol=1e-5)


def test_a_pair_counts_by_its_rows_or_by_the_batch():
    out, masks = embeddings(), {"ir": HAS_IR}
    pairs = (("img", "txt", 1.0), ("img", "ir", 2.0))
    found = {mean: total_loss(out, pairs, masks=masks, mean=mean) for mean in ("present", "batch")}
    (loss, metrics), (by_batch, metrics_of_batch) = found.values()
    share = HAS_IR.mean()
    np.testing.assert_allclose(metrics_of_batch["loss_img_ir"], share * metrics["loss_img_ir"])
    np.testing.assert_allclose(loss - by_batch, 2 * (1 - share) * metrics["loss_img_ir"], rtol=1e-5)
    with pytest.raises(ValueError, match=r"config\.loss\.mean='rows': expected one of"):
        total_loss(out, pairs, masks=masks, mean="rows")


def test_a_batch_larger_than_the_data_masks_what_it_repeats(shared, scenes, tmp_path):
    """Of the whole way from the pipeline to the loss: 24 rows of 5 records."""
    config = resolve(small(scenes), tmp_path)
    config.input.subset, config.input.batch_size, config.grad_cache_steps = 5, 24, 1
    tokenizers = {k: make_tokenizer(config.tokenizer, n) for k, n in config.input.lengths.items()}
    dataset = pipeline.train_dataset(config.input, config.model.image_size, tokenizers, seed=0)
    batch = dataset[0]
    assert len(set(batch["record"].tolist())) == 5
    model = clip.build(config.model)
    _, metrics = jax.jit(make_loss(model, config, None, 4))(shared[1], batch, 0)
    z = apply(model, shared[1], image=batch["image"], ir=batch["ir"])
    keys = [batch["record"][:, None]]
    want = reference(z["zimg"], z["zir"], float(z["t"]), mask=batch["ir_mask"], same=keys)[0]
    np.testing.assert_allclose(metrics["loss_img_ir"], want, rtol=1e-4)


def test_a_plain_trimodal_model_exports_as_a_plain_clip(shared):
    config, params, _ = load_for_inference(shared[0])
    tensors = weights.to_state_dict(config, params, "open_clip")
    assert tensors["logit_scale"] == np.asarray(params["t"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.own_scale": ("img_txt_long",)}, r"own_scale names \['img_txt_long'\]"),
        ({"input.ir": False}, "set config.input.ir=True"),
        ({"input.ir": False, "loss_pairs": (("img", "txt", 1.0),), "input.ir_view": "grayscale"},
         "ir_view='grayscale' is of no use"),
        ({"loss_pairs": (("img", "txt", 1.0),), "model.ir_tower": "lora"}, "ir_tower='lora' is of"),
        ({"input.lengths": {"text": 16}, "input.ir_text_source": "mixed"}, "lengths.text_ir"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(scenes, tmp_path, overrides, message):
    config = small(scenes)
    if lengths := overrides.pop("input.lengths", None):
        config.input.lengths = lengths
    config.update_from_flattened_dict(overrides)
    with pytest.raises(ValueError, match=message):
        resolve(config, tmp_path)


def test_words_of_the_config_choose_the_papers_settings():
    c = fusionrs.get_config()
    assert c.loss_pairs == (("img", "txt", 1), ("ir", "txt_ir", 1), ("img", "ir", 1))
    assert (c.lr, c.wd, c.warmup_steps, c.input.batch_size) == (5e-6, 0.1, 500, 128)
    assert int(c.total_epochs * 579_992 / c.input.batch_size) == 13_593
    assert c.input.ir_text_source == "caption" and c.loss.normalize
    c = fusionrs.get_config("50k,grayscale,dual_text,L/14")
    assert (c.input.subset, c.input.ir_view, c.model.variant) == (50_000, "grayscale", "L/14")
    assert not fusionrs.get_config("rgb_text").input.ir
    c = fusionrs.get_config("mixed")
    assert c.input.ir_text_source == "mixed" and list(c.input.data) == ["fusionrs_ir_aware"]
    with pytest.raises(ValueError, match="'dual_text' is not beside 'rgb_text'"):
        fusionrs.get_config("rgb_text,dual_text")
    with pytest.raises(ValueError, match=r"'B/16' is unknown; .*B/32 or L/14"):
        fusionrs.get_config("B/16")
