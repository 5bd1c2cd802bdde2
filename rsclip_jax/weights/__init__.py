"""Weights of other codebases: OpenAI CLIP, open_clip, Hugging Face, Long-CLIP and their like."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rsclip_jax.data.sources import some
from rsclip_jax.models import clip, peft
from rsclip_jax.weights import files, foreign_tokenizer, layouts

# Activation of published weights, which the tensors do not show. "": that of the architecture.
PRESETS = {
    "openai": "quick_gelu",
    "laion": "gelu",
    "longclip": "quick_gelu",
    "lrsclip": "quick_gelu",
    "georsclip": "",
    "remoteclip": "",
    "fusionrs": "quick_gelu",
}
CLIP_EOT = 49407
# The sizes that tell a variant: those that the tensors show, but for the image's.
SHOWN = ("patch_size", "image_width", "image_depth", "text_width", "text_depth", "embed_dim")


def read(path: str | os.PathLike, activation: str | None = None) -> tuple[ConfigDict, dict]:
    """Read weights from a file or directory; see `from_state_dict` for what is returned.

    Args:
      activation: "quick_gelu" or "gelu", or a name of PRESETS; None takes what lies beside the
        weights, else the architecture's own.

    Raises:
      FileNotFoundError, ValueError: see `files.read`, `from_state_dict`, and
        `foreign_tokenizer.check_tokenizer`.
    """
    state, hints = files.read(Path(path))
    try:
        config, params = _convert(state, hints, activation)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    path = Path(path)
    beside = path if path.is_dir() else path.parent if path.name in files.IN_DIRECTORY else None
    if beside and config.model.vocab_size >= foreign_tokenizer.TOKENS:  # else strings are refused
        foreign_tokenizer.check_tokenizer(beside)
    return config, params


def config_of(path: str | os.PathLike, activation: str | None = None) -> ConfigDict:
    """Return the config that `read` returns, without converting the weights."""
    state, hints = files.read(Path(path))
    try:
        return _config(_recognised(state, hints, activation)[2])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_state_dict(state: Mapping[str, Any], preset: str | None = None) -> tuple[ConfigDict, dict]:
    """Convert a state dict of OpenAI CLIP, open_clip, Hugging Face or Long-CLIP.

    Layout, architecture, image size and context length are recognised from the tensors.

    Args:
      state: NumPy arrays by name; what wrappers put before them (`module.`, `_orig_mod.`,
        `model.`, ...) is dropped.
      preset: whose weights they are (PRESETS), or an activation: what the tensors do not show. None
        takes the architecture's own: GELU for H/14, QuickGELU for all others.

    Returns:
      (config, params): a config with what models and evaluators read of one, and parameters in
      float32.

    Raises:
      ValueError: not a CLIP, an unknown preset, values that are not finite; or every missing,
        unexpected and misshapen tensor.
    """
    return _convert(state, {}, preset)


def to_state_dict(config: ConfigDict, params: Any, layout: str) -> dict[str, np.ndarray]:
    """Convert our parameters to "open_clip" (OpenAI's names), "huggingface" or "longclip".

    LoRA is merged into the weights. Of the logit scales the common one is taken.

    Raises:
      ValueError: unknown layout, or a model that the layout has no place for.
    """
    if layout not in layouts.LAYOUTS:
        raise ValueError(f"layout={layout!r}: expected one of {', '.join(layouts.LAYOUTS)}")
    if config.model.logit_bias and layout != "open_clip":
        raise ValueError(f"the {layout} layout has no place for SigLIP's logit bias")
    if config.model.get("ir_tower", "shared") != "shared" or config.model.get("ir_wavelength"):
        raise ValueError(
            "a plain CLIP has no place for what this model does to infrared images alone "
            f"(config.model.ir_tower={config.model.ir_tower!r}, ir_wavelength="
            f"{config.model.ir_wavelength}): keep the model in our own format"
        )
    config, params = settle_peft(config, params)
    if config.model.get("peft", {}).get("method"):
        raise ValueError(
            f"{config.model.peft.method} cannot be merged into the weights of a plain CLIP, only "
            "LoRA can: keep the model in our own format"
        )
    if config.model.get("layer_norm_eps", 1e-5) != 1e-5 and layout == "longclip":
        raise ValueError(
            f"Long-CLIP's code has no place for layer_norm_eps={config.model.layer_norm_eps}"
        )
    if layout == "longclip" and not reads_highest_id(config.model):
        raise ValueError(
            f"Long-CLIP's code reads texts at their highest id, this model at {config.model.eot_id}"
        )
    if layout == "huggingface" and config.model.eot_id == 2:  # an old mistake of theirs
        raise ValueError(
            "where eos_token_id is 2, transformers reads texts at their highest id, this model at "
            "token 2: export it to open_clip"
        )
    params = jax.device_get(params)
    return {k: np.asarray(v, order="C") for k, v in layouts.to_tensors(params, layout).items()}


def settle_peft(config: ConfigDict, params: Any) -> tuple[ConfigDict, Any]:
    """Take out what only training needs: merge LoRA into the weights, fold prefixes.

    Returns:
      The config and parameters of a model with the same outputs; those given, if there is nothing
      to settle.
    """
    given = peft.make(config.model.get("peft"))
    if given == peft.NONE:
        return config, params
    config = config.copy_and_resolve_references().unlock()
    if config.model.peft.method == "lora":
        config.model.peft.method = ""
        return config, peft.merge_lora(params, given)
    if given.prefix and given.hidden:
        config.model.peft.folded = True
        return config, peft.fold_prefix(params, given)
    return config, params


def reads_highest_id(model: ConfigDict) -> bool:
    """Tell whether the end-of-text token has the highest id that a text can have."""
    return model.eot_id == min(model.vocab_size - 1, CLIP_EOT)


def describe(config: ConfigDict) -> str:
    """Return a line on the sizes and the activation of a model."""
    model = config.model
    if config.get("task", "clip") == "translation":
        return f"translator {model.variant}, {model.image_size} px, width {model.width}"
    variant = model.variant if model.variant != "custom" else f"sizes {tuple(model.sizes)}"
    return (
        f"{variant}, {model.image_size} px, {model.context_length} tokens, activation "
        f"{model.activation}"
    )


def _convert(
    state: Mapping[str, Any], hints: Mapping[str, Any], preset: str | None
) -> tuple[ConfigDict, dict]:
    state, layout, model = _recognised(state, hints, preset)
    like = jax.eval_shape(lambda: clip.init_params(clip.build(model), jax.random.key(0)))
    params = layouts.from_tensors(state, like, layout)
    buffers = layouts.LAYOUTS[layout].constants
    kinds = {k: v.dtype for k, v in state.items() if v.dtype.kind not in "fV"}
    if whole := [f"{k} {kind}" for k, kind in kinds.items() if not buffers.fullmatch(k)]:
        raise ValueError(f"{some(whole, 2)}: expected floats; take weights that were not quantised")
    infinite = [k for k, v in state.items() if v.dtype.kind in "fV" and not np.isfinite(v).all()]
    if infinite:
        raise ValueError(f"values that are NaN or infinite in {', '.join(infinite)}")
    return _config(model), params


def _recognised(
    state: Mapping[str, Any], hints: Mapping[str, Any], preset: str | None
) -> tuple[dict[str, np.ndarray], str, ConfigDict]:
    """Return the state dict with plain names, its layout, and `config.model`."""
    if preset is not None and preset not in {**PRESETS, "quick_gelu": "", "gelu": ""}:
        raise ValueError(
            f"{preset!r}: expected an activation, 'quick_gelu' or 'gelu', or one of "
            f"{', '.join(PRESETS)}"
        )
    state = {name: np.asarray(value) for name, value in layouts.without_prefix(state).items()}
    layout = layouts.recognise(state)
    hints = dict(hints)
    if layout == "longclip":
        hints.setdefault("activation", "quick_gelu")
    if preset is not None and PRESETS.get(preset, preset):
        hints["activation"] = PRESETS.get(preset, preset)
    return state, layout, recognise_model(state, layout, hints)


def _config(model: ConfigDict) -> ConfigDict:
    """Return a config with what models and evaluators read of one."""
    return ConfigDict(
        {
            "model": model.to_dict(),
            "tokenizer": "clip",
            "ema_decay": 0.0,
            "input": {
                "data_dir": "data",
                "lengths": {
                    "text": min(77, model.context_length),
                    "text_long": model.context_length,
                },
                "long_caption": "auto",
            },
            "evals": {},
        }
    )


def recognise_model(
    state: Mapping[str, np.ndarray], layout: str, hints: Mapping[str, Any]
) -> ConfigDict:
    """Recognise `config.model` from the shapes of the tensors."""
    names = {entry.ours[0]: entry.theirs for entry in layouts.LAYOUTS[layout].top}

    def shape(ours: str, rank: int = 2) -> tuple[int, ...]:
        if names[ours] not in state:
            raise ValueError(f"the tensor {names[ours]} is missing")
        found = state[names[ours]].shape
        if len(found) != rank or 0 in found:
            raise ValueError(
                f"the tensor {names[ours]} has the shape {found}; expected {rank} dimensions, each "
                "of 1 or more"
            )
        return found

    beside = hints.get("file", "the configuration beside")
    width, _, _, patch = shape("img/embedding/kernel", 4)
    vocab_size, text_width = shape("txt/token_embedding")
    embed_dim = shape("img/proj")[0 if layout == "huggingface" else 1]
    positions = shape("img/pos_embedding")[0]
    grid = round((positions - 1) ** 0.5)
    if 1 + grid * grid != positions:
        raise ValueError(
            f"{names['img/pos_embedding']}: {positions} rows are not 1 + a square grid"
        )
    depth = layouts.depths(state, layout)
    sizes = clip.Sizes(
        patch_size=patch,
        image_width=width,
        image_depth=depth["img"],
        image_heads=max(1, width // 64),
        text_width=text_width,
        text_depth=depth["txt"],
        text_heads=max(1, text_width // 64),
        embed_dim=embed_dim,
        image_size=grid * patch,
    )
    variant = "custom"
    for name, known in clip.VARIANTS.items():
        if [getattr(sizes, field) for field in SHOWN] == [getattr(known, field) for field in SHOWN]:
            variant, sizes = name, known
            break
    # The highest id of a text: in CLIP's vocabulary the last, but for tokens added behind it.
    eot_id = hints.get("eot_id", min(vocab_size - 1, CLIP_EOT))
    if not 0 <= eot_id < vocab_size:
        raise ValueError(
            f"{beside} has texts read at token {eot_id}, and there are {vocab_size} tokens"
        )
    context_length = shape("txt/pos_embedding")[0]
    shown = {**sizes._asdict(), "image_size": grid * patch, "context_length": context_length}
    shown["vocab_size"] = vocab_size
    said = hints.get("sizes", {})
    if wrong := [f"{k} {v} where the tensors have {shown[k]}" for k, v in said.items()
                 if v != shown[k]]:  # fmt: skip
        raise ValueError(f"{beside} is another model's: {', '.join(wrong)}")
    heads = {k: hints[k] for k in ("image_heads", "text_heads") if k in hints}
    for name, count in heads.items():
        wide = width if name == "image_heads" else text_width
        if not count or wide % count:
            raise ValueError(
                f"{beside} gives {name}={count} (heads or num_attention_heads, or "
                f"width / head_width): expected a divisor of the width {wide}"
            )
    if sizes != sizes._replace(**heads):
        variant, sizes = "custom", sizes._replace(**heads)
    return ConfigDict(
        {
            "variant": variant,
            "sizes": tuple(sizes)[:-1] if variant == "custom" else (),
            "image_size": grid * patch,
            "context_length": context_length,
            "activation": hints.get("activation", sizes.activation),
            "vocab_size": vocab_size,
            "eot_id": eot_id,
            "layer_norm_eps": hints.get("epsilon", 1e-5),
            "mean": tuple(hints.get("mean", clip.CLIP_MEAN)),
            "std": tuple(hints.get("std", clip.CLIP_STD)),
            "init_scale": 1 / 0.07,
            "logit_bias": "logit_bias" in state,
            "dtype": "float32",
            "attention": "auto",
            "scan": True,
            "remat": "none",
        }
    )
