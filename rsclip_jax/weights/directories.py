"""Writing models as the directories and files that other codebases load."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.numpy
from ml_collections import ConfigDict

from rsclip_jax import weights
from rsclip_jax.models import clip
from rsclip_jax.weights.vocabulary import write_tokenizer


def write(directory: Path, config: ConfigDict, params: Any, layout: str) -> None:
    """Write a model for another codebase; the directory appears when it is whole.

    "open_clip": `open_clip.create_model_and_transforms("local-dir:DIRECTORY")`. "huggingface":
    `transformers.CLIPModel.from_pretrained(DIRECTORY)`, CLIPProcessor likewise. "longclip": the
    file longclip.pt for Long-CLIP's and LRSCLIP's `longclip.load`; needs PyTorch.

    Raises:
      ValueError: the directory is there and not empty, or see `weights.to_state_dict`.
      ImportError: no PyTorch.
    """
    state = weights.to_state_dict(config, params, layout)
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty; give a new directory")
    unfinished = directory.absolute().with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    {"open_clip": _open_clip, "huggingface": _huggingface, "longclip": _longclip}[layout](
        unfinished, config.model, state
    )
    os.replace(unfinished, directory)


def _open_clip(directory: Path, model: ConfigDict, state: dict) -> None:
    sizes, epsilon = clip.sizes_of(model), model.get("layer_norm_eps", 1e-5)
    norm = {"norm_kwargs": {"eps": epsilon}} if epsilon != 1e-5 else {}
    highest = weights.reads_highest_id(model)
    pooling = {} if highest else {"pool_type": "eos", "eos_id": model.eot_id}
    _json(
        directory / "open_clip_config.json",
        {
            "model_cfg": {
                "embed_dim": sizes.embed_dim,
                "quick_gelu": model.activation == "quick_gelu",
                "vision_cfg": {
                    "image_size": model.image_size,
                    "layers": sizes.image_depth,
                    "width": sizes.image_width,
                    "head_width": sizes.image_width // sizes.image_heads,
                    "patch_size": sizes.patch_size,
                    **norm,
                },
                "text_cfg": {
                    "context_length": model.context_length,
                    "vocab_size": model.vocab_size,
                    "width": sizes.text_width,
                    "heads": sizes.text_heads,
                    "layers": sizes.text_depth,
                    **norm,
                    **pooling,
                },
            },
            "preprocess_cfg": {
                "mean": model.mean,
                "std": model.std,
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        },
    )
    _tensors(directory / "open_clip_model.safetensors", state)


def _huggingface(directory: Path, model: ConfigDict, state: dict) -> None:
    sizes = clip.sizes_of(model)
    shared = {
        "hidden_act": model.activation,
        "layer_norm_eps": model.get("layer_norm_eps", 1e-5),
        "attention_dropout": 0.0,
        "projection_dim": sizes.embed_dim,
    }
    text = {
        "model_type": "clip_text_model",
        "hidden_size": sizes.text_width,
        "intermediate_size": 4 * sizes.text_width,
        "num_hidden_layers": sizes.text_depth,
        "num_attention_heads": sizes.text_heads,
        "max_position_embeddings": model.context_length,
        "vocab_size": model.vocab_size,
        "bos_token_id": model.eot_id - 1,
        "eos_token_id": model.eot_id,
        "pad_token_id": model.eot_id,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": sizes.image_width,
        "intermediate_size": 4 * sizes.image_width,
        "num_hidden_layers": sizes.image_depth,
        "num_attention_heads": sizes.image_heads,
        "image_size": model.image_size,
        "patch_size": sizes.patch_size,
    }
    _json(
        directory / "config.json",
        {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": sizes.embed_dim,
            "text_config": text | shared,
            "vision_config": vision | shared,
        },
    )
    _json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": model.image_size},
            "resample": 3,  # bicubic
            "do_center_crop": True,
            "crop_size": {"height": model.image_size, "width": model.image_size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": model.mean,
            "image_std": model.std,
        },
    )
    if model.eot_id == weights.CLIP_EOT:
        write_tokenizer(directory, model.context_length)
    _tensors(directory / "model.safetensors", state)


def _longclip(directory: Path, model: ConfigDict, state: dict) -> None:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Long-CLIP's code loads PyTorch files: pip install 'rsclip_jax[torch]'"
        ) from error
    del model
    torch.save({k: torch.tensor(v) for k, v in state.items()}, directory / "longclip.pt")


def _tensors(path: Path, state: dict) -> None:
    # Not `save_file`: its files can be read by their owner alone.
    path.write_bytes(safetensors.numpy.save(state, {"format": "pt"}))  # transformers asks for it


def _json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
