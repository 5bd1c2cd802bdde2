"""Reading the files that weights are published in, without running code that lies in them."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

# Weights in a directory of open_clip or Hugging Face; the first that is there is read.
IN_DIRECTORY = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a weights file (safetensors, or PyTorch's), or that of a directory with its settings.

    Returns:
      (state dict, what was said beside it): `activation`, `image_heads`, `text_heads`, `mean`,
      `std`, those that are known.

    Raises:
      FileNotFoundError: nothing there.
      ImportError: a PyTorch file, and PyTorch is not installed.
      ValueError: not a weights file, a damaged one, or one that would run code.
    """
    if path.is_dir():
        present = [path / name for name in IN_DIRECTORY if (path / name).exists()]
        if not present:
            raise FileNotFoundError(
                f"{path} is no workdir of rsclip_jax.main (no checkpoints) and holds none of "
                f"{', '.join(IN_DIRECTORY)}"
            )
        return read(present[0])
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    if path.name.endswith(".index.json"):
        shards = sorted(set(_json(path)["weight_map"].values()))
        if any(Path(shard).name != shard for shard in shards):
            raise ValueError(f"{path}: its shards lie outside its directory")
        parts = [_tensors(path.parent / shard)[0] for shard in shards]
        state = {name: value for part in parts for name, value in part.items()}
        hints: dict[str, Any] = {}
    else:
        state, hints = _tensors(path)
    return state, {**hints, **(_settings(path.parent) if path.name in IN_DIRECTORY else {})}


def _tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, "np") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, {}
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}; fetch it again") from error
    return _torch_tensors(path)


def _torch_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    archive = zipfile.is_zipfile(path) and _archive_members(path)
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is read through PyTorch: pip install 'rsclip_jax[torch]', or give a "
            ".safetensors file"
        ) from error
    try:
        if archive and any(name.endswith("/constants.pkl") for name in archive):
            # OpenAI's own files are TorchScript archives, in half precision.
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
            hints = {"activation": "quick_gelu"}
        else:
            state, hints = torch.load(path, map_location="cpu", weights_only=True), {}
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it holds more than tensors, and unpickling it could run code "
            f"({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {_first_line(error)}; fetch it again") from error
    for key in ("state_dict", "model_state_dict", "model"):  # a trainer's checkpoint
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, no state dict")
    arrays = {
        name: value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return arrays, hints


def _archive_members(path: Path) -> list[str]:
    """List an archive's members; PyTorch stores them as they are, so nothing may unfold.

    Raises:
      ValueError: the members are larger than the file.
    """
    with zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
        if size > path.stat().st_size:
            raise ValueError(
                f"{path} is refused: {path.stat().st_size} bytes that would unfold to {size}, "
                "which no PyTorch file does"
            )
        return file.namelist()


def _settings(directory: Path) -> dict[str, Any]:
    """Read what open_clip's or Hugging Face's files beside the weights say of the model.

    Raises:
      ValueError: they describe another kind of model.
    """
    known: dict[str, Any] = {}
    if (directory / "open_clip_config.json").exists():
        config = _json(directory / "open_clip_config.json")
        model, preprocess = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
        known["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
        if heads := model.get("text_cfg", {}).get("heads"):
            known["text_heads"] = heads
        vision = model.get("vision_cfg", {})
        if "width" in vision:
            known["image_heads"] = vision["width"] // vision.get("head_width", 64)
        known |= {k: tuple(preprocess[k]) for k in ("mean", "std") if k in preprocess}
    elif (directory / "config.json").exists():
        config = _json(directory / "config.json")
        if config.get("model_type") != "clip":
            raise ValueError(
                f"{directory / 'config.json'}: model_type is {config.get('model_type')!r}, "
                "expected 'clip'"
            )
        vision, text = config.get("vision_config", {}), config.get("text_config", {})
        activations = {part.get("hidden_act", "quick_gelu") for part in (vision, text)}
        if len(activations) > 1 or not activations <= {"quick_gelu", "gelu"}:
            raise ValueError(
                f"{directory / 'config.json'}: hidden_act is {' and '.join(sorted(activations))}; "
                "expected quick_gelu or gelu, the same in both towers"
            )
        known["activation"] = activations.pop()
        known["image_heads"] = vision.get("num_attention_heads", 12)
        known["text_heads"] = text.get("num_attention_heads", 8)
        if (directory / "preprocessor_config.json").exists():
            preprocess = _json(directory / "preprocessor_config.json")
            names = {"mean": "image_mean", "std": "image_std"}
            known |= {k: tuple(preprocess[v]) for k, v in names.items() if v in preprocess}
    return known


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
