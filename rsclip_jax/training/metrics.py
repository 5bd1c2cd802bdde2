"""metrics.jsonl and TensorBoard events of a run."""

import json
import math
import sys
import time
from pathlib import Path

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from rsclip_jax import atomic, distributed


class MetricWriter:
    """Write scalars by step to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    A run that resumes at `step` drops what an interrupted process had written after that step, so
    that the file reads as if nothing had happened.
    """

    def __init__(self, workdir: Path, step: int):
        self._path = workdir / "metrics.jsonl"
        lines = [line for line in read_metrics(workdir) if line["step"] <= step]
        atomic.write(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = self._path.open("a", encoding="utf-8")
        events = workdir / "tensorboard"
        with atomic.writing(events):
            events.mkdir(exist_ok=True)
            # SummaryWriter writes in a thread: where the disk is full, that dies, and a run waits
            # for it for ever.
            self._events = EventsWriter(str(events / "events"))
            start = SessionLog(status=SessionLog.START)  # hides what was of later steps
            self._events.write_event(Event(step=step + 1, session_log=start))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Append one line and the events of one step. Non-finite values become null in the line."""
        values = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        with atomic.writing(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                summary = scalar(name.replace("@", "_"), value)  # TensorBoard bars "@"
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._events.flush()

    def close(self) -> None:
        """Flush and close both files."""
        with atomic.writing(self._path):
            self._file.close()
            self._events.close()


def read_scores(workdir: Path) -> dict[int, dict[str, float | None]]:
    """Return what evaluators have found: step -> "EVALUATOR/METRIC" -> value, None if not finite.

    All processes must call this; they get what the first one reads.
    """
    lines = read_metrics(workdir) if jax.process_index() == 0 else []
    scored = [line for line in lines if any("/" in name for name in line)]
    scores: dict[int, dict[str, float | None]] = {}
    for line in distributed.gather(scored)[0]:
        scores.setdefault(line.pop("step"), {}).update(line)
    return scores


def read_metrics(workdir: Path) -> list[dict]:
    """Read metrics.jsonl; a last line cut short by a crash is left out.

    So are damaged lines (a disk that lost power leaves NULs): they are counted on stderr.
    """
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    lines, damaged = [], 0
    for text in whole.split(b"\n") if whole else []:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        else:
            damaged += 1
    if damaged:
        print(f"{path}: {damaged:,} damaged lines are left out", file=sys.stderr)
    return lines
