"""Translators by the same trainer, at the size of a stamp."""

import itertools
import json
import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_run import stop_at

from configs import translator as config_file
from rsclip_jax import convert, evaluators, export, loading
from rsclip_jax.data import images
from rsclip_jax.data.free_infrared import FREE
from rsclip_jax.data.records import open_source
from rsclip_jax.evaluators.translation import TranslationQuality
from rsclip_jax.loading import load
from rsclip_jax.models import translator
from rsclip_jax.training import loop, translation
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import make_state
from rsclip_jax.training.step import make_train_step
from rsclip_jax.training.workdir import save_config
from rsclip_jax.translation import Translation, tile_starts


def tiny_config(variant, data_dir="data", **overrides):
    config = config_file.get_config(f"{variant},demo")
    config.model.update(depth=1, image_size=16, steps=2)
    config.input.data_dir = data_dir
    config.input.batch_size = 8
    config.update({"total_steps": 3, "warmup_steps": 0, "log_steps": 1, "eval_steps": 0})
    config.checkpoint.steps = 2
    config.update(overrides)
    return config


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    shape = (8, 16, 16, 3)
    ir = np.repeat(rng.integers(0, 256, (*shape[:3], 1)), 3, axis=-1)
    return {
        "image": rng.integers(0, 256, shape).astype(np.uint8),
        "ir": ir.astype(np.uint8),
        "ir_mask": np.array([True] * 6 + [False] * 2),
    }


def built(variant):
    config = tiny_config(variant)
    model = translator.build(config.model)
    shapes = jax.eval_shape(lambda: translator.init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(1)
    # Not as they start: behind a last layer of zeros no gradient would show.
    return config, model, jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype("f"), shapes)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_an_untrained_translator_gives_the_grayscale_image(batch):
    model = translator.build(tiny_config("pix2pix").model)
    params = jax.jit(lambda: translator.init_params(model, jax.random.key(0)))()
    made = Translation(model, batch_size=8).infrared(params, batch["image"])
    assert abs(made.astype(int) - FREE["grayscale"](batch["image"])).max() <= 1


def test_each_player_is_moved_by_its_own_loss_alone(batch):
    config, model, params = built("pix2pix")
    loss_fn = translation.make_loss(model, config, None, 10)
    grads, terms = jax.jit(jax.grad(loss_fn, has_aux=True))(params, batch, 0)

    kept = batch["ir_mask"]
    image, ir = (batch[field][kept] for field in ("image", "ir"))
    ir = ir[..., :1] / 127.5 - 1

    def judge(disc, x):
        given = {"params": {"gen": params["gen"], "disc": disc}}
        return model.apply(given, image, x, method="realness")

    def made(gen):
        return model.apply({"params": {"gen": gen}}, image, method="predict")

    def generator(gen):
        x = made(gen)
        judged = judge(params["disc"], x)
        return 100 * jnp.abs(x - ir).mean() + 0.5 * ((judged - 1) ** 2).mean()

    def discriminator(disc):
        x = made(params["gen"])
        return 0.5 * ((judge(disc, ir) - 1) ** 2).mean() + 0.5 * (judge(disc, x) ** 2).mean()

    both = jax.jit(lambda p: (jax.grad(generator)(p["gen"]), jax.grad(discriminator)(p["disc"])))
    for own, root in zip(both(params), ("gen", "disc"), strict=True):
        expected = flat(own)
        assert abs(expected).max() > 0
        scale = abs(expected).max()
        np.testing.assert_allclose(flat(grads[root]) / scale, expected / scale, atol=2e-4)
    assert set(terms) == {"l1", "generator", "discriminator"}


def test_a_bridge_that_knows_the_image_arrives(batch, monkeypatch):
    config, model, _ = built("bridge")
    ir = batch["ir"][..., :1] / 127.5 - 1
    monkeypatch.setattr(translator.Translator, "predict", lambda self, *given: jnp.asarray(ir))
    found = translator.translate(model, {}, batch["image"], jax.random.key(0))
    np.testing.assert_allclose(found, ir, atol=1e-5)
    loss, _ = translation.make_loss(model, config, None, 10)({}, batch, 3)
    assert float(loss) < 1e-6


