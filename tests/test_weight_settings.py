"""The configuration beside the weights decides what the tensors do not show, or is refused."""

import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy
from golden_models import state as golden_state

import rsclip_jax
from rsclip_jax import weights
from rsclip_jax.models import clip
from rsclip_jax.weights import directories

TEXT = {"hidden_act": "gelu", "num_attention_heads": 2, "eos_token_id": 2}
VISION = {"hidden_act": "gelu", "num_attention_heads": 2}
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def hugging_face(path, text=(), vision=(), top=(), images=()):
    config, params = weights.from_state_dict(golden_state("openclip_tiny_gelu"))
    state = weights.to_state_dict(config, params, "huggingface")
    safetensors.numpy.save_file(state, path / "model.safetensors")
    said = {"model_type": "clip", "text_config": {**TEXT, **dict(text)}, **dict(top)}
    said["vision_config"] = {**VISION, **dict(vision)}
    (path / "config.json").write_text(json.dumps(said))
    if images:
        (path / "preprocessor_config.json").write_text(json.dumps(dict(images)))
    return path


def open_clip(path, text=(), vision=(), top=(), preprocess=()):
    state = golden_state("openclip_tiny_gelu")
    safetensors.numpy.save_file(state, path / "open_clip_model.safetensors")
    model = {"text_cfg": {"heads": 2, **dict(text)}, **dict(top)}
    model["vision_cfg"] = {"width": 64, "head_width": 32, **dict(vision)}
    said = {"model_cfg": model, "preprocess_cfg": dict(preprocess)}
    (path / "open_clip_config.json").write_text(json.dumps(said))
    return path


@pytest.mark.parametrize(
    ("directory", "text", "eot"),
    [
        (hugging_face, {"eos_token_id": 2}, 96),  # an old mistake: the highest id is meant
        (hugging_face, {"eos_token_id": 50}, 50),
        (hugging_face, {"eos_token_id": [50]}, 50),
        (open_clip, {}, 96),
        (open_clip, {"pool_type": "argmax", "eos_id": 50}, 96),
        (open_clip, {"pool_type": "eos", "eos_id": 50}, 50),
        (open_clip, {"pool_type": "eos"}, 2),
    ],
)
def test_texts_are_read_at_the_token_that_the_configuration_says(directory, text, eot, tmp_path):
    model = rsclip_jax.load(directory(tmp_path, text))
    assert model.config.model.eot_id == eot
    others = [token for token in (96, 50, 2) if token != eot]
    row = np.array([[1, others[0], others[1], 7, eot, 3, 4]])
    changed = row.copy()
    changed[0, 5:] = 9
    z = model.encode_text(row)
    np.testing.assert_array_equal(model.encode_text(changed), z)  # what follows does not matter
    changed[0, 3] = 9
    assert np.abs(model.encode_text(changed) - z).max() > 1e-3  # what goes before does


def test_tokens_added_behind_clips_vocabulary_do_not_move_the_end_of_text():
    state = golden_state("openclip_tiny_gelu")
    state["token_embedding.weight"] = np.zeros((49410, 64), np.float32)
    assert weights.from_state_dict(state)[0].model.eot_id == 49407


@pytest.mark.parametrize("write", [hugging_face, open_clip])
def test_the_epsilon_of_the_norms_counts_and_is_exported(write, tmp_path):
    eps = {"layer_norm_eps": 0.1} if write is hugging_face else {"norm_kwargs": {"eps": 0.1}}
    model = rsclip_jax.load(write(tmp_path, eps, eps))
    assert clip.build(model.config.model).image.epsilon == 0.1
    z = model.encode_image(IMAGES)
    for layout in ("huggingface", "open_clip"):
        out = tmp_path / layout
        directories.write(out, model.config, jax.device_get(model.params), layout)
        np.testing.assert_array_equal(rsclip_jax.load(out).encode_image(IMAGES), z)
    with pytest.raises(ValueError, match=r"no place for layer_norm_eps=0\.1"):
        weights.to_state_dict(model.config, model.params, "longclip")


