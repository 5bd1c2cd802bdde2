"""NVIDIA's GPUs: is one here, does JAX use it, and if not, why."""

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import jax

DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")  # the last is that of Windows' Linux
DRIVER = "/proc/driver/nvidia/version"
# The oldest driver (its first number) that runs the programs of a CUDA.
OLDEST_DRIVER = {"13": 580, "12": 525}
LIBRARIES = ("libcudart.so*", "libcublas*.so*", "libcudnn*.so*", "libnccl.so*", "libcupti.so*")
ON_PURPOSE = "to use the CPU on purpose: JAX_PLATFORMS=cpu"
NCCL_HINT = (
    "NCCL, by which GPUs exchange data, has failed: NCCL_DEBUG=INFO makes it tell where. Between "
    "hosts NCCL_SOCKET_IFNAME=NAME gives the network that they share (`ip address` lists them), "
    "and NCCL_IB_DISABLE=1 does without InfiniBand; in a container, give it more shared memory "
    "(docker run --shm-size=8g)."
)


class DeviceError(ValueError):
    """JAX has not the devices that it should have."""


def start_devices() -> list[str]:
    """Start JAX's devices; return what a user should know of them.

    Raises:
      DeviceError: JAX cannot start those that JAX_PLATFORMS asks for, or an NVIDIA GPU is here and
        JAX does not use it; the message says why, and what to do.
    """
    asked = jax.config.values["jax_platforms"] or ""
    with _held_back("jax._src.xla_bridge") as records:
        try:
            used = jax.devices()[0].platform
        except (RuntimeError, AssertionError) as error:  # the latter where nothing was found
            why = _reason(records) or str(error).split("\n")[0] or "no such device is here"
            for_gpu = bool({"gpu", "cuda"} & set(asked.split(",")))
            if here() and (for_gpu or not asked):
                raise DeviceError(unused_gpu(why)) from error
            if for_gpu:
                why = "no NVIDIA GPU is here"
            told = f"JAX_PLATFORMS={asked}: " if asked else ""
            raise DeviceError(f"{told}JAX cannot start, {why}; {ON_PURPOSE}") from error
    if used == "cpu" and not asked and here():
        if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
            return ["no GPU is used: CUDA_VISIBLE_DEVICES hides them"]
        raise DeviceError(unused_gpu(_reason(records)))
    if used == "cpu" and not asked and packages():
        # JAX prints a traceback of its CUDA plugin then, which looks for the driver in vain.
        return ["the CUDA packages are installed, but there is no NVIDIA GPU here"]
    for record in records:
        logging.getLogger(record.name).handle(record)
    foreign = foreign_libraries(os.environ) if used == "gpu" and packages() else []
    return [_foreign(foreign)] if foreign else []


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Add to an error of NCCL what to do about it."""
    try:
        yield
    except Exception as error:
        if "nccl" in str(error).lower():
            error.add_note(NCCL_HINT)
        raise


def here(paths: Sequence[str] = (*DEVICES, DRIVER)) -> bool:
    """Tell whether this machine has an NVIDIA GPU, by the files of its driver."""
    return any(Path(path).exists() for path in paths)


def driver(path: str = DRIVER) -> str:
    """Return the version of NVIDIA's driver, such as "580.65.06"; "" where it is not told."""
    found = re.search(r"\s(\d{3,}\.\d+(\.\d+)?)\s", _read(path))
    return found[1] if found else ""


def packages() -> dict[str, str]:
    """Return the versions of JAX's CUDA packages that are installed: name -> version."""
    found = {}
    for cuda_version in OLDEST_DRIVER:
        for part in ("plugin", "pjrt"):
            name = f"jax-cuda{cuda_version}-{part}"
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
    return found


def foreign_libraries(environ: Mapping[str, str]) -> list[str]:
    """Return the folders of LD_LIBRARY_PATH that hold CUDA's libraries.

    They come before those of the packages, which load some of theirs by name.
    """
    packaged = Path(jax.__file__).parents[1]
    folders = [Path(name) for name in environ.get("LD_LIBRARY_PATH", "").split(":") if name]
    return [
        str(folder)
        for folder in folders
        if not folder.is_relative_to(packaged)
        and any(any(folder.glob(pattern)) for pattern in LIBRARIES)
    ]


def unused_gpu(reason: str = "") -> str:
    """Say why JAX does not use the GPU that is here, and what to do.

    Args:
      reason: JAX's own words.
    """
    version, jaxlib, installed = driver(), metadata.version("jaxlib"), packages()
    number = int(version.split(".")[0]) if version else math.inf  # unknown: not to blame
    fitting = next((cuda for cuda, oldest in OLDEST_DRIVER.items() if number >= oldest), "")
    install = f"pip install 'jax[cuda{fitting}]=={jax.__version__}'"
    too_new = [name for name in installed if number < OLDEST_DRIVER[_cuda_of(name)]]
    if not fitting:
        why = f"the driver is too old for any CUDA of JAX: it needs {OLDEST_DRIVER['12']} or newer"
    elif not installed:
        why = f"JAX's CUDA packages are not installed: {install}"
    elif too_new:
        oldest = OLDEST_DRIVER[_cuda_of(too_new[0])]
        why = (
            f"the driver is too old for {' and '.join(too_new)}: update it to {oldest} or newer, "
            f"or pip uninstall {' '.join(too_new)} and {install}"
        )
    elif len(installed) % 2 or set(installed.values()) != {jaxlib}:
        told = ", ".join(f"{name} {number}" for name, number in installed.items())
        why = f"the packages do not fit together, jaxlib {jaxlib} and {told}: {install}"
    elif foreign := foreign_libraries(os.environ):
        why = _foreign(foreign)
    else:
        why = f"JAX says: {reason or 'nothing'}"
    return (
        f"an NVIDIA GPU is here (driver {version or 'unknown'}), but JAX does not use it: {why}; "
        f"{ON_PURPOSE}"
    )


def _cuda_of(package: str) -> str:
    return package.removeprefix("jax-cuda").split("-")[0]


def _foreign(folders: Sequence[str]) -> str:
    return (
        f"LD_LIBRARY_PATH has CUDA libraries ({', '.join(folders)}), which can take the place of "
        "those that JAX was installed with: unset LD_LIBRARY_PATH"
    )


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""


def _reason(records: Sequence[logging.LogRecord]) -> str:
    """Return what made JAX fail, its causes too; without a failure, what JAX had to say."""
    told = []
    for record in records:
        error = record.exc_info[1] if record.exc_info else None
        while error:  # the deepest cause knows most
            told.append(str(error))
            error = error.__cause__
    told = told or [record.getMessage() for record in records]
    return "; ".join(line.strip().splitlines()[0] for line in told if line.strip())


@contextlib.contextmanager
def _held_back(name: str) -> Iterator[list[logging.LogRecord]]:
    """Keep what a logger would print in a list."""
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield records
    finally:
        logger.removeFilter(keep)
