"""What files beside the weights say of a model: used, checked against the tensors, or refused.

Tensors tell neither the heads, the activation and the epsilon of the norms, nor the token that a
text is read at: open_clip_config.json or config.json (Hugging Face) does. A setting under which the
other codebase computes something else than this one is refused by its name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from rsclip_jax import host
from rsclip_jax.weights import values

_EPSILON = 1e-5
# Settings of Hugging Face that change nothing of what a trained model computes.
_HF_IDLE = set(
    """_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path
    add_cross_attention architectures attention_dropout attn_implementation bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward decoder_start_token_id
    diversity_penalty do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_factor initializer_range is_decoder
    is_encoder_decoder label2id length_penalty logit_scale_init_value max_length min_length
    model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type
    projection_dim remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p use_bfloat16 use_cache
    text_config text_config_dict vision_config vision_config_dict""".split()
)
_HF_SIZES = {
    "vision": {
        "image_size": "image_size",
        "patch_size": "patch_size",
        "hidden_size": "image_width",
        "num_hidden_layers": "image_depth",
    },
    "text": {
        "hidden_size": "text_width",
        "num_hidden_layers": "text_depth",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "context_length",
    },
}
# `*_config_dict` overrides all of `*_config`, with the defaults of what it leaves out.
_HF_DEFAULTS = {
    "vision": {"hidden_act": "quick_gelu", "layer_norm_eps": _EPSILON, "num_attention_heads": 12},
    "text": {"hidden_act": "quick_gelu", "layer_norm_eps": _EPSILON, "num_attention_heads": 8},
}
_OC_IDLE = {
    "model": {"embed_dim", "quick_gelu", "custom_text", "vision_cfg", "text_cfg", "output_dict"}
    | {"init_logit_scale", "init_logit_bias"},
    "vision": {"norm_kwargs", "head_width", "patch_dropout", "output_tokens", "final_ln_after_pool"}
    | {"attn_pooler_queries", "attn_pooler_heads", "timm_pool", "timm_proj", "timm_proj_bias"}
    | {"timm_drop", "timm_drop_path", "timm_model_pretrained"},
    "text": {"norm_kwargs", "heads", "pool_type", "eos_id", "pad_id", "output_tokens"}
    | {"final_ln_after_pool", "hf_tokenizer_name", "tokenizer_mode"}
    | {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "correct_cls_mask"},
}
_OC_SIZES = {
    "vision": {
        "image_size": "image_size",
        "patch_size": "patch_size",
        "width": "image_width",
        "layers": "image_depth",
    },
    "text": {
        "width": "text_width",
        "layers": "text_depth",
        "vocab_size": "vocab_size",
        "context_length": "context_length",
    },
}
_OC_FIXED = {
    "model": {},
    "vision": {"mlp_ratio": 4, "pool_type": "tok", "pos_embed_type": "learnable"},
    "text": {"mlp_ratio": 4, "proj_type": "linear"},
}


def read(directory: Path, weights: str) -> dict[str, Any]:
    """Read the settings beside the weights file of this name.

    Returns:
      Those that are known of `activation`, `epsilon`, `image_heads`, `text_heads`, `eot_id` (none:
      the highest id of a text), `mean`, `std`; `sizes`, by our names, which the tensors must have;
      and `file`, which says so.

    Raises:
      ValueError: they describe a model that this package does not compute, naming each setting.
    """
    kinds = [("open_clip_config.json", _open_clip), ("config.json", _hugging_face)]
    if not weights.startswith("open_clip"):  # both lie in directories that laion published
        kinds.reverse()
    for name, read_file in kinds:
        if (directory / name).exists():
            return {**read_file(directory / name), "file": directory / name}
    return {}


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      ValueError: it is damaged, no object, or no file but a pipe.
    """
    host.regular_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no object of settings")
    return content


def _hugging_face(path: Path) -> dict[str, Any]:
    config = load_json(path)
    values.check(path, config)
    if config.get("model_type") != "clip":
        raise ValueError(f"{path}: model_type is {config.get('model_type')!r}, expected 'clip'")
    refused = _unknown(config, _HF_IDLE, "")
    towers = {}
    for name in ("vision", "text"):
        tower = dict(config.get(f"{name}_config") or {})
        if over := config.get(f"{name}_config_dict"):
            tower |= {**_HF_DEFAULTS[name], **over}
        names = _HF_IDLE | _HF_SIZES[name].keys() | _HF_DEFAULTS[name].keys()
        names |= {"intermediate_size", "eos_token_id", "num_channels"}
        refused |= _unknown(tower, names, f"{name}_config.")
        towers[name] = {**_HF_DEFAULTS[name], **tower}
    vision, text = towers["vision"], towers["text"]
    if vision.get("num_channels", 3) != 3:
        refused["vision_config.num_channels"] = vision["num_channels"]
    _refuse(path, refused)
    both = [(tower["hidden_act"], tower["layer_norm_eps"]) for tower in (vision, text)]
    for name, pair in zip(("hidden_act", "layer_norm_eps"), zip(*both, strict=True), strict=True):
        if pair[0] != pair[1]:
            raise ValueError(
                f"{path}: {name} is {pair[0]} and {pair[1]}; expected the same in the towers of "
                "images and texts"
            )
    activation, epsilon = both[0]
    if activation not in ("quick_gelu", "gelu"):
        raise ValueError(f"{path}: hidden_act is {activation}; expected quick_gelu or gelu")
    known: dict[str, Any] = {
        "activation": activation,
        "epsilon": epsilon,
        "image_heads": vision["num_attention_heads"],
        "text_heads": text["num_attention_heads"],
        "sizes": _sizes({"vision": vision, "text": text}, _HF_SIZES),
    }
    eot = text.get("eos_token_id", 2)
    eot = eot[0] if isinstance(eot, list) and len(eot) == 1 else eot
    if not isinstance(eot, int):
        raise ValueError(f"{path}: text_config.eos_token_id is {eot!r}; expected one token id")
    if eot != 2:  # that of old files, which were wrong: transformers reads the highest id then
        known["eot_id"] = eot
    preprocessor = path.with_name("preprocessor_config.json")
    if preprocessor.exists():
        known |= _hf_images(preprocessor)
    return known


