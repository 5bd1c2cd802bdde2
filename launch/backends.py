"""Where the runs of a sweep are trained: on this machine, by SLURM, on Cloud TPUs."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from launch import processes


class Job(Protocol):
    """A run that has been started."""

    def running(self) -> bool:
        """Tell whether it still runs, or waits to."""

    def stop(self) -> None:
        """Tell it to save and stop, where it would not go on without this sweep."""


class Backend(Protocol):
    """Starts runs."""

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        """Start a run, or find the one that an earlier sweep has started.

        Args:
          name: unique, of the sweep and the run.
          arguments: of `rsclip_jax.main`.
          workdir: of the run.
        """

    def log(self, workdir: Path) -> Path:
        """Return where the run's output is found."""


class _Process:
    def __init__(self, process: subprocess.Popen):
        self._process = process

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        if self.running():
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()


class Local:
    """Processes on this machine."""

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        return _Process(processes.start([*processes.TRAINER, *arguments], self.log(workdir)))

    def log(self, workdir: Path) -> Path:
        return workdir / "logs" / "process-0.log"


class Tpu:
    """Cloud TPU VMs, one for each run, through launch/tpu_vm.sh; see there for ZONE, TYPE, ..."""

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        script = str(processes.ROOT / "launch" / "tpu_vm.sh")
        names = {"TPU": name.lower().translate(str.maketrans("_.=", "---"))}
        return _Process(processes.start([script, *arguments], self.log(workdir), names))

    def log(self, workdir: Path) -> Path:
        return workdir / "logs" / "tpu_vm.log"


class _SlurmJob:
    def __init__(self, number: str):
        self._number = number

    def running(self) -> bool:
        state = _output(["squeue", "--noheader", f"--jobs={self._number}", "--format=%T"], "")
        return bool(state)

    def stop(self) -> None:
        """Leave it: the queue goes on without us, and the sweep finds the job again by its name."""


class Slurm:
    """Jobs of launch/slurm.sbatch; SBATCH_* variables set their options."""

    def start(self, name: str, arguments: Sequence[str], workdir: Path) -> Job:
        here = ["squeue", "--noheader", "--me", f"--name={name}", "--format=%i"]
        number = _output(here).split()
        if not number:
            script = str(processes.ROOT / "launch" / "slurm.sbatch")
            self.log(workdir).parent.mkdir(parents=True, exist_ok=True)
            command = [
                "sbatch",
                "--parsable",
                f"--job-name={name}",
                f"--output={self.log(workdir)}",
            ]
            environment = {"RSCLIP_JAX_ROOT": str(processes.ROOT)}
            number = _output([*command, script, *arguments], environment=environment).split(";")
        return _SlurmJob(number[0])

    def log(self, workdir: Path) -> Path:
        return workdir / "logs" / "slurm.log"


def _output(
    command: list[str], failed: str | None = None, environment: dict[str, str] | None = None
) -> str:
    """Return what a command prints, or `failed` (if given) where it fails."""
    found = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    if found.returncode and failed is None:
        raise RuntimeError(f"{' '.join(command)} failed: {found.stderr.strip()}")
    return failed if found.returncode and failed is not None else found.stdout.strip()


BACKENDS: dict[str, type[Backend]] = {"local": Local, "slurm": Slurm, "tpu": Tpu}
