"""What the program runs on: the card, its state, the processor and the versions of libraries."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu13",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "torch",
    "open_clip_torch",
)


def describe() -> dict[str, str]:
    """Return name -> value; what is not there is said."""
    versions = {name: _version(name) for name in LIBRARIES}
    return {
        "card": _card("name,memory.total") or "none that nvidia-smi shows",
        "driver": _card("driver_version") or "none that nvidia-smi shows",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        **versions,
    }


def check_gpu(env: Mapping[str, str]) -> None:
    """Ask JAX, in a process of its own that leaves the card free, whether it computes on a GPU.

    Raises:
      ValueError: it does not.
    """
    code = "import jax; print(jax.devices())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    answer = (asked.stdout if asked.returncode == 0 else asked.stderr).strip().split("\n")[-1]
    if asked.returncode or "cuda" not in answer.lower():
        raise ValueError(
            f"expected a GPU that JAX sees, but it says {answer}: install jax[cuda13] of this "
            "driver, or give --toy for a run on the CPU that measures nothing"
        )


def state() -> str:
    """Return clock, temperature, power and memory in use of the card at this moment."""
    fields = "clocks.sm,clocks.max.sm,temperature.gpu,power.draw,power.limit,memory.used"
    found = _card(fields)
    if not found:
        return "no GPU"
    clock, most, heat, power, limit, memory = found.split(", ")
    return f"{clock} of {most}, {heat} C, {power} of {limit}, {memory} in use"


def _card(fields: str) -> str:
    """Return what nvidia-smi says of the first card, "" without one."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
