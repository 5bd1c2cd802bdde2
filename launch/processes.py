"""Processes that end with the one that started them, and write a log."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsclip_jax.training.workdir import FINISHED_FILE

ROOT = Path(__file__).parents[1]
TRAINER = [sys.executable, "-m", "rsclip_jax.main"]
PR_SET_PDEATHSIG = 1


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start a command in the root of this repository, its output appended to `log`.

    Should this process die, even by kill -9, the command is sent SIGTERM: a trainer then saves.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            start_new_session=True,  # Ctrl-C reaches us alone, who pass it on as SIGTERM
        )


_libc = ctypes.CDLL(None)  # before the fork: afterwards nothing may be loaded


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def finished(workdir: Path) -> bool:
    """Tell whether the run in `workdir` has come to its end."""
    return (workdir / FINISHED_FILE).exists()


def tail(workdir: Path, lines: int = 20) -> str:
    """Return the last lines of the newest log of a run."""
    logs = sorted(workdir.glob("logs/*.log"), key=lambda log: log.stat().st_mtime)
    if not logs:
        return f"(there is no log in {workdir / 'logs'})"
    with logs[-1].open("rb") as file:
        file.seek(max(0, logs[-1].stat().st_size - 2**16))
        text = file.read().decode(errors="replace")
    return "\n".join([f"{logs[-1]}:", *text.replace("\r", "\n").splitlines()[-lines:]])