def _hf_images(path: Path) -> dict[str, Any]:
    said = load_json(path)
    values.check(path, said)
    refused = {k: said[k] for k in ("do_rescale", "do_normalize") if said.get(k, True) is not True}
    if abs(255 * said.get("rescale_factor", 1 / 255) - 1) > 1e-3:
        refused["rescale_factor"] = said["rescale_factor"]
    _refuse(path, refused)
    size = said.get("size")
    odd = {k: said[k] for k in ("do_resize", "do_center_crop") if said.get(k, True) is not True}
    if said.get("resample", 3) != 3:
        odd["resample"] = said["resample"]
    if isinstance(size, dict) and "shortest_edge" not in size:
        odd["size"] = size
    _say_resizing(path, odd)
    return _statistics({k: said.get(f"image_{k}") for k in ("mean", "std")})


def _open_clip(path: Path) -> dict[str, Any]:
    config = load_json(path)
    values.check(path, config)
    if not config.get("model_cfg"):
        raise ValueError(f"{path} has no model_cfg, the settings of the model; fetch it again")
    model, preprocess = config.get("model_cfg") or {}, config.get("preprocess_cfg") or {}
    towers = {name: model.get(f"{name}_cfg") or {} for name in ("vision", "text")}
    refused: dict[str, Any] = {}
    for name, part in {"model": model, **towers}.items():
        fixed, sizes = _OC_FIXED[name], _OC_SIZES.get(name, {})
        where = "model_cfg." if name == "model" else f"{name}_cfg."
        refused |= _unknown(part, _OC_IDLE[name] | fixed.keys() | sizes.keys(), where)
        refused |= {where + k: part[k] for k, v in fixed.items() if part.get(k, v) != v}
    vision, text = towers["vision"], towers["text"]
    tokenizer = text.get("hf_tokenizer_name") or ""
    if tokenizer and "clip" not in tokenizer.lower():
        refused["text_cfg.hf_tokenizer_name"] = tokenizer
    pooled = text.get("pool_type", "argmax")
    if pooled not in ("argmax", "eos"):
        refused["text_cfg.pool_type"] = pooled
    epsilons = set()
    for name, part in towers.items():
        norm = dict(part.get("norm_kwargs") or {})
        epsilons.add(norm.pop("eps", _EPSILON))
        if norm:
            refused[f"{name}_cfg.norm_kwargs"] = norm
    _refuse(path, refused)
    if len(epsilons) > 1:
        raise ValueError(f"{path}: norm_kwargs.eps differs between the towers; expected one")
    known: dict[str, Any] = {
        "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "epsilon": epsilons.pop(),
        "sizes": _sizes(towers, _OC_SIZES),
    }
    if "heads" in text:
        known["text_heads"] = text["heads"]
    if "width" in vision:
        known["image_heads"] = vision["width"] // vision.get("head_width", 64)
    if pooled == "eos":
        known["eot_id"] = text.get("eos_id", 2)  # open_clip's own default
    usual = {"interpolation": "bicubic", "resize_mode": "shortest", "mode": "RGB"}
    _say_resizing(path, {k: preprocess[k] for k, v in usual.items() if preprocess.get(k, v) != v})
    return known | _statistics({k: preprocess.get(k) for k in ("mean", "std")})


def _sizes(
    towers: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tower, given in towers.items():
        for theirs, ours in names[tower].items():
            value = given.get(theirs)
            if isinstance(value, list) and value and all(v == value[0] for v in value):
                value = value[0]
            if value is not None:
                found[ours] = value
    return found


def _statistics(given: Mapping[str, Any]) -> dict[str, tuple]:
    return {name: tuple(value) for name, value in given.items() if value is not None}


def _unknown(given: Mapping[str, Any], known: Any, where: str) -> dict[str, Any]:
    """Return the settings that are set and not known; null, false and empty ones are not set."""
    return {where + k: v for k, v in given.items() if k not in known and v not in (None, False)
            and v != {} and v != []}  # fmt: skip


def _refuse(path: Path, settings: Mapping[str, Any]) -> None:
    if settings:
        told = ", ".join(f"{name}={value!r:.80}" for name, value in settings.items())
        raise ValueError(
            f"{path}: {told}: this package computes no such model; a setting that changes nothing "
            "can be taken out of the file"
        )


def _say_resizing(path: Path, odd: Mapping[str, Any]) -> None:
    if odd and jax.process_index() == 0:
        told = ", ".join(f"{name}={value!r}" for name, value in odd.items())
        print(
            f"{path.name}: {told} is not used: images are resized bicubically on their shorter "
            "side and cropped in the middle",
            flush=True,
        )
