"""Train all runs of a sweep and compare them.

    python -m launch.sweep --sweep=launch/sweeps/lrsclip_kps.py --workdir=runs/kps \\
        [--backend=local|slurm|tpu] [--parallel=2] [--sweep.scale=paper] [--dry_run] \\
        [--config.FIELD=VALUE ...]

Shows the plan first; --dry_run stops there. The same command again goes on where the sweep was
stopped, by kill -9 too; finished runs are not repeated. A run that fails is started once more, then
reported with the end of its log, while the others go on. `launch/plan.py` tells what a sweep file
is. WORKDIR has

    runs/NAME/          the workdir of each run
    results.parquet     every line of every run's metrics, and its last ones (results.csv: the same)
    table.md            a row for each group of seeds
    metric.png curves.png   where matplotlib is installed

all of them made anew whenever a run finishes.
"""

import argparse
import collections
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from launch import plan, processes, report, results
from launch.backends import BACKENDS, Backend, Job
from launch.plan import Run, Sweep
from rsclip_jax import atomic, host

POLL_S = 1.0
SHOW_S = 30.0  # between progress lines where the output is no terminal
REDRAW_S = 60.0  # between plots
ATTEMPTS = 2


def main(argv: Sequence[str]) -> int:
    """Run the command with its arguments (without the program's name); return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m launch.sweep",
        description=__doc__.splitlines()[0],
        epilog="--config.FIELD=VALUE sets a field of all runs",
        allow_abbrev=False,
    )
    parser.add_argument("--sweep", required=True, help="file of the sweep, in launch/sweeps")
    parser.add_argument("--workdir", required=True, help="directory of the whole sweep")
    parser.add_argument("--backend", choices=list(BACKENDS), default="local")
    parser.add_argument("--sweep.scale", dest="scale", choices=plan.SCALES, default="small")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--dry_run", action="store_true", help="show the plan only")
    args, extra = parser.parse_known_args(argv)
    if args.parallel < 1:
        parser.error(f"--parallel={args.parallel}: expected 1 or more")
    sweep = plan.load(args.sweep, args.scale, extra)
    directory = host.output_directory(args.workdir, "--workdir")
    state = State(directory)
    state.check(sweep)
    print(show_plan(sweep, state, args.parallel))
    if args.dry_run:
        return 0
    with _alone(directory):
        state.remember(sweep)
        failed = execute(sweep, BACKENDS[args.backend](args.parallel), state, args.parallel)
    if failed is None:
        print("sweep: stopped; the same command goes on")
        return 0
    written = report.write(sweep, directory)
    if written:
        print((directory / "table.md").read_text(encoding="utf-8"))
        print("\n".join(map(str, written)))
    for name, log in failed.items():
        print(f"\n{name} FAILED\n{log}", file=sys.stderr)
    results.check_metric(sweep, results.gather(sweep, state.runs_dir))
    return int(bool(failed))


class State:
    """What a sweep remembers of itself: WORKDIR/sweep.json."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.runs_dir = directory / "runs"
        self._path = directory / "sweep.json"
        known = self._read() if self._path.exists() else {}
        self._fields: dict[str, dict[str, str]] = known.get("fields", {})
        self.seconds: dict[str, float] = known.get("seconds", {})

    def workdir(self, run: Run) -> Path:
        """Return the workdir of a run."""
        return self.runs_dir / run.name

    def finished(self, run: Run) -> bool:
        """Tell whether a run has come to its end."""
        return processes.finished(self.workdir(run))

    def check(self, sweep: Sweep) -> None:
        """Refuse runs that were begun with other fields.

        Raises:
          ValueError: names the first of them and what differs.
        """
        for run in sweep.runs:
            before, now = self._fields.get(run.name), _fields_of(run)
            if before and before != now and self.workdir(run).exists():
                differing = sorted(
                    f"{k}: {before.get(k, 'absent')} there, {now.get(k, 'absent')} now"
                    for k in before.keys() | now.keys()
                    if before.get(k) != now.get(k)
                )
                raise ValueError(
                    f"{self.workdir(run)} was begun with other fields ({'; '.join(differing)}); "
                    "use another --workdir, or remove it"
                )

    def remember(self, sweep: Sweep) -> None:
        """Keep the fields of all runs."""
        self._fields |= {run.name: _fields_of(run) for run in sweep.runs}
        self._save()

    def took(self, run: Run, seconds: float) -> None:
        """Keep how long a run took, over all times that it was started."""
        self.seconds[run.name] = self.seconds.get(run.name, 0.0) + seconds
        self._save()

    def _read(self) -> dict[str, dict]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            if all(isinstance(known[field], dict) for field in ("fields", "seconds")):
                return known
            raise ValueError("not as a sweep writes it")
        except (ValueError, KeyError, TypeError) as error:
            # It holds what the runs were begun with; the runs themselves are whole.
            atomic.set_aside(self._path, error)
            return {}

    def _save(self) -> None:
        content = {"fields": self._fields, "seconds": self.seconds}
        atomic.write(self._path, json.dumps(content, indent=2) + "\n")


def _fields_of(run: Run) -> dict[str, str]:
    return {"config": run.config, **{k: str(v) for k, v in run.overrides(Path()).items()}}


