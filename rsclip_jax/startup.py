"""What a command does before it computes: memory, compiled programs, devices, and one printed line.

Nothing of this happens on import, nor in `rsclip_jax.load`: a notebook decides for itself.
"""

import contextlib
import hashlib
import math
import os
import platform
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache

from rsclip_jax import cuda, distributed, host

# Of a GPU's memory, for JAX to take at its start. Its own default is 0.75; what is left here is for
# CUDA, NCCL and the libraries' own buffers.
MEMORY_FRACTION = 0.92
# By each of these a user decides on the memory; JAX refuses both names of the fraction at once.
MEMORY_VARIABLES = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
UNREAD_DAYS = 60  # a compiled program that nobody has loaded for so long is removed
# What /proc/cpuinfo has of a model and its instructions, of x86 and ARM; not its clock.
CPU_LINES = ("vendor", "cpu family", "model", "flags", "cpu implementer", "cpu part", "features")


@contextlib.contextmanager
def started(given: Any = None, again: str = "", compiles: bool = False) -> Iterator[None]:
    """Start JAX as a command needs it, and join the other processes of its run.

    Args:
      given, again: as in `distributed.joined`; without them, this process works alone.
      compiles: for minutes, so that users want to know where compiled programs are kept.

    Raises:
      cuda.DeviceError: JAX cannot use the GPU that is here, or the devices that were asked for.
    """
    host.printable_output()
    memory = claim_memory(os.environ)
    programs = keep_programs()
    alone = contextlib.nullcontext()
    with alone if given is None else distributed.joined(given, again), cuda.explained():
        notes = cuda.start_devices()
        if jax.process_index() == 0:
            told = [programs] if compiles else []
            print("; ".join([described(memory), *told, *notes]), flush=True)
        yield


def claim_memory(environ: MutableMapping[str, str]) -> str:
    """Let JAX take MEMORY_FRACTION of each GPU, unless the user has decided; say who has.

    JAX reads the variables when it starts its devices.
    """
    told = [f"{name}={environ[name]}" for name in MEMORY_VARIABLES if environ.get(name)]
    if not told:
        environ[MEMORY_VARIABLES[0]] = str(MEMORY_FRACTION)
        return f"{100 * MEMORY_FRACTION:.0f} % of their memory ({MEMORY_VARIABLES[0]} changes it)"
    return f"memory as {', '.join(told)} says"


def described(memory: str) -> str:
    """Name the devices of all processes."""
    devices = jax.devices()
    name = f"devices: {len(devices)} x {devices[0].device_kind}"
    return f"{name}, {memory}" if devices[0].platform == "gpu" else name


def keep_programs() -> str:
    """Have JAX keep compiled programs on disk, unless the user has decided; say where.

    JAX writes an entry in place, and never again: what a kill has cut off stays, costs a warning
    and is compiled anew each time. Such entries are removed here, before they are read.
    """
    given = jax.config.values["jax_compilation_cache_dir"]  # None where the variable is not set
    if given == "" or not jax.config.values["jax_enable_compilation_cache"]:
        return f"compiled programs are not kept ({CACHE_VARIABLE} is empty, or the cache disabled)"
    if "://" in (given or ""):
        return f"compiled programs: {given}"  # a bucket takes whole objects only
    place = Path(given) if given else default_place(os.environ)
    try:
        place.mkdir(parents=True, exist_ok=True)
        # In a place of the user's own nothing grows old.
        removed = tidy(place, math.inf if given else UNREAD_DAYS)
    except OSError as error:
        jax.config.update("jax_compilation_cache_dir", None)
        return f"compiled programs are not kept ({error}); {CACHE_VARIABLE} names another place"
    jax.config.update("jax_compilation_cache_dir", str(place))
    cleared = f", {removed} cut off or unread for {UNREAD_DAYS} days removed" if removed else ""
    return f"compiled programs: {place} ({CACHE_VARIABLE}{cleared})"


def default_place(environ: MutableMapping[str, str]) -> Path:
    """Return where this machine's compiled programs are kept.

    Programs for CPUs hold instructions that another model may not have, and machines of a cluster
    share their home: each kind of CPU has a folder.
    """
    home = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rsclip_jax" / "xla" / cpu_kind()


def cpu_kind(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return a short name of this CPU, the same for all of its model and instructions."""
    told = platform.processor()
    if cpuinfo.exists():
        first = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0]  # of its cores
        told += "".join(line for line in first.splitlines() if line.lower().startswith(CPU_LINES))
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def tidy(place: Path, unread_days: float) -> int:
    """Remove entries that are cut off, or that nobody has read for so long; return how many.

    Only what was written since the last time is looked into. Other processes may do the same, and
    read and write meanwhile: what they then miss they compile.
    """
    checked = place / ".checked"
    since = checked.stat().st_mtime if checked.exists() else 0.0
    checked.touch()
    removed = 0
    for entry in place.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            found = entry.stat()
            unread_s = time.time() - max(found.st_atime, found.st_mtime)
            old = unread_s > unread_days * 24 * 3600
            if old or (found.st_mtime >= since and not _whole(entry)):
                entry.unlink()
                removed += 1
    return removed


def _whole(entry: Path) -> bool:
    try:
        compilation_cache.decompress_executable(entry.read_bytes())
    except OSError:
        raise
    except Exception:  # of zlib or of zstandard, whichever JAX has found
        return False
    return True
