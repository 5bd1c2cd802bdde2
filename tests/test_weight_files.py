"""Malformed weights: each is told in one line that names the file, before anything is converted."""

import io
import json
import os
import pickle
import struct
import zipfile

import golden_models
import numpy as np
import pytest
import safetensors.numpy

from rsclip_jax import weights
from rsclip_jax.errors import told
from rsclip_jax.weights import files, pytorch

STATE = golden_models.state("openclip_tiny_gelu")
WHOLE = safetensors.numpy.save(STATE)
LENGTH = struct.unpack("<Q", WHOLE[:8])[0]
HEAD, BODY = json.loads(WHOLE[8 : 8 + LENGTH]), WHOLE[8 + LENGTH :]
CONFIG = {"model_type": "clip", "vision_config": {"num_attention_heads": 2}}


def headed(header, body=BODY, length=None):
    """Return a safetensors file of this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def turned(**changed):
    """Return the weights with another entry of visual.proj in the header."""
    return headed({**HEAD, "visual.proj": {**HEAD["visual.proj"], **changed}})


def with_tensor(name, value):
    return safetensors.numpy.save({**STATE, name: np.array(value)})


def archive(content, member="x/data.pkl"):
    """Return a zip as torch.save writes it, of one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr(member, content)
    return file.getvalue()


def float8():
    """Return weights in eight bits."""
    end, header = 0, {}
    for name, value in STATE.items():
        start, end = end, end + value.size
        header[name] = {"dtype": "F8_E4M3", "shape": value.shape, "data_offsets": [start, end]}
    return headed(header, b"\x38" * end)


def numpy_archive():
    file = io.BytesIO()
    np.savez(file, a=np.array([{1: 2}], object))
    return file.getvalue()


def text_config(**settings):
    return json.dumps({**CONFIG, "text_config": {"num_attention_heads": 2, **settings}}).encode()


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


