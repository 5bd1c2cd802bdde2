"""Our embeddings beside those of the real open_clip and transformers classes.

Skipped where they are not installed; `bash tests/torch_parity.sh` installs them beside the package
in an environment of its own and runs this.
"""

import argparse
import datetime
import pathlib

import numpy as np
import pytest
from golden_models import FILES, GOLDEN

torch = pytest.importorskip("torch", reason="PyTorch is not installed: tests/torch_parity.sh")

import rsclip_jax
from rsclip_jax import convert, weights
from rsclip_jax.weights import files


@pytest.fixture(params=["quick_gelu", "gelu"])
def model(request, tmp_path):
    """Return (path of a PyTorch state dict, our model of it, images NCHW, token ids)."""
    name = "openclip_tiny_quickgelu" if request.param == "quick_gelu" else "openclip_tiny_gelu"
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    state = {k[6:]: torch.tensor(v) for k, v in arrays.items() if k.startswith("param/")}
    path = tmp_path / "tiny.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    ours = rsclip_jax.load(path, activation=request.param)
    return path, ours, arrays["image"], arrays["tokens"]


def unit(z):
    z = z.detach().numpy()
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def check(ours, image, tokens, zimg, ztxt):
    np.testing.assert_allclose(
        ours.encode_image(image.transpose(0, 2, 3, 1)), unit(zimg), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(ours.encode_text(tokens), unit(ztxt), rtol=1e-5, atol=1e-6)


def test_open_clip_loads_what_we_export(model, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    path, ours, image, tokens = model
    activation = ours.config.model.activation
    out = tmp_path / "out"
    convert.main(
        [f"--input={path}", f"--output={out}", "--to=open_clip", f"--activation={activation}"]
    )
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    theirs.eval()
    with torch.no_grad():
        zimg = theirs.encode_image(torch.tensor(image))
        ztxt = theirs.encode_text(torch.tensor(tokens))
    check(ours, image, tokens, zimg, ztxt)
    again = rsclip_jax.load(out)
    np.testing.assert_array_equal(again.encode_text(tokens), ours.encode_text(tokens))


def test_transformers_loads_what_we_export(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    path, ours, image, tokens = model
    activation = ours.config.model.activation
    out = tmp_path / "out"
    convert.main(
        [f"--input={path}", f"--output={out}", "--to=huggingface", f"--activation={activation}"]
    )
    theirs = transformers.CLIPModel.from_pretrained(out).eval()
    with torch.no_grad():
        found = theirs(
            input_ids=torch.tensor(tokens.astype(np.int64)), pixel_values=torch.tensor(image)
        )
    check(ours, image, tokens, found.image_embeds, found.text_embeds)
    theirs.save_pretrained(tmp_path / "theirs")
    again = rsclip_jax.load(tmp_path / "theirs")
    assert again.config.model.activation == activation
    np.testing.assert_array_equal(again.encode_text(tokens), ours.encode_text(tokens))


@pytest.mark.parametrize("eos", [2, 50, 96])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_transformers_settings_are_computed_with(eos, epsilon, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    shared = {**sizes, "num_attention_heads": 4, "layer_norm_eps": epsilon, "hidden_act": "gelu"}
    text = {**shared, "vocab_size": 97, "eos_token_id": eos, "bos_token_id": 0, "pad_token_id": 1}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**text, "projection_dim": 24},
            vision_config={**vision, "projection_dim": 24},
            projection_dim=24,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(4)
    theirs.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 49, (4, 12))
    tokens[:, 5], tokens[:, 8] = 50, 96
    image = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        found = theirs(input_ids=torch.tensor(tokens), pixel_values=torch.tensor(image))
    ours = rsclip_jax.load(tmp_path)
    for z, expected in (
        (ours.encode_image(image.transpose(0, 2, 3, 1)), found.image_embeds),
        (ours.encode_text(tokens), found.text_embeds),
    ):
        np.testing.assert_allclose(z, unit(expected), rtol=1e-4, atol=1e-4)


def test_transformers_tokenizer_and_preprocessing_are_ours(tmp_path):
    transformers = pytest.importorskip("transformers")
    from rsclip_jax.data.text import ClipTokenizer
    from rsclip_jax.models import clip

    arrays = dict(np.load(GOLDEN / "openclip_tiny_gelu.npz"))
    state = {k[6:]: v for k, v in arrays.items() if k.startswith("param/")}
    rng = np.random.default_rng(0)
    state["token_embedding.weight"] = rng.normal(size=(49408, 64)).astype(np.float32)
    config, params = weights.from_state_dict(state)
    weights.directories.write(tmp_path / "hf", config, params, "huggingface")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["A harbor with 12 ships, isn't it?", "many planes  are parked", "x" * 40]
    theirs = tokenizer(texts, padding="max_length", truncation=True)["input_ids"]
    for ours, row in zip(ClipTokenizer(77)(texts), np.array(theirs), strict=True):
        end = int(np.argmax(ours == 49407)) + 1
        np.testing.assert_array_equal(ours[:end], row[:end])
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = rng.integers(0, 256, (50, 70, 3), np.uint8)
    theirs = np.asarray(processor(pixels, return_tensors="np")["pixel_values"])[0]
    ours = rsclip_jax.loading.Clip(config, params).preprocess(pixels)
    assert ours.shape == (32, 32, 3)
    assert clip.build(config.model).image_size == 32
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, atol=0.02)  # a grey level


def test_torchscript_archives_as_openais_are_read(tmp_path):
    arrays = dict(np.load(GOLDEN / "openclip_tiny_quickgelu.npz"))

    class Holder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Holder()
    for key, value in arrays.items():
        if key.startswith("param/"):
            *parents, leaf = key[6:].split(".")
            node = root
            for parent in parents:
                if not hasattr(node, parent):
                    node.add_module(parent, Holder())
                node = getattr(node, parent)
            node.register_parameter(leaf, torch.nn.Parameter(torch.tensor(value).half()))
    root.register_buffer("input_resolution", torch.tensor(32))
    torch.jit.save(torch.jit.script(root), tmp_path / "openai.pt")
    config, params = weights.read(tmp_path / "openai.pt")
    assert config.model.activation == "quick_gelu"
    expected = arrays["param/text_projection"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(params["txt"]["proj"], expected)


def test_long_clips_file_is_written_and_read(tmp_path):
    arrays = dict(np.load(GOLDEN / "longclip_tiny.npz"))
    assert "longclip_tiny" in FILES
    state = {k[6:]: torch.tensor(v) for k, v in arrays.items() if k.startswith("param/")}
    torch.save(state, tmp_path / "in.pt")
    convert.main([f"--input={tmp_path / 'in.pt'}", f"--output={tmp_path / 'out'}", "--to=longclip"])
    found = torch.load(tmp_path / "out" / "longclip.pt", weights_only=True)
    assert found.keys() == state.keys()
    for table in ("positional_embedding", "positional_embedding_res"):
        assert found[table].shape == (248, 64)
    clip = rsclip_jax.load(tmp_path / "out" / "longclip.pt")
    z = clip.encode_text(arrays["tokens_long"])
    np.testing.assert_allclose(z, unit(torch.tensor(arrays["z_long"])), rtol=1e-5, atol=1e-6)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo pwned > pwned",)


def test_pickles_that_would_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "more": Evil()}, "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt is refused"):
        files.read(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("keep", [0, 10, 3000, -50])
def test_truncated_pytorch_files_are_refused(keep, tmp_path):
    torch.save({"weight": torch.zeros(2000)}, tmp_path / "whole.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"x\.pt"):
        files.read(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_trainers_checkpoints_are_read_whatever_lies_beside_the_weights(zipped, tmp_path, capsys):
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    weights = {
        "turned": whole.T[1:, ::2],
        "shared": whole[2],
        "half": whole.half(),
        "brain": whole.to(torch.bfloat16),
        "number": torch.tensor(3),
        "scale": torch.nn.Parameter(torch.tensor(0.5)),
        "none": torch.zeros(0, 4),
    }
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    beside = {
        "epoch": 3,
        "best": np.float64(0.3),
        "metrics": [np.int64(1), np.zeros(3), np.array(["a"], dtype=object)],
        "args": argparse.Namespace(lr=np.float32(1), out=pathlib.PurePosixPath("x")),
        "optimizer": optimizer.state_dict(),
        "when": datetime.datetime(2020, 1, 1),
        "own": Own(),
        "odd": torch.zeros(2, dtype=torch.complex64),
    }
    torch.save(
        {"state_dict": weights, **beside},
        tmp_path / "x.pt",
        _use_new_zipfile_serialization=zipped,
    )
    state, _ = files.read(tmp_path / "x.pt")
    assert state.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(state[name], value.detach().float().numpy(), err_msg=name)
        assert state[name].shape == tuple(value.shape)
    assert "state_dict is read, nothing of epoch, best, metrics, args" in capsys.readouterr().out


class Own:
    """A class that the reader of the file has not."""

    def __init__(self):
        self.lr = 1