def test_a_bridge_is_sampled_where_it_is_trained(monkeypatch):
    """Each step's points must have the mean and spread that training shows at that time."""
    config = tiny_config("bridge")
    config.model.update(steps=4, noise=0.6, image_size=64)
    model = translator.build(config.model)
    image = np.full((1, 64, 64, 3), 51, np.uint8)  # a luma of -0.6
    ir = np.full((1, 64, 64, 1), 0.8, np.float32)
    seen = {}

    def predict(self, image, x, time):
        jax.debug.callback(lambda t, x: seen.update({float(t): np.asarray(x)}), time[0], x)
        return jnp.asarray(ir)

    monkeypatch.setattr(translator.Translator, "predict", predict)
    translator.translate(model, {}, image, jax.random.key(0)).block_until_ready()
    assert sorted(seen) == [0, 0.25, 0.5, 0.75]
    for time, x in seen.items():
        noise = jax.random.normal(jax.random.key(1), ir.shape)
        trained = translator.on_bridge(model, image, ir, jnp.array([time]), noise)
        for points in (x, trained):
            assert points.mean() == pytest.approx(-0.6 + 1.4 * time, abs=0.02)
            assert points.std() == pytest.approx(0.6 * (time * (1 - time)) ** 0.5, rel=0.05)

    times = []
    monkeypatch.setattr(
        translator.Translator, "predict", lambda self, image, x, time: times.extend(time) or x
    )
    images = np.zeros((200, 1, 1, 3), np.uint8)
    rows = {"image": images, "ir": images, "ir_mask": np.ones(200, bool)}
    translation.make_loss(model, config, None, 10)({}, rows, 0)
    assert set(map(float, times)) == set(seen)
    assert 80 < times.count(0) < 150  # 4 of 7


def test_the_trainer_trains_resumes_and_evaluates_a_translator(
    scenes, tmp_path, monkeypatch, capsys
):
    config = tiny_config("pix2pix", scenes)
    config.evals.val.limit = 4
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        loop.train(config, tmp_path)
    state = loop.train(config, tmp_path)
    assert set(state["params"]) == {"gen", "disc"}
    assert "resuming" in capsys.readouterr().out
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "training_loss" in x] == [1, 2, 3]
    assert {"val/psnr", "val/ssim", "val/grayscale_psnr", "val/true_entropy"} <= set(lines[-1])
    source, params, step = load_for_inference(tmp_path)
    assert step == 3 and source.task == "translation"
    config.init_from = str(tmp_path)
    again, base = translation.parameters_from(config, translator.build(config.model))
    assert base is None
    np.testing.assert_array_equal(flat(again), flat(params))
    config.model.width = 16
    with pytest.raises(ValueError, match="is no translator of"):
        translation.parameters_from(config, translator.build(config.model))
    with pytest.raises(ValueError, match=r"is a translator, and rsclip_jax\.load is for CLIP"):
        load(tmp_path)


def test_a_bridge_learns_by_the_same_step(batch):
    config, model, params = built("bridge")
    tx = make_optimizer(config, params, 10)
    loss_fn = translation.make_loss(model, config, None, 10)
    step = jax.jit(make_train_step(loss_fn, tx, config, 10))
    start = make_state(params, tx, ema=False)
    state, metrics = step(start, batch)
    _, again = step(start, {**batch, "ir": batch["ir"] * kept()})
    assert float(metrics["bad_steps"]) == 0
    # Rows without an infrared image are not looked at.
    assert float(again["training_loss"]) == pytest.approx(float(metrics["training_loss"]), rel=1e-6)
    assert np.any(flat(state["params"]) != flat(params))


def kept():
    return np.array([1] * 6 + [0] * 2, np.uint8)[:, None, None, None]


