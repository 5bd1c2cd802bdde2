"""Start a run on this machine, in one process or several.

    python -m launch.local --config=configs/lrsclip.py:demo --workdir=runs/demo [--processes=2]

All other arguments are those of `rsclip_jax.main`. Each process writes WORKDIR/logs/process-I.log;
that of the first is shown. SIGTERM and Ctrl-C are passed on: the run saves and stops, and the same
command continues it. A run that somebody else has stopped is started again, as on a cluster.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import processes
from rsclip_jax import host

POLL_S = 0.2
PATIENCE_S = 60  # for the others to stop, once one process has failed


def main(argv: Sequence[str]) -> int:
    """Run the command with its arguments (without the program's name); return its exit status."""
    parser = argparse.ArgumentParser("python -m launch.local", allow_abbrev=False)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--processes", type=int, default=1)
    args, others = parser.parse_known_args(argv)
    workdir = host.output_directory(args.workdir, "--workdir")
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.append(number))
    while True:
        status = _run([*others, f"--workdir={workdir}"], workdir, args.processes, told)
        if status or told or processes.finished(workdir):
            return status
        print(f"local: {workdir} was stopped before its end; starting it again", flush=True)


def _run(arguments: list[str], workdir: Path, number: int, told: list[int]) -> int:
    """Start all processes and wait for them; return the status of the first that failed, or 0."""
    logs = [workdir / "logs" / f"process-{i}.log" for i in range(number)]
    shown = logs[0].stat().st_size if logs[0].exists() else 0
    running = []
    address = f"localhost:{_free_port()}"
    for i, log in enumerate(logs):
        flags = [f"--coordinator_address={address}", f"--num_processes={number}"]
        own = [*flags, f"--process_id={i}"] if number > 1 else []
        running.append(processes.start([*processes.TRAINER, *arguments, *own], log))
    failed_at, sent = 0.0, False
    while any(process.poll() is None for process in running):
        time.sleep(POLL_S)
        shown = _show(logs[0], shown)
        if told and not sent:
            _signal(running, signal.SIGTERM)
            sent = True
        if not failed_at and any(process.poll() for process in running):
            failed_at = time.monotonic()
        if failed_at and time.monotonic() > failed_at + PATIENCE_S:
            _signal(running, signal.SIGKILL)
    _show(logs[0], shown)
    return next((abs(process.returncode) for process in running if process.returncode), 0)


def _signal(running: list[subprocess.Popen], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


def _show(log: Path, shown: int) -> int:
    """Print what a log has gained; return its size."""
    with log.open("rb") as file:
        file.seek(shown)
        sys.stdout.buffer.write(file.read())
        sys.stdout.flush()
        return file.tell()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
