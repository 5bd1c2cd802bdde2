"""All that this project wants to know of a GPU, in one unattended command.

    python -m benchmarks.gpu --minutes=25 --out=DIR
    python -m benchmarks.gpu --minutes=9 --out=DIR --stages=demo,numerics,step
    python -m benchmarks.gpu --toy --out=DIR

Stages run in the order of their worth (`plan.py`), each in a process of its own with a limit of its
own, so that one that fails costs only itself. Each measurement is a line of DIR/rows.jsonl as soon
as it is made, and DIR/table.md is written anew after every stage: whatever cuts the program off
costs the measurement under way. The same command with the same --out goes on with what is missing,
what has failed last. A stage that runs over its limit gets another turn if time is left; where few
stages are left, they share what is left.

DIR stays small: rows.jsonl, table.md, log.txt (what the stages print) and one trace. Compiled
programs are kept in JAX_COMPILATION_CACHE_DIR, by default rsclip_jax_gpu_cache in the folder for
temporary files.

JAX takes 92 % of the card's memory when it starts (XLA_PYTHON_CLIENT_MEM_FRACTION), so no two of
its processes share the card, nor JAX and PyTorch. Only in the stage "torch" do both hold it, since
their steps alternate: JAX then has 35 %. Without a GPU nothing starts, and it says so; with --toy
all of it runs on the CPU at sizes that measure nothing.

Where packages are missing and there is no network, `benchmarks/gpu_wheels.sh` has collected them.
"""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.gpu import machine, rows, table
from benchmarks.gpu.plan import STAGES, Planned

_MINUTES = flags.DEFINE_float("minutes", 25, "Time in all.", 0.1)
_OUT = flags.DEFINE_string("out", None, "Folder of the results.", required=True)
_STAGES = flags.DEFINE_list("stages", [], "Stages to run; none named: all.")
_TOY = flags.DEFINE_boolean("toy", False, "Toy sizes, on the CPU.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Interpreter that has torch and open_clip."
)

ROOT = Path(__file__).parents[2]
LOG = "log.txt"
RESERVE = 5  # seconds for the last table
LEAST = 10  # seconds that are worth starting a stage for
DONE, FAILED, OVER, CUT = "done", "failed", "over its limit", "cut off"


def main(argv: Sequence[str]) -> None:
    """Run the stages that are missing, and say which still are."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the stage's process ends too
    try:
        failed = run(Path(_OUT.value), chosen(_STAGES.value), 60 * _MINUTES.value, _TOY.value)
    except ValueError as error:
        sys.exit(f"benchmarks.gpu: {error}")
    sys.exit(1 if failed else 0)


def chosen(names: Sequence[str]) -> list[Planned]:
    """Return the stages of these names in the order of the plan; all for none.

    Raises:
      ValueError: an unknown name.
    """
    known = [stage.name for stage in STAGES]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"--stages names {', '.join(unknown)}: expected some of {','.join(known)}")
    return [stage for stage in STAGES if not names or stage.name in names]


def run(out: Path, plan: Sequence[Planned], seconds: float, toy: bool) -> bool:
    """Run what is missing of a plan and write the table; tell whether a stage has failed.

    Raises:
      ValueError: a folder whose rows are of the other size; no GPU, and not a toy.
    """
    end = time.monotonic() + seconds - RESERVE
    out.mkdir(parents=True, exist_ok=True)
    found = rows.read(out)
    if any("machine" in row and row["toy"] != toy for row in found):
        raise ValueError(
            f"{out} has rows {'without' if toy else 'of'} --toy: take another --out for this call"
        )
    if not toy:
        machine.check_gpu(environment(toy))
    rows.append(out, {"machine": machine.describe(), "toy": toy})
    queue = collections.deque(missing(plan, found))
    while queue and (left := end - time.monotonic()) >= LEAST:
        stage = queue.popleft()
        limit = min(left, max(60 * stage.minutes, left / (1 + len(queue))))
        before = len(rows.latest(rows.read(out)))
        status = run_stage(stage, out, limit, toy)
        table.write(out)
        if status == OVER and len(rows.latest(rows.read(out))) > before:
            queue.append(stage)
    table.write(out)
    still = missing(plan, rows.read(out))
    print(f"{out / table.FILE} has the table, {out / rows.FILE} its rows, {out / LOG} the output")
    if still:
        names = ",".join(stage.name for stage in still)
        print(f"missing: {names}; the same command goes on with them")
    ended = ends(rows.read(out))
    return any(ended.get(stage.name) == FAILED for stage in plan)


def ends(found: Sequence[rows.Row]) -> dict[str, str]:
    """Return how each stage has ended the last time."""
    return {row["stage"]: row["status"] for row in found if "status" in row}


def missing(plan: Sequence[Planned], found: Sequence[rows.Row]) -> list[Planned]:
    """Return the stages that are not done, those that have failed last."""
    ended = ends(found)
    left = [stage for stage in plan if ended.get(stage.name) != DONE]
    return sorted(left, key=lambda stage: ended.get(stage.name) == FAILED)


def run_stage(stage: Planned, out: Path, limit: float, toy: bool) -> str:
    """Run a stage in a process of its own for `limit` seconds; write and return how it ended."""
    print(f"{stage.name}: {stage.title}; up to {limit:.0f} s", flush=True)
    start, card, status, code = time.monotonic(), machine.state(), CUT, None
    log = out / LOG
    with tempfile.TemporaryDirectory(prefix="rsclip_jax_gpu_") as scratch, log.open("ab") as file:
        begin = file.tell()
        settings = {
            "name": stage.name,
            "module": stage.module,
            "out": str(out.absolute()),
            "scratch": scratch,
            "toy": toy,
            "seconds": limit,
            "torch_python": _TORCH_PYTHON.value,
        }
        # A group of processes, not a session: what ends this program's session ends them as well.
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.child", json.dumps(settings)],
            cwd=ROOT,
            env=environment(toy),
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            code = process.wait(timeout=limit)
            status = FAILED if code else DONE
        except subprocess.TimeoutExpired:
            status = OVER
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            row = {"stage": stage.name, "status": status, "card": card}
            row["seconds"] = round(time.monotonic() - start, 1)
            if status == FAILED:
                row["error"] = f"status {code}: {last_lines(log, begin)}"
            rows.append(out, row)
    print(f"{stage.name}: {status} after {row['seconds']} s", flush=True)
    return status


def environment(toy: bool) -> dict[str, str]:
    """Return the variables of a stage's process."""
    cache = str(Path(tempfile.gettempdir()) / "rsclip_jax_gpu_cache")
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    }
    if toy:  # one device, and programs that compile fast
        quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        return {**defaults, **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick}
    # JAX then fails where CUDA does not start, instead of taking the CPU.
    return {**defaults, **os.environ, "JAX_PLATFORMS": "cuda,cpu"}


def last_lines(log: Path, begin: int, count: int = 3) -> str:
    """Return the last lines that a stage has printed, in one."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").split("\n")
    return " / ".join([line.strip() for line in lines if line.strip()][-count:])[-500:]


if __name__ == "__main__":
    app.run(main)
