"""Commands to be killed, what they need, and what they must have made in the end."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import simplejpeg

from rsclip_jax.data import records
from rsclip_jax.training.checkpoint import load_for_inference

IMAGES = 400  # of a table
STEPS = 40
Made = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
      command: its arguments, given the inputs' directory and its own.
      made: what it has made so far in its own directory; what is not whole is missing from it.
    """

    command: Callable[[Path, Path], list[str]]
    made: Callable[[Path], Made]


def write_inputs(directory: Path) -> None:
    """Write a table of images and two copies of it as sources of a build."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 16, 0), 16, 1)
        (directory / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, 90))
        split = "val" if number % 5 == 0 else "train"
        caption = f"an aerial view of field {number}"
        rows.append({"image": f"{number}.jpg", "captions": [caption], "split": split})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "table.jsonl").write_text(text, encoding="utf-8")


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _prepare(inputs: Path, own: Path) -> list[str]:
    table = f"--input={inputs}/table.jsonl"
    return _python("rsclip_jax.prepare", "--format=jsonl", table, f"--output={own}", "--name=a")


def _train(inputs: Path, own: Path) -> list[str]:
    fields = {
        **{"total_steps": STEPS, "warmup_steps": 5, "log_steps": 1, "eval_steps": 10},
        **{"model.image_size": 32, "model.scan": True, "model.remat": "none"},
        **{"grad_cache_steps": 1, "input.batch_size": 16, "checkpoint.steps": 4},
        **{"input.lengths.text": 16, "input.lengths.text_long": 32, "checkpoint.keep": 2},
        **{"input.data_dir": f"{inputs}/data", "scenes.train": 96, "scenes.val": 24},
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    config = "--config=configs/lrsclip.py:demo"
    return _python("rsclip_jax.main", config, f"--workdir={own}/run", *overrides)


def _evaluate(inputs: Path, own: Path) -> list[str]:
    fields = {"type": "retrieval", "data": "scenes", "split": "val"}
    overrides = [f"--config.evals.val.{name}={value}" for name, value in fields.items()]
    of = [f"--model={inputs}/model", f"--data={inputs}/data", f"--output={own}/report"]
    return _python("rsclip_jax.evaluate", *of, "--batch_size=4", *overrides)


def _export(inputs: Path, own: Path) -> list[str]:
    of = [f"--model={inputs}/model", f"--data_dir={inputs}/data", f"--output={own}/embeddings"]
    return _python("rsclip_jax.export", *of, "--dataset=scenes", "--batch_size=4", "--shard_size=8")


def _build(inputs: Path, own: Path) -> list[str]:
    sources = [
        f"--config.sources.{name}.{field}={value}"
        for name in ("cc3m", "sbu")
        for field, value in (("form", "jsonl"), ("path", f"{inputs}/table.jsonl"))
    ]
    config = "--config=configs/build/rs5m.py"
    return _python("rsclip_jax.build.rs5m", config, f"--workdir={own}/build", *sources)


def _records(directory: Path, name: str) -> Made:
    if not (directory / name / records.VERSION / "dataset_info.json").exists():
        return {}
    return {
        split: [_digest(record) for record in records.open_source(directory, name, split)]
        for split in ("train", "val")
    }


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(record.items())).encode()).hexdigest()


def _trained(own: Path) -> Made:
    run = own / "run"
    if not (run / "finished.json").exists():
        return {}
    _, params, step = load_for_inference(run)
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    timed = ("samples_per_s", "mfu", "input_wait")
    metrics = [{k: v for k, v in line.items() if k not in timed} for line in lines]
    return {"step": step, "params": _numbers(params), "metrics": metrics} | _embedded(run)


def _numbers(params: Any) -> str:
    import jax

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _embedded(directory: Path) -> Made:
    """Read the embeddings below a directory whose card says that they are whole."""
    found = {}
    for card in directory.rglob("card.json"):
        if not json.loads(card.read_text(encoding="utf-8"))["complete"]:
            continue
        tables = [pq.read_table(shard) for shard in sorted(card.parent.glob("*.parquet"))]
        found[str(card.relative_to(directory))] = [table.to_pydict() for table in tables]
    return found


def _evaluated(own: Path) -> Made:
    path = own / "report" / "results.json"
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {"metrics": content["metrics"]} if content["complete"] else {}


JOBS: dict[str, Job] = {
    "prepare": Job(_prepare, lambda own: _records(own, "a")),
    "train": Job(_train, _trained),
    "evaluate": Job(_evaluate, _evaluated),
    "export": Job(_export, _embedded),
    "build": Job(_build, lambda own: _records(own / "build" / "data", "rs5m")),
}
