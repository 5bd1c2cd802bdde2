"""Reading the files that weights are published in, without running code that lies in them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors

from rsclip_jax import host
from rsclip_jax.data.sources import some
from rsclip_jax.weights import pytorch, settings

# Weights in a directory of open_clip or Hugging Face; the first that is there is read.
IN_DIRECTORY = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARD = re.compile(r"[^/\\\x00-\x1f]+\.(safetensors|bin)")
OTHERS = (".msgpack", ".h5", ".onnx", ".gguf", ".npz", ".npy", ".tflite", ".pb", ".mlmodel")
# Where trainers keep the weights beside their own state.
STATE_KEYS = ("state_dict", "model_state_dict", "model", "module")


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a weights file (safetensors, or PyTorch's), or that of a directory with its settings.

    Returns:
      (state dict, what was said beside it: see `settings.read`).

    Raises:
      FileNotFoundError: nothing there.
      ValueError: not a weights file, a damaged one, or one that does harm where it is unpickled.
    """
    if path.is_dir():
        # A link that leads nowhere is told, as one of a cache that was cleared.
        present = [path / name for name in IN_DIRECTORY if os.path.lexists(path / name)]
        if not present and path.parent.name == "checkpoints":
            raise FileNotFoundError(
                f"{path} is one step of the run {path.parents[1]}: name the run, whose newest step "
                f"is read; evaluate, export and convert take another by --step={path.name}, and "
                "what convert writes can be config.init_from"
            )
        if not present:
            raise FileNotFoundError(
                f"{path} is no workdir of rsclip_jax.main (no checkpoints) and holds none of "
                f"{', '.join(IN_DIRECTORY)}"
            )
        return read(present[0])
    if not path.exists():
        link = ", but a link that leads nowhere" if path.is_symlink() else ""
        raise FileNotFoundError(f"{path}: no such file or directory{link}")
    if path.name.endswith(".index.json"):
        shard_of = settings.load_json(path).get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(v, str) for v in shard_of.values()):
            raise ValueError(f"{path} is damaged: expected weight_map, the file of each tensor")
        shards = sorted(set(shard_of.values()))
        if not shards or not all(map(_SHARD.fullmatch, shards)):
            named = some(list(map(repr, shards)), 8) or "no shard"
            raise ValueError(
                f"{path}: weight_map names {named}; expected .safetensors or .bin files beside it, "
                "none outside"
            )
        if missing := [shard for shard in shards if not (path.parent / shard).exists()]:
            raise FileNotFoundError(
                f"{path} names shards that are not there: {some(missing, 8)}; fetch them as well"
            )
        parts = [_tensors(path.parent / shard)[0] for shard in shards]
        state = {name: value for part in parts for name, value in part.items()}
        hints: dict[str, Any] = {}
    else:
        state, hints = _tensors(path)
    return state, {
        **hints,
        **(settings.read(path.parent, path.name) if path.name in IN_DIRECTORY else {}),
    }


def _tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with host.regular_file(path).open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"version https://git-lfs", b"<!doctype", b"<html")):
        what = "a pointer of Git LFS (`git lfs pull`)" if start[:1] == b"v" else "a web page"
        raise ValueError(f"{path} is {what}, and not the weights; fetch them")
    if path.suffix in OTHERS:
        raise ValueError(
            f"{path}: {path.suffix} files are not read; expected .safetensors, or PyTorch's .pt, "
            ".pth, .bin or .ckpt, as which most models are published, too"
        )
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, "np") as file:
                types = {name: file.get_slice(name).get_dtype() for name in file.keys()}
                odd = [f"{k} {v}" for k, v in types.items() if v.startswith(("F4", "F6_", "F8_"))]
                if odd:
                    raise ValueError(
                        f"{path}: {some(odd, 2)}: expected F32, F16 or BF16; take weights that "
                        "were not quantised"
                    )
                return {name: file.get_tensor(name) for name in file.keys()}, {}
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}; fetch it again") from error
    return _torch_tensors(path)


def _torch_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    content, numbers, inert, script = pytorch.read(path)
    # OpenAI's own files are TorchScript archives, in half precision.
    hints = {"activation": "quick_gelu"} if script else {}
    state: Any = content
    at: list[str] = []
    unused: list[str] = []
    for key in STATE_KEYS:  # a trainer's checkpoint
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            unused += [str(other) for other in state if other != key]
            state, at = state[key], [*at, key]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, no state dict")
    tensors = {str(k): value for k, value in state.items() if isinstance(value, pytorch.Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors by name: expected a state dict, or one under "
            f"{', '.join(STATE_KEYS)}; it has {some(list(map(str, state)), 8)}"
        )
    if at and (unused or inert) and jax.process_index() == 0:
        also = f", nor of {some(inert, 8)}" if inert else ""
        read_only = f"{'/'.join(at)} is read, nothing of {some(unused, 8) or 'others'}{also}"
        print(f"{path.name}: {read_only}", flush=True)
    return {name: numbers(value) for name, value in tensors.items()}, hints