def show_plan(sweep: Sweep, state: State, parallel: int) -> str:
    """Write down the runs, what each has of its own, and how long they will take."""
    width = max(len(run.name) for run in sweep.runs)
    lines = [f"sweep {sweep.name}: {len(sweep.runs)} runs in {state.directory}"]
    for run in sweep.runs:
        stage = "finished" if state.finished(run) else "to do   "
        after = f"  after {run.after}" if run.after else ""
        lines.append(f"  {run.name:{width}}  {stage}  {run.describe()}{after}".rstrip())
    todo = [run for run in sweep.runs if not state.finished(run)]
    left = time_left(sweep, state, parallel)
    when = f"about {clock(left)}" if left is not None else "the time is known when one has finished"
    lines.append(f"{len(todo)} to do, {parallel} at a time: {when}" if todo else "nothing to do")
    return "\n".join(lines)


def time_left(sweep: Sweep, state: State, parallel: int) -> float | None:
    """Estimate the seconds that the unfinished runs need, None before one has finished."""
    done = [run for run in sweep.runs if state.finished(run) and run.name in state.seconds]
    like = [run for run in done if run.compared] or done  # a run to start from is of another kind
    if not like:
        return None
    mean = sum(state.seconds[run.name] for run in like) / len(like)
    todo = [run for run in sweep.runs if not state.finished(run)]
    left = [mean - min(mean, state.seconds.get(run.name, 0.0)) for run in todo]
    return max(sum(left) / parallel, max(left, default=0.0))


def execute(sweep: Sweep, backend: Backend, state: State, parallel: int) -> dict[str, str] | None:
    """Train what is not finished.

    Returns:
      failed run -> the end of its log; None if it was told to stop.
    """
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.append(number))
    waiting = [run for run in sweep.runs if not state.finished(run)]
    running: dict[str, tuple[Run, Job, float]] = {}
    attempts: collections.Counter[str] = collections.Counter()
    failed: dict[str, str] = {}

    def again(run: Run, why: str) -> None:
        if attempts[run.name] < ATTEMPTS:
            say(f"{run.name}: {why}; starting it once more")
            waiting.insert(0, run)
        else:
            failed[run.name] = f"{why}\n{processes.tail(state.workdir(run))}"
            say(f"{run.name} failed {ATTEMPTS} times")

    shown = drawn = 0.0
    while (waiting or running) and not told:
        for run, job, start in list(running.values()):
            if job.running():
                continue
            del running[run.name]
            state.took(run, time.time() - start)
            if state.finished(run):
                say(f"{run.name} finished in {clock(state.seconds[run.name])}")
                plots = time.time() - drawn > REDRAW_S
                refresh(sweep, state, plots)
                drawn = time.time() if plots else drawn
            else:
                again(run, "stopped before its end")
        for run in list(waiting):
            if run.after in failed:
                failed[run.name] = f"it starts from {run.after}, which failed"
                waiting.remove(run)
            elif len(running) < parallel and ready(run, state):
                waiting.remove(run)
                attempts[run.name] += 1
                try:
                    job = backend.start(
                        unique_name(sweep, run, state),
                        run.arguments(state.runs_dir),
                        state.workdir(run),
                    )
                except RuntimeError as error:
                    again(run, str(error))
                    continue
                running[run.name] = (run, job, time.time())
        if time.time() - shown > (POLL_S if sys.stdout.isatty() else SHOW_S):
            shown = time.time()
            progress(sweep, state, list(running.values()), parallel)
        time.sleep(POLL_S)
    stopping = [job for _, job, _ in running.values() if job.stop()]  # all are told at once
    while any(job.running() for job in stopping):
        time.sleep(POLL_S)
    for run, _, start in running.values():
        state.took(run, time.time() - start)
    return None if told else failed


def refresh(sweep: Sweep, state: State, plots: bool) -> None:
    """Write the results so far; a run whose numbers cannot be read must not stop the others."""
    try:
        report.write(sweep, state.directory, plots)
    except (ValueError, TypeError, OSError, pa.ArrowException) as error:
        say(f"the results could not be written: {error}")


def unique_name(sweep: Sweep, run: Run, state: State) -> str:
    """Name a run so that no other sweep, nor this one in another workdir, has the same name."""
    digest = hashlib.sha256(str(state.workdir(run)).encode()).hexdigest()[:8]
    return f"{sweep.name}-{run.name}-{digest}"


def ready(run: Run, state: State) -> bool:
    """Tell whether a run can start: what it starts from has finished, its workdir is free."""
    if run.after and not processes.finished(state.runs_dir / run.after):
        return False
    lock = state.workdir(run) / ".lock"
    if not lock.exists():
        return True
    # Held by the trainer of a sweep that was killed, still saving.
    with lock.open("r+", encoding="utf-8") as file:
        try:
            host.lock(file, lock)
        except BlockingIOError:
            return False
    return True


def progress(
    sweep: Sweep, state: State, running: list[tuple[Run, Job, float]], parallel: int
) -> None:
    """Print how far all runs are: one line, on a terminal always the same."""
    done = sum(state.finished(run) for run in sweep.runs)
    parts = [f"{done}/{len(sweep.runs)} finished"]
    for run, _, _ in running:
        lines = results.metrics(state.workdir(run))
        parts.append(f"{run.name} step {max((line['step'] for line in lines), default=0)}")
    left = time_left(sweep, state, parallel)
    if left is not None:
        now = time.time()
        left -= sum(now - start for _, _, start in running) / parallel
        parts.append(f"ETA {clock(max(0.0, left))}")
    say("  ".join(parts), passing=True)


def say(line: str, passing: bool = False) -> None:
    """Print a line; one that is `passing` is written over by the next on a terminal."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)


def clock(seconds: float) -> str:
    """Write seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w", encoding="utf-8") as file:
        try:
            host.lock(file, directory)
        except BlockingIOError:
            raise ValueError(f"another sweep is running in {directory}") from None
        yield


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, FileNotFoundError, RuntimeError) as wrong_input:
        sys.exit(f"sweep: {wrong_input}")
