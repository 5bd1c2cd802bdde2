"""Where the runs of a sweep are trained: on this machine, by SLURM, on Cloud TPUs."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from launch import processes
from rsclip_jax.startup import MEMORY_FRACTION, MEMORY_VARIABLES


class Job(Protocol):
    """A run that has been started."""

    def running(self) -> bool:
        """Tell whether it still runs, or waits to."""

    def stop(self) -> bool:
        """Tell it to save and stop; return whether to wait for it (else it goes on without us)."""


class Backend(Protocol):
    """Starts runs."""

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        """Start a run, or find the one that an earlier sweep has started.

        Args:
          name: of this run in this workdir alone.
          arguments: of `rsclip_jax.main`.
          workdir: of the run.

        Raises:
          RuntimeError: it cannot be started at the moment.
        """


class _Process:
    def __init__(self, process: subprocess.Popen):
        self._process = process

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> bool:
        if self.running():
            self._process.send_signal(signal.SIGTERM)
        return True


class Local:
    """Processes on this machine; several at a time take the GPUs in turn.

    Where there are more runs than GPUs, those that share one share its memory, unless the
    environment says how much a process takes.
    """

    def __init__(self, parallel: int):
        gpus = _gpus() if parallel > 1 else []
        self._jobs: dict[str, list[Job]] = {gpu: [] for gpu in gpus}  # that each was given to
        self._environment: dict[str, str] = {}
        sharing = math.ceil(parallel / len(gpus)) if gpus else 1
        if sharing > 1 and not any(os.environ.get(name) for name in MEMORY_VARIABLES):
            self._environment[MEMORY_VARIABLES[0]] = f"{MEMORY_FRACTION / sharing:.3f}"

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        log = workdir / "logs" / "process-0.log"
        gpu = min(self._jobs, key=self._taken, default=None)
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        command = [*processes.TRAINER, *arguments]
        job = _Process(processes.start(command, log, self._environment | visible))
        if gpu is not None:
            self._jobs[gpu].append(job)
        return job

    def _taken(self, gpu: str) -> int:
        return sum(job.running() for job in self._jobs[gpu])


def _gpus() -> list[str]:
    """Return the GPUs that runs may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    return _output(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]).split()


class Tpu:
    """Cloud TPU VMs, one for each run, through launch/tpu_vm.sh; see there for ZONE, TYPE, ..."""

    def __init__(self, parallel: int):
        pass

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        script = str(processes.ROOT / "launch" / "tpu_vm.sh")
        stem, _, digest = name.lower().rpartition("-")
        label = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem)
        names = {"TPU": f"r-{label[:30]}-{digest}"}
        return _Process(
            processes.start([script, *arguments], workdir / "logs" / "tpu_vm.log", names)
        )


class _SlurmJob:
    def __init__(self, number: str):
        self._number = number

    def running(self) -> bool:
        try:
            return bool(_output(["squeue", "--noheader", f"--jobs={self._number}", "--format=%T"]))
        except RuntimeError as error:
            # A job that has ended is not known any more; a controller that is busy answers later.
            return "Invalid job id" not in str(error)

    def stop(self) -> bool:
        return False  # the queue goes on, and the next sweep finds the job by its name


class Slurm:
    """Jobs of launch/slurm.sbatch; SBATCH_* variables set their options."""

    def __init__(self, parallel: int):
        pass

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        here = ["squeue", "--noheader", "--me", f"--name={name}", "--format=%i"]
        number = _output(here).split()
        if not number:
            logs = workdir / "logs"
            logs.mkdir(parents=True, exist_ok=True)
            command = ["sbatch", "--parsable", f"--job-name={name}", f"--output={logs}/slurm.log"]
            script = str(processes.ROOT / "launch" / "slurm.sbatch")
            number = _output([*command, script, *arguments]).split(";")
        return _SlurmJob(number[0])


def _output(command: list[str]) -> str:
    """Return what a command prints.

    Raises:
      RuntimeError: it fails.
    """
    ours = {"RSCLIP_JAX_ROOT": str(processes.ROOT), "PYTHON": sys.executable}
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ours})
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {found.stderr.strip()}")
    return found.stdout.strip()


BACKENDS: dict[str, Callable[[int], Backend]] = {"local": Local, "slurm": Slurm, "tpu": Tpu}