ST, HF = "model.safetensors", "config.json"
INDEX, OPEN_CLIP = "model.safetensors.index.json", "open_clip_config.json"
RECURSIVE: dict = {}
RECURSIVE["state_dict"] = RECURSIVE
# What the file is called and holds (None: a link to itself), and what is told of it.
FILES = {
    "cut off": (ST, WHOLE[: len(WHOLE) // 2], "is damaged: .*incomplete"),
    "header too long": (ST, headed(HEAD, length=2**40), "is damaged: .*header too large"),
    "header too short": (ST, headed(HEAD, length=LENGTH // 2), "is damaged: .*invalid JSON"),
    "header a list": (ST, headed(b"[1, 2]"), "is damaged: .*fetch it again"),
    "empty": (ST, b"", "is damaged: .*header too small"),
    "unknown type": (ST, turned(dtype="F33"), "is damaged: .*F33"),
    "overlapping": (ST, turned(data_offsets=[0, STATE["visual.proj"].nbytes]), "invalid offset"),
    "huge shape": (ST, turned(shape=[2**40, 2**40]), "is damaged: .*overflow"),
    "other shape": (ST, turned(shape=[3, 3]), "is damaged: .*invalid shape"),
    "float8": (ST, float8(), "ln_final.bias F8_E4M3, .*not quantised"),
    "no tensors": (ST, headed({}, b""), "not the weights of a CLIP .*got 0 tensors$"),
    "nan": (ST, with_tensor("visual.proj", STATE["visual.proj"] * np.nan), "NaN .*visual.proj"),
    "integers": (ST, with_tensor("ln_final.bias", np.ones(64, np.int8)), "bias int8: .*floats"),
    "scalar": (ST, with_tensor("visual.proj", np.float32(3)), r"proj has the shape \(\); exp"),
    "row": (ST, with_tensor("visual.conv1.weight", np.zeros(3)), r"shape \(3,\); expected 4 dim"),
    "no width": (ST, with_tensor("visual.conv1.weight", np.zeros((0, 3, 8, 8))), "each of 1 or m"),
    "name with NUL": (ST, with_tensor("a\0b", np.zeros(2)), r"a tensor is called 'a\\x00b'"),
    "NumPy": ("x.npz", numpy_archive(), ".npz files are not read; expected .safetensors"),
    "NumPy as .pt": ("x.pt", numpy_archive(), "no PyTorch file: .*0 of them data.pkl"),
    "msgpack": ("flax_model.msgpack", b"\x82\xa3foo\x01", ".msgpack files are not read"),
    "text": ("pytorch_model.bin", b"hello, a text\n" * 9, "is damaged or no PyTorch file"),
    "no data.pkl": ("x.pt", archive(b"", "a.txt"), "an archive of 1 files, 0 of them data.pkl"),
    "harm": ("x.pt", archive(pickle.dumps({"e": Evil()})), "is refused: .* runs (posix|nt).system"),
    "a list": ("x.ckpt", archive(pickle.dumps([1])), "holds a list, no state dict"),
    "in itself": ("x.pt", archive(pickle.dumps(RECURSIVE)), "no tensors by name"),
    "no weights": ("x.ckpt", archive(pickle.dumps({"epoch": 1})), "no tensors .*it has epoch"),
    "link to itself": (ST, None, "no such file or directory, but a link that leads nowhere"),
    "no known file": ("readme.txt", b"x", "no workdir .* and holds none of"),
    "shard outside": (INDEX, b'{"weight_map": {"a": "../x.bin"}}', r"names '../x.bin'; expected"),
    "shard ..": (INDEX, b'{"weight_map": {"a": ".."}}', "weight_map names '..'; expected"),
    "shard with NUL": (INDEX, b'{"weight_map": {"a": "a\\u0000.bin"}}', r"names 'a\\x00.bin'"),
    "shard missing": (INDEX, b'{"weight_map": {"a": "b.bin"}}', "not there: b.bin; fetch"),
    "no shard": (INDEX, b'{"weight_map": {}}', "weight_map names no shard"),
    "index a list": (INDEX, b"[]", "holds no object of settings"),
    "config a list": (HF, b"[1]", "damaged"),
    "config deep": (HF, b"[" * 100_000, "damaged"),
    "tower a list": (HF, b'{"model_type": "clip", "text_config": [1]}', "expected an object"),
    "heads": (HF, text_config(num_attention_heads=7), "gives text_heads=7 .*divisor of .* 64"),
    "sizes": (HF, text_config(hidden_size=128), "another model's: text_width 128 where .* 64"),
    "end of text": (HF, text_config(eos_token_id=10**9), "read at token 1000000000, .* 97 tokens"),
    "mean of 255": ("preprocessor_config.json", b'{"image_mean": [123, 116, 103]}', "from 0 to 1"),
    "no model_cfg": (OPEN_CLIP, b"{}", "has no model_cfg"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILES)
def test_malformed_weights_are_told_in_a_line_that_names_the_file(fault, tmp_path):
    name, content, message = FILES[fault]
    beside = {HF: ST, "preprocessor_config.json": ST, OPEN_CLIP: f"open_clip_{ST}"}
    if name in beside:
        (tmp_path / beside[name]).write_bytes(WHOLE)
    if name == "preprocessor_config.json":
        (tmp_path / HF).write_bytes(text_config())
    if content is None:
        (tmp_path / name).symlink_to(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    whole = name in beside or name == "readme.txt"  # a directory is given, else the file
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        weights.read(tmp_path if whole else tmp_path / name)
    line = told(error.value)
    assert line and "\n" not in line and line.isprintable()
    assert str(tmp_path if name == "readme.txt" else tmp_path / name) in line


def test_a_pickle_asks_for_no_memory_that_its_bytes_do_not_need(tmp_path):
    far = b"\x80\x02}r\xff\xff\xff\x7f."  # an empty dict, remembered as object 2,147,483,647
    with zipfile.ZipFile(tmp_path / "far.pt", "w") as archive:
        archive.writestr("far/data.pkl", far)
    with pytest.raises(ValueError, match=r"remembers object 2,147,483,647 after 2 others"):
        files.read(tmp_path / "far.pt")
    wide = pytorch.Tensor(pytorch._Storage("0", 1, np.dtype("f4")), 0, (1 << 30,), (0,))
    with pytest.raises(ValueError, match="made of 1 numbers"):
        pytorch._array(wide, bytes(4))
