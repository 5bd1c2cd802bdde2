import itertools
import json
import pickle
import zipfile
from pathlib import Path

import golden_models
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from golden_models import FILES
from ml_collections import ConfigDict

from rsclip_jax import weights
from rsclip_jax.data.text import ClipTokenizer
from rsclip_jax.models import clip
from rsclip_jax.weights import files, foreign_tokenizer, layouts, vocabulary


def golden_state(name="openclip_tiny_gelu"):
    return golden_models.state(name)


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("layout", ["open_clip", "huggingface", "longclip"])
@pytest.mark.parametrize("name", list(FILES))
def test_a_round_trip_changes_no_bit(name, layout):
    config, params = weights.from_state_dict(golden_state(name))
    state = weights.to_state_dict(config, params, layout)
    again, back = weights.from_state_dict({f"module.{k}": v for k, v in state.items()})
    assert equal(params, back)
    assert again.model == config.model
    if layout == "open_clip" and name != "longclip_tiny":
        assert equal(state, golden_state(name))


@pytest.mark.parametrize("layout", list(layouts.LAYOUTS))
@pytest.mark.parametrize("variant", ["B/32", "B/16", "L/14", "H/14"])
def test_published_sizes_are_recognised(variant, layout):
    fields = {"variant": variant, "image_size": 0, "activation": "", "context_length": 77}
    fields |= {"vocab_size": 49408, "eot_id": 49407, "mean": (0,) * 3, "std": (1,) * 3}
    fields |= {"dtype": "float32", "attention": "auto", "remat": "none", "scan": True}
    model = clip.build({**fields, "init_scale": 1.0, "logit_bias": False})
    like = jax.eval_shape(lambda: clip.init_params(model, jax.random.key(0)))
    shapes = jax.eval_shape(lambda p: layouts.to_tensors(p, layout), like)
    state = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in shapes.items()}
    found = weights.recognise_model(state, layouts.recognise(state), {})
    assert found.variant == variant
    assert clip.build(found).image == model.image
    assert clip.build(found).text == model.text
    assert (found.image_size, found.context_length, found.eot_id) == (224, 77, 49407)


def test_every_missing_unexpected_and_misshapen_tensor_is_named():
    state = golden_state()
    del state["visual.ln_pre.weight"], state["transformer.resblocks.0.mlp.c_fc.bias"]
    state["surprise"] = np.zeros(3)
    state["ln_final.weight"] = np.zeros(5, np.float32)
    with pytest.raises(ValueError) as error:
        weights.from_state_dict(state)
    for line in (
        "missing: visual.ln_pre.weight (64,)",
        "missing: transformer.resblocks.0.mlp.c_fc.bias (256,)",
        "unexpected: surprise (3,)",
        "misshapen: ln_final.weight is (5,), expected (64,)",
    ):
        assert line in str(error.value)


def test_masks_and_archive_constants_are_no_parameters():
    state = golden_state()
    extra = {"attn_mask": np.zeros((77, 77)), "input_resolution": np.array(224)}
    assert equal(weights.from_state_dict(state)[1], weights.from_state_dict({**state, **extra})[1])


def test_long_clips_two_position_tables_are_merged():
    state = golden_state("longclip_tiny")
    state["positional_embedding_res"] = state["positional_embedding_res"] + 1
    _, params = weights.from_state_dict(state)
    table = params["txt"]["pos_embedding"]
    np.testing.assert_array_equal(table[:20], state["positional_embedding"][:20])
    np.testing.assert_array_equal(table[20:], state["positional_embedding_res"][20:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln_final.bias": np.full(64, np.nan, np.float32)}, "NaN or infinite in ln_final.bias"),
        ({"visual.positional_embedding": np.zeros((12, 64))}, "12 rows are not 1 \\+ a square"),
        ({f"transformer.resblocks.{10**6}.ln_1.bias": np.zeros(64)}, "2 is missing, 1000000 is "),
        ({f"transformer.resblocks.{'9' * 5000}.x": np.zeros(1)}, "2 is missing, 99999"),
    ],
)
def test_weights_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        weights.from_state_dict({**golden_state(), **change})


