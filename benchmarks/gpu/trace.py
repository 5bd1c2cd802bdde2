"""Where the time of ten steps goes: a profiler's trace, and its kernels by their time."""

import collections
import gzip
from pathlib import Path

import jax

from benchmarks.bare_step import BareStep
from benchmarks.gpu.rows import Row, Stage
from benchmarks.gpu.step import USUAL, said, settings_of

WHAT = "B/16+248+77"
STEPS, SHOWN, LARGEST = 10, 25, 15 * 2**20
FILE = "trace.xplane.pb.gz"


def run(stage: Stage) -> None:
    """Trace the step, and write a row for each of the kernels that take the longest."""
    steps = 2 if stage.toy else STEPS
    kernels: dict[str, tuple[float, int]] = {}

    def traced() -> Row:
        step = BareStep({**settings_of(WHAT, stage.toy), "batch_size": 8 if stage.toy else 256})
        step.take(2)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # the host's calls would be most of the file
        with jax.profiler.trace(str(stage.scratch), profiler_options=options):
            for number in range(steps):
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    step.take()
        (path,) = stage.scratch.rglob("*.xplane.pb")
        kernels.update(times(path))
        return {"steps": steps, **kept(path, stage.out)}

    stage.measure(WHAT, said(USUAL), traced)
    total = sum(seconds for seconds, _ in kernels.values())
    most = sorted(kernels.items(), key=lambda item: -item[1][0])[:SHOWN]
    for place, (name, (seconds, count)) in enumerate(most, 1):
        row = {
            "ms a step": 1e3 * seconds / steps,
            "% of all": 100 * seconds / total,
            "times a step": count / steps,
        }
        stage.measure(f"{place}", name[:100], lambda row=row: row)


def times(path: Path) -> dict[str, tuple[float, int]]:
    """Return the seconds and the number of each kernel of a trace, over all streams of a GPU.

    Without a GPU: of each operation of XLA's threads.

    Raises:
      ValueError: a trace in which nothing ran on a device.
    """
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    lines = [
        line
        for plane in planes
        for line in plane.lines
        if (plane.name.startswith("/device:GPU") and line.name.startswith("Stream"))
        or (plane.name == "/host:CPU" and "XLA" in line.name and jax.default_backend() == "cpu")
    ]
    found: dict[str, tuple[float, int]] = collections.defaultdict(lambda: (0.0, 0))
    for line in lines:
        for event in line.events:
            seconds, count = found[event.name]
            found[event.name] = (seconds + event.duration_ns / 1e9, count + 1)
    if not found:
        seen = [f"{plane.name}: {[line.name for line in plane.lines][:5]}" for plane in planes]
        raise ValueError(f"{path.name} has no device's events, only {seen}")
    return dict(found)


def kept(path: Path, out: Path) -> Row:
    """Keep a compressed trace in the folder of the results, unless it is too large."""
    packed = gzip.compress(path.read_bytes())
    row: Row = {"MiB of the trace": len(packed) / 2**20}
    if len(packed) > LARGEST:
        return {**row, "trace": f"left out: over {LARGEST / 2**20:.0f} MiB"}
    (out / FILE).write_bytes(packed)
    return {**row, "trace": FILE}
