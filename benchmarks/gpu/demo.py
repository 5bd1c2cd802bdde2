"""The demo on the GPU: killed and resumed beside an unbroken run, evaluated, beside the CPU."""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.rows import Row, Stage

EXACT = "--xla_gpu_deterministic_ops=true"  # XLA's flag, where the run as shipped is not bit-exact
FIELDS = {"total_steps": 60, "log_steps": 1, "eval_steps": 0, "checkpoint.steps": 20}
FIELDS |= {"scenes.train": 1024}  # half as many: they are drawn by one core
TOY = {
    "total_steps": 9, "checkpoint.steps": 3, "warmup_steps": 2, "scenes.train": 64,
    "scenes.val": 16, "model.image_size": 32, "model.scan": True, "input.batch_size": 8,
    "input.lengths.text": 16, "input.lengths.text_long": 32,
}  # fmt: skip


def run(stage: Stage) -> None:
    """Measure what the demo shows."""
    demo = Demo(stage)
    shipped = stage.measure("resume", "as shipped", lambda: demo.resume(""))
    if shipped and not shipped["bit-exact"]:
        stage.measure("resume", EXACT, lambda: demo.resume(EXACT))
    stage.measure("evaluation and export", "as shipped", demo.results)
    stage.measure("losses beside the CPU's", "float32, as shipped", demo.beside_cpu)


class Demo:
    """Runs of the trainer's command on one data set."""

    def __init__(self, stage: Stage):
        self._scratch, self._toy = stage.scratch, stage.toy
        self._fields = {**FIELDS, **(TOY if stage.toy else {}), "input.data_dir": self._scratch}
        self.unbroken = functools.cache(self._unbroken)

    def resume(self, flags: str) -> Row:
        """Kill a run with SIGKILL, let it resume, and compare it with an unbroken one."""
        expected = losses(self.unbroken(flags))
        workdir = self._scratch / f"killed{flags}"
        total, every = self._fields["total_steps"], self._fields["checkpoint.steps"]
        kill = total // 2 + every // 3  # not where it saves
        with self._started(workdir, flags) as process:
            # A fast run may be at its evaluation before a checkpoint, written beside it, is whole.
            while max(losses(workdir), default=0) < kill or not saved(workdir):
                time.sleep(0.01)
                if process.poll() is not None:
                    raise RuntimeError(f"ended before step {kill}: {process.communicate()[0]}")
            process.kill()
            process.communicate()
        at = max(losses(workdir))
        start = time.monotonic()
        out = self._finished(workdir, flags)
        resumed = re.search(r"resuming .* at step (\d+)", out)
        if not resumed:
            raise RuntimeError(f"nothing was resumed: {out[-300:]}")
        found = losses(workdir)
        if found.keys() != expected.keys():
            raise RuntimeError(f"steps {sorted(found)} instead of {sorted(expected)}")
        return {
            "steps": total,
            "killed after step": at,
            "resumed at step": int(resumed[1]),
            "s of the resumed run": time.monotonic() - start,
            "greatest difference of the loss": max(abs(found[k] - expected[k]) for k in found),
            "bit-exact": found == expected,
        }

    def results(self) -> Row:
        """Return what an unbroken run has evaluated and exported."""
        workdir = self.unbroken("")
        json.loads((workdir / "finished.json").read_text())
        lines = metrics(workdir)  # each evaluator has its own
        last = [line for line in lines if line["step"] == lines[-1]["step"]]
        scores = {name: value for line in last for name, value in line.items() if "/" in name}
        shards = list((workdir / "embeddings").rglob("*.parquet"))
        if not scores or not shards:
            raise RuntimeError(f"metrics {sorted(scores)}, {len(shards)} files of embeddings")
        return {
            "loss at first": losses(workdir)[1],
            "loss at last": losses(workdir)[self._fields["total_steps"]],
            **{name: value for name, value in scores.items() if "mean_recall" in name},
            "files of embeddings": len(shards),
        }

    def beside_cpu(self) -> Row:
        """Train on the CPU as well, from the same seed, and compare the losses."""
        ours = losses(self.unbroken(""))
        if self._toy:
            theirs = ours  # which is the CPU's
        else:
            self._finished(self._scratch / "cpu", "", JAX_PLATFORMS="cpu")
            theirs = losses(self._scratch / "cpu")
        relative = {step: abs(ours[step] / theirs[step] - 1) for step in theirs}
        return {
            "steps": len(relative),
            "greatest relative difference, first 10 steps": max(list(relative.values())[:10]),
            "in all": max(relative.values()),
        }

    def _unbroken(self, flags: str) -> Path:
        workdir = self._scratch / f"unbroken{flags}"
        self._finished(workdir, flags)
        return workdir

    def _finished(self, workdir: Path, flags: str, **env: str) -> str:
        """Run the command to its end and return what it has printed."""
        with self._started(workdir, flags, **env) as process:
            out, _ = process.communicate()
        print(out, flush=True)
        if process.returncode:
            raise RuntimeError(f"status {process.returncode}: {out[-300:]}")
        return out

    @contextlib.contextmanager
    def _started(self, workdir: Path, flags: str, **env: str) -> Iterator[subprocess.Popen]:
        command = [sys.executable, "-m", "rsclip_jax.main", "--config=configs/lrsclip.py:demo"]
        command += [f"--workdir={workdir}"]
        command += [f"--config.{name}={value}" for name, value in self._fields.items()]
        env = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", **env}
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def saved(workdir: Path) -> list[int]:
    """Return the steps whose checkpoints are whole: Orbax gives them their names at the end."""
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


def metrics(workdir: Path) -> list[dict]:
    """Return the lines of metrics.jsonl that are whole."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(workdir: Path) -> dict[int, float]:
    """Return step -> loss."""
    return {x["step"]: x["training_loss"] for x in metrics(workdir) if "training_loss" in x}
