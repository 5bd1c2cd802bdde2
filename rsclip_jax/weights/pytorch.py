"""Reading PyTorch's files without PyTorch: their tensors alone, and no code that lies in them.

A checkpoint is a pickle that names classes and functions to call, and raw numbers beside it. Here
the functions that make tensors are our own, and whatever else is named becomes an empty `_Inert`:
trainers put NumPy scalars, `argparse.Namespace` and classes of their own beside the weights.
"""

import collections
import contextlib
import dataclasses
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_DTYPES: dict[str, Any] = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # begins the files of PyTorch before 1.6
# No checkpoint needs these, they are how a pickle does harm. Nothing is run either way.
_HOSTILE = {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib"}
_HOSTILE |= {"pty", "ctypes", "webbrowser"}
_HOSTILE |= {f"builtins.{x}" for x in ("eval", "exec", "compile", "open", "getattr", "__import__")}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Numbers in a row: the key of their file, their number and type."""

    key: str
    size: int
    dtype: Any


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its storage; its numbers are read on demand."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Inert(dict):
    """Stands for an object that is not read; takes all that a pickle does to one."""

    def __init__(self, *given: Any, **named: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Take an item of a list."""

    def extend(self, items: Any) -> None:
        """Take the items of a list."""

    def __hash__(self) -> int:  # type: ignore[override]  # it may be the key of a dict
        return id(self)


class _Unpickler(pickle.Unpickler):
    """Make tensors and containers; `inert` names what else the pickle asked for."""

    def __init__(self, file: Any):
        _check_places(file)
        super().__init__(file, encoding="utf-8")
        self.inert: dict[str, type] = {}
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f"{module}.{name}")
        if known is not None:
            return known
        if module in ("torch", "torch.storage") and name.removesuffix("Storage") in _DTYPES:
            return np.dtype(_DTYPES[name.removesuffix("Storage")])
        return self.inert.setdefault(f"{module}.{name}", type(name, (_Inert,), {}))

    def persistent_load(self, given: Any) -> Any:
        kind, dtype, key, _, size = given[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            return _Inert()
        return self.storages.setdefault(str(key), _Storage(str(key), int(size), dtype))


def _check_places(file: Any) -> None:
    """Refuse a pickle that remembers an object at a far place: Python makes room up to there.

    Raises:
      ValueError: it does, which takes 16 GB in a file of 500 bytes, or it is damaged.
    """
    start = file.tell()
    for number, (opcode, value, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(value or 0) > number:
            raise ValueError(f"it remembers object {value:,} after {number:,} others")
    file.seek(start)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(storage, _Storage):  # of a type that is not known here
        return storage
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_KNOWN: dict[str, Callable] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}


def read(path: Path) -> tuple[Any, Callable[[Tensor], np.ndarray], list[str], bool]:
    """Read what `torch.save` or `torch.jit.save` wrote.

    Returns:
      (content, numbers, inert, script): the pickled object, its tensors as `Tensor`; what makes
      arrays of them; the classes and functions that it names and that were left out; whether it is
      a TorchScript archive, whose content is the tensors by name.

    Raises:
      ValueError: damaged, no such file, or one that would do harm where it is unpickled. Nothing of
        it is run here.
    """
    try:
        if zipfile.is_zipfile(path):
            content, numbers, inert, script = _read_archive(path)
        else:
            content, numbers, inert = _read_legacy(path)
            script = False
    except (
        *(zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, KeyError, IndexError),
        *(ValueError, TypeError, AttributeError, struct.error, UnicodeError, MemoryError),
        *(OverflowError, RecursionError, ImportError, NotImplementedError),
    ) as error:
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged or no PyTorch file: {reason}; fetch it again"
        ) from error
    harm = [name for name in inert if name in _HOSTILE or name.split(".")[0] in _HOSTILE]
    if harm:
        raise ValueError(
            f"{path} is refused: whoever unpickles it runs {', '.join(harm)}, which no checkpoint "
            "needs (here it was not run); get the weights from a place that you trust"
        )
    return content, numbers, inert, script


