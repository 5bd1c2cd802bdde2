"""The input pipeline on this machine's cores, and B/32 trained from JPEG files end to end."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from absl import flags

from benchmarks import input_pipeline
from benchmarks.gpu.rows import Row, Stage
from benchmarks.gpu.step import TOY_SIZES
from rsclip_jax.data.records import write_dataset
from rsclip_jax.host import available_cores

NAME = "procedural"


def run(stage: Stage) -> None:
    """Write a data set of JPEG files and read it in every way."""
    arguments = ["--batches=2", "--rounds=1", "--batch_size=8", "--image_size=32"]
    flags.FLAGS(["input", *(arguments if stage.toy else ["--batches=16", "--rounds=5"])])
    records = input_pipeline.procedural_records(*((64, 8) if stage.toy else ()))
    write_dataset(str(stage.scratch), NAME, {"train": records})
    stage.measure("pipeline", "config.input.workers=0", lambda: pipeline(stage.scratch))
    for workers in (0,) if stage.toy else (0, 2):
        setting = f"bfloat16, config.input.workers={workers}"
        stage.measure("B/32+77 from JPEG", setting, lambda n=workers: end_to_end(stage, n))


def pipeline(data: Path) -> Row:
    """Return images/s of the pipeline and of the bare limits beside it."""
    wall, _, count = input_pipeline.measure(str(data), NAME, str(data))
    row: Row = {"cores": available_cores()}
    for kind, seconds in wall.items():
        row[f"{kind} images/s"] = count / statistics.median(seconds)
    pairs = zip(wall["area"], wall["full"], strict=True)
    return {**row, "full / area": statistics.median(limit / full for limit, full in pairs)}


def end_to_end(stage: Stage, workers: int) -> Row:
    """Train by the command, and return the speed of its last stretch."""
    workdir = stage.scratch / f"workers{workers}"
    steps, every = (6, 3) if stage.toy else (60, 20)
    batch_size = 8 if stage.toy else 1024
    fields = {
        "input.data_dir": stage.scratch, "input.data": f"{{'{NAME}': 1.0}}",
        "input.batch_size": batch_size, "input.workers": workers, "input.flip": True,
        "input.crop": "(0.5, 1.0)", "model.variant": "custom" if stage.toy else "B/32",
        "model.sizes": TOY_SIZES if stage.toy else (),
        "model.dtype": "float32" if stage.toy else "bfloat16", "model.scan": True,
        "model.remat": "none" if stage.toy else "dots", "total_steps": steps, "log_steps": every,
        "warmup_steps": 2, "checkpoint.steps": 0,
    }  # fmt: skip
    command = [sys.executable, "-m", "rsclip_jax.main", "--config=configs/defaults.py"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in fields.items())]
    subprocess.run(command, check=True)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    return {
        "batch": batch_size,
        "samples/s": last["samples_per_s"],
        "% of the peak": 100 * last["mfu"],
        "% of a step waited for input": 100 * last["input_wait"],
    }