def test_the_evaluator_compares_what_was_translated(scenes, tmp_path, monkeypatch):
    class Tower:
        def encode_ir(self, images):
            return np.array([[image.mean(), image.std()] for image in images])

    monkeypatch.setattr(loading, "load", lambda path: Tower())
    runner = SimpleNamespace(
        image_size=32, batch_size=3, infrared=lambda params, rgb: FREE["vegetation"](rgb)
    )
    config = SimpleNamespace(input=SimpleNamespace(data_dir=scenes))
    quality = TranslationQuality(
        config, runner, data="scenes", split="val", tower="any", limit=7, reference="scenes/val"
    )
    found = dict(quality.run(None))
    pairs, protocol = quality.about()
    assert pairs == "scenes/val: 7 pairs" and "1 - cosine in any" in protocol

    source = open_source(scenes, "scenes", "val")
    pairs = [[images.decode(source[i][f]) for f in ("image", "ir")] for i in range(7)]
    made = [FREE["vegetation"](rgb).astype(float) for rgb, _ in pairs]
    true = [ir[..., 0].astype(float) for _, ir in pairs]
    errors = [np.mean((a - b) ** 2) for a, b in zip(made, true, strict=True)]
    assert found["psnr"] == pytest.approx(np.mean([10 * np.log10(65025 / e) for e in errors]))
    assert found["brightness"] == pytest.approx(np.mean([a.mean() for a in made]))
    for quantity in ("brightness", "dynamic_range"):  # of a set without pairs, HIT-UAV's say
        assert found[f"reference_{quantity}"] == pytest.approx(found[f"true_{quantity}"])
    assert found["true_contrast"] == pytest.approx(np.mean([b.std() for b in true]))
    angles = [np.arctan2(a.std(), a.mean()) - np.arctan2(b.std(), b.mean())
              for a, b in zip(made, true, strict=True)]  # fmt: skip
    assert found["distance"] == pytest.approx(np.mean(1 - np.cos(angles)))
    for metric in ("psnr", "ssim", "distance"):
        assert found[metric] == pytest.approx(found[f"vegetation_{metric}"])
        assert found[metric] != found[f"grayscale_{metric}"]
    assert dict(quality.run(None)) == found
    quality.picture(tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").height > 6 * 32


def test_evaluators_are_of_one_task():
    for kind, runner in (("translation", object()), ("retrieval", object.__new__(Translation))):
        evals = {"val": {"type": kind, "data": "scenes", "split": "val"}}
        with pytest.raises(ValueError, match=f"type='{kind}' is not for what"):
            evaluators.build({"evals": evals}, runner)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 23), (9, 16)])
def test_tiles_cover_an_image_of_any_size(height, width):
    model = translator.build(tiny_config("pix2pix").model)
    runner = Translation(model, batch_size=4)
    runner.infrared = lambda params, images: 255 - FREE["grayscale"](images)
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((height, width), (20, 16))]
    for image, found in zip(pictures, runner.whole(None, pictures), strict=True):
        np.testing.assert_array_equal(found, 255 - FREE["grayscale"](image))
    for length in (16, 17, 40):
        starts = tile_starts(length, 16)
        assert starts[0] == 0 and starts[-1] == length - 16
        assert all(b - a <= 12 for a, b in itertools.pairwise(starts))


def test_tiles_of_many_images_fill_batches_and_few_are_held():
    runner = Translation(translator.build(tiny_config("pix2pix").model), batch_size=32)
    batches, drawn = [], []

    def infrared(params, images):
        batches.append(len(images))
        return images[..., 0]

    def pictures(count, side):
        for number in range(count):
            drawn.append(number)
            yield np.full((side, side, 3), number, np.uint8)

    runner.infrared = infrared
    for number, view in enumerate(runner.whole(None, pictures(70, 12))):
        assert (view == number).all() and view.shape == (12, 12)
    assert batches == [32, 32, 6]  # of one tile each
    drawn.clear()
    tracemalloc.start()
    for number, view in enumerate(runner.whole(None, pictures(6, 512))):
        assert (view == number).all() and len(drawn) <= number + 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 512**2  # bytes of a pixel: two images of 3, two sums of 4, the view


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.variant", "cyclegan", "one of 'pix2pix', 'bridge'"),
        ("model.width", 12, "multiple of 8"),
        ("model.depth", 5, r"multiple of 2\^depth"),
        ("input.ir_view", "grayscale", "records' own infrared"),
        ("input.lengths", {"text": 77}, "config.input.lengths=.* is of no use"),
        ("grad_cache_steps", 2, "is of no use to a translator"),
        ("task", "translate", "expected one of 'clip', 'translation'"),
    ],
)
def test_what_cannot_be_is_refused(field, value, message, tmp_path):
    config = tiny_config("pix2pix")
    *parents, name = field.split(".")
    (config[parents[0]] if parents else config)[name] = value
    with pytest.raises(ValueError, match=message):
        resolve(config, tmp_path)


@pytest.mark.parametrize(
    ("command", "more", "what"),
    [
        (convert, ["--image_size=128"], "--image_size=128"),
        (convert, ["--context_length=248", "--to=longclip"], "--to=longclip --context_length=248"),
        (convert, ["--activation=gelu"], "--activation=gelu"),
        (export, ["--dataset=pairs"], "rsclip_jax.export"),
    ],
)
def test_what_works_with_clip_models_alone_refuses_a_translator(command, more, what, tmp_path):
    save_config(tmp_path / "run" / "config.json", resolve(tiny_config("bridge"), tmp_path))
    model = f"--{'model' if command is export else 'input'}={tmp_path / 'run'}"
    with pytest.raises(ValueError, match=f"run is a translator, and {what} is for CLIP models: "):
        command.main([model, f"--output={tmp_path / 'out'}", *more])
    assert not (tmp_path / "out").exists()