def _read_archive(path: Path) -> tuple[Any, Callable[[Tensor], np.ndarray], list[str], bool]:
    with zipfile.ZipFile(path) as file:
        members = file.namelist()
        unfolded = sum(member.file_size for member in file.infolist())
        if unfolded > path.stat().st_size:  # PyTorch stores them as they are
            raise ValueError(
                f"its {path.stat().st_size} bytes would unfold to {unfolded}, which no PyTorch "
                "file does"
            )
        found = [name for name in members if name.split("/", 1)[-1] == "data.pkl"]
        if len(found) != 1:
            raise ValueError(f"an archive of {len(members)} files, {len(found)} of them data.pkl")
        root = found[0].removesuffix("data.pkl")
        if root + "byteorder" in members and file.read(root + "byteorder") != b"little":
            raise ValueError("its numbers are in big-endian order")
        unpickler = _Unpickler(io.BytesIO(file.read(found[0])))
        content = unpickler.load()
    script = root + "constants.pkl" in members
    if script:
        content = dict(_attributes(content))
        unpickler.inert = {k: v for k, v in unpickler.inert.items() if k[:9] != "__torch__"}

    def numbers(tensor: Tensor) -> np.ndarray:
        with zipfile.ZipFile(path) as file:
            return _array(tensor, file.read(f"{root}data/{tensor.storage.key}"))

    return content, _reported(path, numbers), list(unpickler.inert), script


def _attributes(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a TorchScript module and its children by their dotted names."""
    state = getattr(module, "state", None)
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Inert):
            yield from _attributes(value, f"{prefix}{name}.")


def _read_legacy(path: Path) -> tuple[Any, Callable[[Tensor], np.ndarray], list[str]]:
    with path.open("rb") as file:
        if _Unpickler(file).load() != _LEGACY_MAGIC:
            raise ValueError("it does not begin as PyTorch's files do")
        for _ in ("protocol", "system"):
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        content = unpickler.load()
        keys = [str(key) for key in _Unpickler(file).load()]
        start = file.tell()
    places = {}
    for key in keys:
        if (storage := unpickler.storages.get(key)) is None:
            raise ValueError("it holds numbers of a type that is not known here")
        places[key] = start + 8  # behind the number of numbers
        start += 8 + storage.size * storage.dtype.itemsize

    def numbers(tensor: Tensor) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(places[tensor.storage.key])
            return _array(tensor, file.read(tensor.storage.size * tensor.storage.dtype.itemsize))

    return content, _reported(path, numbers), list(unpickler.inert)


def _array(tensor: Tensor, data: bytes) -> np.ndarray:
    dtype = tensor.storage.dtype
    if len(data) != tensor.storage.size * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes where {tensor.storage.size} numbers of {dtype} belong")
    flat = np.frombuffer(data, dtype)
    steps = zip(tensor.shape, tensor.stride, strict=True)
    last = tensor.offset + sum((count - 1) * step for count, step in steps)
    if min((tensor.offset, *tensor.shape, *tensor.stride)) < 0:  # in a file made to do harm
        raise ValueError(f"a tensor of shape {tensor.shape} and strides {tensor.stride}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, dtype)
    if last >= len(flat):
        raise ValueError(f"a tensor of shape {tensor.shape} ends behind its {len(flat)} numbers")
    if math.prod(tensor.shape) > max(16 * len(flat), 1 << 20):  # by strides of 0
        raise ValueError(f"a tensor of shape {tensor.shape} made of {len(flat)} numbers")
    strides = [step * dtype.itemsize for step in tensor.stride]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    # Floats become float32, a precision that all of ours can be told apart in.
    return view.astype(np.float32 if dtype.kind in "fV" else dtype)


def _reported(path: Path, numbers: Callable[[Tensor], np.ndarray]) -> Callable:
    def read_numbers(tensor: Tensor) -> np.ndarray:
        with _damage(path):
            return numbers(tensor)

    return read_numbers


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}; fetch it again") from error
