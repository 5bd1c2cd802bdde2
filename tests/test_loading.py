import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
from golden_models import GOLDEN
from PIL import Image

import rsclip_jax
from rsclip_jax import convert, weights
from rsclip_jax.data import images
from rsclip_jax.evaluators.zero_shot import classifier_weights
from rsclip_jax.models.positions import stretch_positions
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.state import refit


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Return (path of the golden open_clip weights, arrays)."""
    arrays = dict(np.load(GOLDEN / "openclip_tiny_quickgelu.npz"))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    state = {k[6:]: v for k, v in arrays.items() if k.startswith("param/")}
    safetensors.numpy.save_file(state, path)
    return path, arrays


@pytest.fixture(scope="module")
def model(golden):
    return rsclip_jax.load(golden[0])


def unit(z):
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def test_embeddings_are_those_of_the_reference(model, golden):
    arrays = golden[1]
    zimg = model.encode_image(arrays["image"].transpose(0, 2, 3, 1))
    ztxt = model.encode_text(arrays["tokens"])
    np.testing.assert_allclose(zimg, unit(arrays["z_image"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ztxt, unit(arrays["z_text"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.encode_text(arrays["tokens"], normalize=False), arrays["z_text"], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(model.similarity(zimg, arrays["tokens"]), zimg @ ztxt.T, atol=1e-6)


def test_all_kinds_of_images_embed_alike(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    z = model.encode_image(str(tmp_path / "x.png"))
    assert z.shape == (1, 24) and z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
    for same in (
        tmp_path / "x.png",
        [tmp_path / "x.png"],
        Image.fromarray(pixels),
        pixels,
        pixels[None],
        [pixels],
        images.eval_preprocess(pixels, 32)[None],
        model.preprocess(pixels)[None],
    ):
        np.testing.assert_allclose(model.encode_image(same), z, atol=2e-6)
    np.testing.assert_allclose(model.encode_ir(pixels), z, atol=2e-6)  # one tower for both
    grey = pixels[..., 0]
    expected = model.encode_image(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_allclose(model.encode_ir([grey]), expected, atol=2e-6)
    np.testing.assert_allclose(model.encode_ir(Image.fromarray(grey)), expected, atol=2e-6)


def test_more_than_a_batch_keeps_its_order(model):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), np.uint8)
    z = model.encode_image(pixels)
    assert z.shape == (300, 24)
    for i in (0, 255, 256, 299):
        np.testing.assert_allclose(model.encode_image(pixels[i]), z[[i]], atol=2e-6)


def test_nothing_gives_nothing(model):
    assert model.encode_image([]).shape == (0, 24)
    assert model.encode_image(np.zeros((0, 32, 32, 3), np.float32)).shape == (0, 24)
    assert model.encode_text([]).shape == (0, 24)


def test_wrong_inputs_are_told(model, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    for wrong, message in (
        (tmp_path / "x.jpg", "x.jpg"),
        (np.zeros((2, 16, 16, 3), np.float32), r"\[N, 32, 32, 3\]"),
        ([np.zeros((8, 8, 5), np.uint8)], r"\(8, 8, 5\)"),
        ([np.zeros((32, 32, 3), np.float32)], "stack preprocessed images"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode_image(wrong)
    with pytest.raises(ValueError, match="97 tokens"):  # the vocabulary of the golden file
        model.encode_text(["a harbor"])
    with pytest.raises(ValueError, match="0 to 96"):
        model.encode_text(np.array([[1, 97]]))
    with pytest.raises(ValueError, match="L <= 77"):
        model.encode_text(np.zeros((1, 78), np.int32))


def test_threads_get_what_one_call_gets(model):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (4, 32, 32, 3), np.uint8) for _ in range(8)]
    expected = [model.encode_image(x) for x in pixels]
    found = [None] * 8

    def work(i):
        found[i] = model.encode_image(pixels[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, expected)


def test_a_longer_context_and_a_larger_image_keep_what_is_known(golden):
    path, arrays = golden
    model = rsclip_jax.load(path, context_length=248, image_size=48)
    table = np.asarray(model.params["txt"]["pos_embedding"])
    np.testing.assert_array_equal(table, stretch_positions(arrays["param/positional_embedding"]))
    assert model.encode_image(np.zeros((1, 48, 48, 3), np.uint8)).shape == (1, 24)
    short = np.array([[1, 2, 3, 96]])
    np.testing.assert_allclose(
        model.encode_text(short), rsclip_jax.load(path).encode_text(short), atol=1e-6
    )


@pytest.mark.parametrize(
    "flag", ["image_size=-8", "image_size=0", "image_size=1000000000", "context_length=0"]
)
def test_sizes_that_cannot_be_are_refused(golden, flag, tmp_path):
    with pytest.raises(ValueError, match=rf"^(config\.model\.)?{flag}: expected"):
        convert.main([f"--input={golden[0]}", f"--output={tmp_path / 'out'}", f"--{flag}"])


def test_a_shorter_context_cuts_the_lengths_of_all_texts(golden):
    config, params, _ = load_for_inference(golden[0])
    lengths = refit(config, params, 5, None)[0].input.lengths
    assert lengths.to_dict() == {"text": 5, "text_long": 5}


@pytest.mark.parametrize("layout", ["rsclip_jax", "open_clip", "huggingface"])
def test_converted_models_embed_alike(golden, model, layout, tmp_path):
    path, arrays = golden
    out = tmp_path / "out"
    convert.main([f"--input={path}", f"--output={out}", f"--to={layout}", "--activation=gelu"])
    again = rsclip_jax.load(out)
    expected = {**model.config.model.to_dict(), "activation": "gelu"}
    assert again.config.model.to_dict() == expected
    expected = rsclip_jax.load(path, activation="gelu").encode_text(arrays["tokens"])
    np.testing.assert_array_equal(again.encode_text(arrays["tokens"]), expected)
    with pytest.raises(ValueError, match="not empty"):
        convert.main([f"--input={path}", f"--output={out}", f"--to={layout}"])


def test_a_run_is_loaded_and_classifies(scenes, tmp_path):
    from small_run import small_config

    from rsclip_jax.training.loop import train

    train(small_config(scenes, total_steps=2), tmp_path / "run")
    clip = rsclip_jax.load(tmp_path / "run")
    classifier = classifier_weights(clip, ["harbor", "runway"], "plain")
    assert classifier.shape == (2, 64)
    convert.main([f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'oc'}", "--to=open_clip"])
    state, hints = weights.files.read(tmp_path / "oc")
    np.testing.assert_array_equal(state["logit_scale"], clip.params["t"])
    assert hints["eot_id"] == clip.config.model.eot_id == 2  # SentencePiece's, not the highest
    ids = np.array([[1, 5, 9, 2, 0, 0], [1, 90, 2, 0, 0, 0]])
    again = rsclip_jax.load(tmp_path / "oc")
    np.testing.assert_array_equal(again.encode_text(ids), clip.encode_text(ids))
    for layout in ("huggingface", "longclip"):  # which would read texts at another token
        with pytest.raises(ValueError, match="texts at their highest id, this model at"):
            convert.main(
                [f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'x'}", f"--to={layout}"]
            )


def test_a_folder_called_like_the_package_does_not_hide_it(tmp_path):
    (tmp_path / "rsclip_jax" / "data").mkdir(parents=True)  # a clone, with data prepared in it
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import rsclip_jax.data.cells as c; print(c.__file__)"]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.returncode == 0 and str(tmp_path) not in found.stdout, found.stderr


def test_texts_that_are_cut_are_counted(golden, caplog):
    class Words:
        context_length = 4

        def __call__(self, texts):
            return np.ones((len(texts), 4), np.int32)

        def lengths(self, texts):
            return np.array([len(text.split()) for text in texts])

    clip = rsclip_jax.load(golden[0])
    clip.tokenizer = Words()
    clip.encode_text(["a harbor"])
    assert not caplog.records
    clip.encode_text(["a harbor", "ship " * 100])
    assert "1 of 2 texts are cut at 4 tokens" in caplog.text
