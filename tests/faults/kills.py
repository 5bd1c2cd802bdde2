"""Kill commands with -9 at random moments, give them again, and compare what they make in the end.

    PYTHONPATH=.:tests python -m faults.kills --kills=200 --seed=1 --directory=DIR

Each command first runs undisturbed. Then it is killed, alone or with all processes that it has
started, at moments drawn from the time that it took, and given again until it ends by itself. After
each kill nothing may look whole that is not as the undisturbed command made it; in the end all must
be there; else the campaign ends. A row of a Markdown table tells how a command that passed went.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.jobs import JOBS, Job, write_inputs

MOST_IN_A_ROW = 5  # then the command may end: it gets no further than its start otherwise


class Fault(AssertionError):
    """Something was lost, or half-written and taken for whole."""


def main() -> None:
    """Run the campaign as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    args = parser.parse_args()
    inputs = args.directory.absolute() / "inputs"
    inputs.mkdir(parents=True)
    write_inputs(inputs)
    print("| command | killed | before anything was made | given |\n|---|--:|--:|--:|")
    if {"evaluate", "export"} & set(args.jobs):
        made = args.directory.absolute() / "model"
        _finish(JOBS["train"].command(inputs, made))
        (inputs / "model").symlink_to(made / "run")
    for name in args.jobs:
        rng = random.Random(f"{args.seed} {name}")
        line = disturb(
            JOBS[name], inputs, args.directory.absolute() / name, args.kills // len(args.jobs), rng
        )
        print(f"| {name} | {line['killed']} | {line['early']} | {line['given']} |", flush=True)


def disturb(
    job: Job, inputs: Path, directory: Path, kills: int, rng: random.Random
) -> dict[str, int]:
    """Kill a command so often; return how often, how often early, and how often it was given.

    Raises:
      Fault: with the directory that shows it.
    """
    begun = time.monotonic()
    _finish(job.command(inputs, directory / "whole"))
    took = time.monotonic() - begun
    expected = _plain(job.made(directory / "whole"))
    if not expected:
        raise Fault(f"{directory}/whole: the undisturbed command has made nothing")
    told = {"killed": 0, "early": 0, "given": 0}
    while told["killed"] < kills:
        own = directory / f"{told['given']}"
        for _ in range(MOST_IN_A_ROW):
            if job.made(own):
                break
            told["given"] += 1
            if not _kill(job.command(inputs, own), rng.uniform(0, took), rng.random() < 0.5):
                break
            told["killed"] += 1
            found = _plain(job.made(own)) if own.exists() else {}
            told["early"] += not found
            if found not in ({}, expected):
                raise Fault(f"{own}: half-written, and taken for whole")
        if not job.made(own):  # else it refuses to make it once more, or has nothing to do
            told["given"] += 1
            _finish(job.command(inputs, own))
        if _plain(job.made(own)) != expected:
            raise Fault(f"{own}: not what the undisturbed command has made")
    return told


def _plain(made: object) -> object:
    return json.loads(json.dumps(made))


def _start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def _finish(command: list[str]) -> None:
    process = _start(command)
    said, _ = process.communicate()
    if process.returncode:
        raise Fault(f"{' '.join(command)}\n{said}")


def _kill(command: list[str], seconds: float, alone: bool) -> bool:
    """Kill a command after so many seconds; return False if it has ended before that.

    Args:
      alone: what it has started lives on, and is killed only a second later.
    """
    process = _start(command)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        if alone:
            process.kill()
            time.sleep(1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise Fault(f"{' '.join(command)}\n{said}")
    return False


if __name__ == "__main__":
    sys.exit(main())