def test_other_models_are_refused_with_what_was_found():
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        weights.from_state_dict({"conv1.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="expected an activation"):
        weights.from_state_dict(golden_state(), "swiglu")


@pytest.mark.parametrize("preset", [None, "openai", "laion", "gelu"])
def test_a_preset_or_a_name_sets_the_activation(preset):
    expected = "gelu" if preset in ("laion", "gelu") else "quick_gelu"
    assert weights.from_state_dict(golden_state(), preset)[0].model.activation == expected


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_safetensors_are_read_as_float32(dtype, tmp_path):
    state = {k: v.astype(dtype) for k, v in golden_state().items()}
    safetensors.numpy.save_file(state, tmp_path / "x.safetensors")
    _, params = weights.read(tmp_path / "x.safetensors")
    assert params["txt"]["proj"].dtype == np.float32
    np.testing.assert_array_equal(
        params["txt"]["proj"], state["text_projection"].astype(np.float32)
    )


def huggingface_directory(path, **changes):
    config, params = weights.from_state_dict(golden_state())
    state = weights.to_state_dict(config, params, "huggingface")
    safetensors.numpy.save_file(state, path / "model.safetensors")
    tower = {"hidden_act": "gelu", "num_attention_heads": 2}
    said = {"model_type": "clip", "vision_config": tower, "text_config": tower, **changes}
    (path / "config.json").write_text(json.dumps(said))
    (path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    return state


def test_what_hugging_face_says_beside_the_weights_counts(tmp_path):
    huggingface_directory(tmp_path)
    config, _ = weights.read(tmp_path)
    assert config.model.activation == "gelu"
    assert config.model.mean == (0.5, 0.5, 0.5)
    model = clip.build(config.model)
    assert (model.image.heads, model.text.heads) == (2, 2)


def test_sharded_weights_are_read_together(tmp_path):
    state = huggingface_directory(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    for shard, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        safetensors.numpy.save_file({k: state[k] for k in part}, tmp_path / shard)
    index = {k: "ab"[i % 2] + ".safetensors" for i, k in enumerate(names)}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    _, params = weights.read(tmp_path)
    assert equal(params, weights.from_state_dict(golden_state())[1])
    path.write_text(json.dumps({"weight_map": {names[0]: "../a.safetensors"}}))
    with pytest.raises(ValueError, match="outside"):
        weights.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip'"),
        ({"text_config": {"hidden_act": "quick_gelu"}}, "gelu and quick_gelu"),
    ],
)
def test_directories_of_other_models_are_refused(changes, message, tmp_path):
    huggingface_directory(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        weights.read(tmp_path)


@pytest.mark.parametrize("keep", [0, 6, 500, -100])
def test_truncated_safetensors_are_refused(keep, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save(golden_state())[:keep])
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged"):
        weights.read(path)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        weights.read(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"no workdir .* none of open_clip_model\.safetensors"
    ):
        weights.read(tmp_path)


def test_an_archive_that_would_unfold_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 10**6)
    with pytest.raises(ValueError, match="would unfold to 1000000"):
        files.read(path)


@pytest.mark.parametrize("text", ["a harbor with 12 ships, isn't it?", "déjà vu 港口 \U0001f6a2 x"])
def test_the_vocabulary_files_give_the_tokenizers_own_ids(text, tmp_path):
    vocabulary.write_tokenizer(tmp_path, 77)
    ids = json.loads((tmp_path / "vocab.json").read_text())
    lines = (tmp_path / "merges.txt").read_text().split("\n")[1:-1]
    assert len(ids) == 49408
    assert len(lines) == 48894
    rank = {tuple(line.split(" ")): i for i, line in enumerate(lines)}
    letters = vocabulary._letters()
    tokens = []
    for word in _words(text):
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while pairs := [p for p in itertools.pairwise(parts) if p in rank]:
            best = min(pairs, key=rank.get)
            at = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == best)
            parts[at : at + 2] = ["".join(best)]
        tokens += [ids[part] for part in parts]
    expected = ClipTokenizer(77)([text])[0]
    assert [49406, *tokens, 49407] == expected[: len(tokens) + 2].tolist()


def _words(text: str) -> list[str]:
    """Split as CLIP does the texts above: contractions, letters, single digits, the rest."""
    import re

    return re.findall(r"'s|'t|[^\W\d_]+|\d|[^\s\w]+", text.lower())


@pytest.mark.parametrize("name", ["visual.layer1.0.conv1.weight", "visual.trunk.stem.0.weight"])
def test_clips_without_a_vision_transformer_are_told_apart(name):
    with pytest.raises(ValueError, match="expected a CLIP with a vision transformer"):
        weights.from_state_dict({**golden_state(), name: np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.clip."],
)
@pytest.mark.parametrize("layout", ["open_clip", "huggingface"])
def test_what_wrappers_put_before_the_names_is_dropped(prefix, layout):
    config, params = weights.from_state_dict(golden_state())
    state = weights.to_state_dict(config, params, layout)
    wrapped = {prefix + name: value for name, value in state.items()}
    assert equal(weights.from_state_dict(wrapped)[1], params)


@pytest.mark.parametrize("inner", ["_checkpoint_wrapped_module", "_fsdp_wrapped_module"])
def test_parts_that_were_compiled_or_wrapped_are_found(inner):
    state = {
        name.replace("visual.", "visual._orig_mod.").replace(
            "resblocks.0.", f"resblocks.0.{inner}."
        ): value
        for name, value in golden_state().items()
    }
    assert equal(weights.from_state_dict(state)[1], weights.from_state_dict(golden_state())[1])


def test_two_models_and_tensors_beside_the_model_are_named():
    state = golden_state()
    two = {f"{p}.{k}": v for p in ("student", "teacher") for k, v in state.items()}
    with pytest.raises(ValueError, match=r"several models.* student\., teacher\."):
        weights.from_state_dict(two)
    beside = {f"model.{k}": v for k, v in state.items()} | {"loss.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"unexpected: loss\.weight"):
        weights.from_state_dict(beside)


@pytest.mark.parametrize("name", ["trainer", "legacy"])  # PyTorch wrote them, in both its formats
def test_a_trainers_numpy_numbers_and_arguments_do_not_hide_its_weights(name, capsys):
    state, _ = files.read(Path(__file__).parent / "data" / "pytorch" / f"{name}.pt")
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {"turned": whole.T[1:], "half": whole, "number": 7}
    assert state.keys() == {f"module.{k}" for k in expected}
    for k, value in expected.items():
        np.testing.assert_array_equal(state[f"module.{k}"], value)
    said = capsys.readouterr().out
    assert "state_dict is read, nothing of epoch, best, args, nor of" in said
    assert "argparse.Namespace" in said


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def test_a_pickle_that_does_harm_is_not_run_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"state_dict": {}, "more": Evil()}))
    with pytest.raises(ValueError, match=r"x\.pt is refused: .* runs (posix|nt)\.system"):
        files.read(tmp_path / "x.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"", "is damaged or no PyTorch file"),
        (b"no pickle at all", "is damaged or no PyTorch file"),
        (pickle.dumps({"a": 1}), "does not begin as PyTorch's files do"),
    ],
)
def test_what_is_no_weights_file_is_told(content, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read(tmp_path / "x.pt")


@pytest.fixture(scope="module")
def clips_tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    vocabulary.write_tokenizer(directory, 77)
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def fast_tokenizer(files, **changed):
    """Return a tokenizer.json of these files."""
    merges = files["merges.txt"].split("\n")[1:-1]
    model = {"type": "BPE", "vocab": json.loads(files["vocab.json"]), "merges": merges, **changed}
    return json.dumps({"model": model, "normalizer": {"type": "Lowercase"}})


def test_clips_own_tokenizer_beside_weights_passes(clips_tokenizer, tmp_path):
    for name, text in clips_tokenizer.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    pairs = [merge.split(" ") for merge in clips_tokenizer["merges.txt"].split("\n")[1:-1]]
    for merges in ({}, {"merges": pairs}):  # as transformers wrote them, and as it does now
        (tmp_path / "tokenizer.json").write_text(fast_tokenizer(clips_tokenizer, **merges))
        foreign_tokenizer.check_tokenizer(tmp_path)
    more = {**json.loads(clips_tokenizer["vocab.json"]), "<|image|>": 49408}
    (tmp_path / "vocab.json").write_text(json.dumps(more))
    foreign_tokenizer.check_tokenizer(tmp_path)


def test_another_tokenizer_beside_weights_is_refused(clips_tokenizer, tmp_path):
    numbers = json.loads(clips_tokenizer["vocab.json"])
    numbers["cat</w>"], numbers["dog</w>"] = numbers["dog</w>"], numbers["cat</w>"]
    swapped = clips_tokenizer["merges.txt"].split("\n")
    swapped[10], swapped[11] = swapped[11], swapped[10]
    changed = {
        "vocab.json": (json.dumps(numbers), "49,408 tokens are not CLIP's"),
        "merges.txt": ("\n".join(swapped), "merges are not CLIP's"),
        "tokenizer.json": (fast_tokenizer(clips_tokenizer, type="WordPiece"), "type WordPiece"),
        "tokenizer_config.json": ('{"tokenizer_class": "T5Tokenizer"}', "is 'T5Tokenizer'"),
        "vocab.txt": ("[UNK]", "no vocabulary of CLIP"),
    }
    for name, (text, message) in changed.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message) as error:
            foreign_tokenizer.check_tokenizer(tmp_path)
        assert name in str(error.value) and "take the file out" in str(error.value)
        (tmp_path / name).unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(ValueError, match="do_lower_case is False"):
        foreign_tokenizer.check_tokenizer(tmp_path)


def test_reading_weights_looks_at_the_tokenizer_beside_them(tmp_path, monkeypatch):
    config = ConfigDict({"model": {"vocab_size": 49408}})
    monkeypatch.setattr(weights.files, "read", lambda path: ({}, {}))
    monkeypatch.setattr(weights, "_convert", lambda *_: (config, {}))
    (tmp_path / "spiece.model").write_bytes(b"")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match=r"spiece\.model is no vocabulary of CLIP"):
            weights.read(path)
    config.model.vocab_size = 1000  # whose strings are refused whatever lies there
    assert weights.read(tmp_path) == (config, {})