@pytest.mark.parametrize(
    ("write", "given", "message"),
    [
        (hugging_face, {"text": {"hidden_act": "gelu_new"}}, "hidden_act is gelu and gelu_new"),
        (hugging_face, {"text": {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-05 and 1e-06"),
        (hugging_face, {"text": {"eos_token_id": 97}}, "read at token 97, .* 97 tokens"),
        (hugging_face, {"text": {"eos_token_id": None}}, "eos_token_id is None"),
        (hugging_face, {"text": {"rope_theta": 1e4}}, r"text_config\.rope_theta=10000\.0"),
        (hugging_face, {"vision": {"num_channels": 4}}, r"vision_config\.num_channels=4"),
        (hugging_face, {"vision": {"image_size": 64}}, "image_size 64 where the tensors have 32"),
        (hugging_face, {"top": {"quantization_config": {"bits": 4}}}, "quantization_config="),
        (hugging_face, {"images": {"do_normalize": False}}, "do_normalize=False"),
        (hugging_face, {"images": {"rescale_factor": 1 / 127.5}}, "rescale_factor="),
        (open_clip, {"text": {"pool_type": "last"}}, r"text_cfg\.pool_type='last'"),
        (open_clip, {"text": {"no_causal_mask": True}}, r"text_cfg\.no_causal_mask=True"),
        (open_clip, {"text": {"hf_model_name": "roberta"}}, r"text_cfg\.hf_model_name='roberta'"),
        (open_clip, {"text": {"hf_tokenizer_name": "t5"}}, r"text_cfg\.hf_tokenizer_name='t5'"),
        (open_clip, {"text": {"layers": 9}}, "text_depth 9 where the tensors have 2"),
        (open_clip, {"vision": {"pool_type": "avg"}}, r"vision_cfg\.pool_type='avg'"),
        (open_clip, {"vision": {"no_ln_pre": True}}, r"vision_cfg\.no_ln_pre=True"),
        (open_clip, {"vision": {"norm_kwargs": {"eps": 1e-6}}}, "differs between the towers"),
        (open_clip, {"vision": {"act_kwargs": {"approximate": "tanh"}}}, "act_kwargs="),
        (open_clip, {"preprocess": {"mean": 0.5}}, "mean is 0.5; expected three numbers"),
        (open_clip, {"preprocess": {"std": [0, 0, 0]}}, "std is .*expected three .* above 0"),
        (open_clip, {"vision": {"head_width": 0}}, r"config\.json: .*head_width is 0; exp"),
        (open_clip, {"vision": {"head_width": 0.5}}, r"head_width is 0\.5; expected a whole"),
        (open_clip, {"vision": {"head_width": 10**9}}, "image_heads=0 .* width / head_width"),
        (open_clip, {"vision": {"norm_kwargs": [1]}}, r"norm_kwargs is \[1\]; expected an object"),
        (open_clip, {"vision": {"norm_kwargs": {"eps": "x"}}}, r"norm_kwargs\.eps is 'x'; exp"),
        (open_clip, {"text": {"heads": 7}}, "text_heads=7 .* divisor of the width 64"),
        (open_clip, {"text": {"pool_type": "eos", "eos_id": "x"}}, "eos_id is 'x'; expected a tok"),
        (hugging_face, {"text": {"num_attention_heads": None}}, "_heads is None; expected a whole"),
        (hugging_face, {"top": {"text_config_dict": [1]}}, r"text_config_dict is \[1\]; expected"),
        (hugging_face, {"images": {"rescale_factor": "x"}}, "rescale_factor is 'x'; expected a n"),
    ],
)
def test_what_would_compute_something_else_is_refused_by_name(write, given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        weights.read(write(tmp_path, **given))


@pytest.mark.parametrize("content", ['{"model_cfg": [1]}', "[" * 100_000, None])
def test_a_damaged_configuration_is_told_by_its_file(content, tmp_path):
    path = open_clip(tmp_path) / "open_clip_config.json"
    path.unlink()
    os.mkfifo(path) if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=r"clip_config\.json(: model_cfg is| is (dam|a pipe))"):
        weights.read(tmp_path)


@pytest.mark.parametrize("name", ["w.pt", "model.safetensors", "model.safetensors.index.json"])
def test_weights_that_come_from_a_pipe_do_not_hang(name, tmp_path):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, tmp_path)[: 1 if name == "w.pt" else 2]:
        with pytest.raises(ValueError, match=f"{name} is a pipe"):
            weights.read(path)


def test_the_long_configurations_of_old_releases_are_read(tmp_path):
    idle = {"do_sample": False, "num_beams": 1, "top_k": 50, "id2label": {"0": "LABEL_0"}}
    idle |= {"torch_dtype": "float32", "pruned_heads": {}, "return_dict": True, "dropout": 0.0}
    top = {"logit_scale_init_value": 2.6, "text_config_dict": None, "transformers_version": "4.16"}
    config, _ = weights.read(hugging_face(tmp_path, idle, idle, top))
    assert config.model.activation == "gelu"
    over = {
        "vision_config_dict": {"num_attention_heads": 2},
        "text_config_dict": {"hidden_size": 64},
    }
    config, _ = weights.read(hugging_face(tmp_path, {}, {}, over))
    model = clip.build(config.model)
    # transformers lets these override all of the others, with its defaults.
    assert (model.image.heads, model.text.heads) == (2, 8)
    assert config.model.activation == "quick_gelu"


def test_another_way_of_resizing_is_said(tmp_path, capsys):
    weights.read(
        hugging_face(tmp_path, images={"resample": 2, "size": {"height": 32, "width": 32}})
    )
    said = capsys.readouterr().out
    assert "resample=2, size={'height': 32, 'width': 32} is not used" in said


def test_each_file_is_read_with_its_own_configuration(tmp_path):
    hugging_face(tmp_path, {"eos_token_id": 50})
    open_clip(tmp_path)
    assert weights.read(tmp_path)[0].model.eot_id == 96
    assert weights.read(tmp_path / "model.safetensors")[0].model.eot_id == 50


def test_open_clips_custom_text_names_are_read():
    state = golden_state("openclip_tiny_gelu")
    text = ("token_embedding", "positional", "transformer", "ln_final", "text_projection")
    renamed = {f"text.{k}" if k.startswith(text) else k: v for k, v in state.items()}
    assert renamed.keys() != state.keys()
    found, expected = (weights.from_state_dict(s)[1] for s in (renamed, state))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))
