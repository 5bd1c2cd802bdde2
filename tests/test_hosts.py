"""Several processes: what they train, how they end, and evaluation and export shared by them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_run import flat, losses

from rsclip_jax import distributed, evaluate, export
from rsclip_jax.training.checkpoint import load_for_inference

ROOT = Path(__file__).parents[1]
STEPS = 12
MAIN = ["-m", "rsclip_jax.main"]
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",
}


def python(*arguments, log=subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two(arguments: list[str], logs: Path) -> list[subprocess.Popen]:
    """Start two processes that are told of each other by flags."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    flags = [f"--coordinator_address={address}", "--num_processes=2"]
    started = []
    for i in range(2):
        with (logs / f"{i}.log").open("w") as log:
            started.append(python(*arguments, *flags, f"--process_id={i}", log=log))
    return started


@pytest.fixture(scope="module")
def command(scenes) -> list[str]:
    """Return the config of a small run, with checkpoints of every third step."""
    fields = {
        "total_steps": STEPS, "warmup_steps": 2, "log_steps": 1, "eval_steps": 0, "scenes.train": 0,
        "model.image_size": 32, "model.scan": True, "input.batch_size": 16,
        "input.lengths.text": 16, "input.lengths.text_long": 32, "checkpoint.steps": 3,
        "checkpoint.keep": STEPS, "input.data_dir": scenes,
        "tokenizer": f"sentencepiece:{scenes}/words.model",
    }  # fmt: skip
    return [
        "--config=configs/lrsclip.py:demo",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


ALONE = ("--config.evals={}", "--config.export={}")  # nothing but training


def launch(command: list[str], workdir: Path, number: int) -> None:
    """Run, or continue, with so many processes."""
    launcher = ["-m", "launch.local", *command, f"--workdir={workdir}", f"--processes={number}"]
    found = python(*launcher, log=subprocess.PIPE)
    out, _ = found.communicate(timeout=400)
    assert found.returncode == 0, out
    assert json.loads((workdir / "finished.json").read_text())["step"] == STEPS


@pytest.fixture(scope="module")
def one(command, tmp_path_factory) -> Path:
    """Return the workdir of an undisturbed run in one process."""
    workdir = tmp_path_factory.mktemp("hosts") / "one"
    launch([*command, *ALONE], workdir, 1)
    return workdir


def steps_done(workdir: Path) -> int:
    try:
        return max(losses(workdir), default=0)
    except (FileNotFoundError, ValueError):  # not there yet, or its last line is being written
        return 0


def assert_same_run(workdir: Path, other: Path) -> None:
    found, expected = losses(workdir), losses(other)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), rtol=1e-5)
    params = [flat(load_for_inference(path)[1]) for path in (workdir, other)]
    # The bias of a key has no gradient but noise, which Adam makes steps of: hence the atol.
    np.testing.assert_allclose(*params, rtol=1e-5, atol=5e-6)


def vectors(directory: Path) -> dict:
    rows = [row for path in sorted(directory.glob("*.parquet")) for row in _rows(path)]
    return {(row["id"], row["modality"], row["caption"]): row["vector"] for row in rows}


def _rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_a_killed_process_stops_the_other_and_one_process_goes_on(one, command, tmp_path):
    workdir = tmp_path / "run"
    processes = two([*MAIN, *command, *ALONE, f"--workdir={workdir}"], tmp_path)
    deadline = time.monotonic() + 200
    while steps_done(workdir) < 7 and time.monotonic() < deadline:  # then that of step 3 is whole
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGKILL)  # the one to which the other is connected
    assert processes[1].wait(timeout=200) not in (0, None)  # within a minute if nothing else runs
    last = ""
    while "lost another one of its run" not in last and time.monotonic() < deadline + 200:
        last = (tmp_path / "1.log").read_text().splitlines()[-1]  # its witness survives it a little
        time.sleep(0.01)
    assert "lost another one of its run" in last and "goes on from the newest checkpoint" in last
    assert not (workdir / "finished.json").exists()
    launch([*command, *ALONE], workdir, 1)
    assert "resuming" in (workdir / "logs/process-0.log").read_text()
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert_same_run(workdir, one)


def test_two_processes_go_on_with_the_run_of_one(one, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(one, workdir)
    for path in (workdir / "checkpoints").iterdir():
        if int(path.name) > 3:
            shutil.rmtree(path)
    launch(command, workdir, 2)
    assert_same_run(workdir, one)
    # What the run does at its end, they did together.
    card = json.loads((workdir / "embeddings/scenes/card.json").read_text())
    assert card["complete"] and card["rows"]["val"]["image"] == 24
    assert (workdir / "eval/val.png").exists()


# Asks before each of many batches that all processes share, as an evaluation does.
ASKING = """
import argparse
import sys
from jax.experimental import multihost_utils
from rsclip_jax import distributed
from rsclip_jax.training.preemption import Stopped, StopSignal
parser = argparse.ArgumentParser()
distributed.add_flags(parser)
distributed.join(**vars(parser.parse_args(sys.argv[1:])))
batches = 0
try:
    with StopSignal() as stop:
        while True:
            stop.check()
            multihost_utils.process_allgather(batches)
            batches += 1
            if batches == 3:
                print("at work", flush=True)
except Stopped:
    print("stopped before batch", batches, stop.reached())
"""


def test_processes_stop_before_the_same_batch_whichever_was_told(tmp_path):
    processes = two(["-c", ASKING], tmp_path)
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    while any("at work" not in log.read_text() for log in logs):
        assert all(process.poll() is None for process in processes), logs[0].read_text()
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    said = [log.read_text().splitlines()[-1] for log in logs]
    assert said[0] == said[1] and said[0].startswith("stopped before batch")
    assert said[0].endswith("True")


# Evaluates and exports, and says how many images it decoded for that.
COUNTING = """
import sys
from rsclip_jax import evaluate, export
from rsclip_jax.data import images
decoded, decode = [], images.eval_preprocess
images.eval_preprocess = lambda *a: decoded.append(1) or decode(*a)
place = sys.argv.index("--")
evaluate.main(sys.argv[1:place] + sys.argv[-3:])
print("evaluation decoded", len(decoded))
export.main(sys.argv[place + 1 : -3])
print("both decoded", len(decoded))
"""


def test_two_processes_evaluate_and_export_what_one_does(one, scenes, tmp_path, capsys):
    evaluated = [f"--model={one}"]
    for name, kind in {"val": "retrieval", "types": "zero_shot"}.items():
        fields = {"type": kind, "data": "scenes", "split": "val"}
        evaluated += [f"--config.evals.{name}.{k}={v}" for k, v in fields.items()]
    exported = [f"--model={one}", "--dataset=scenes", "--split=val", "--shard_size=8"]
    outputs = [f"--output={tmp_path}/two/eval", "--", f"--output={tmp_path}/two/export"]
    evaluation, export_ = [*evaluated, outputs[0]], [*exported, outputs[2]]
    processes = two(["-c", COUNTING, *evaluation, "--", *export_], tmp_path)
    metrics = evaluate.main([*evaluated, f"--output={tmp_path}/one/eval"])
    export.main([*exported, f"--output={tmp_path}/one/export"])
    logs = []
    for i, process in enumerate(processes):
        status = process.wait(timeout=200)
        logs.append((tmp_path / f"{i}.log").read_text())
        assert status == 0, logs[-1]
    results = json.loads((tmp_path / "two/eval/results.json").read_text())
    assert results["complete"] and results["metrics"] == metrics
    assert {"val/i2t_R@1", "types/top1"} < metrics.keys()
    found, expected = (vectors(tmp_path / k / "export") for k in ("two", "one"))
    assert found.keys() == expected.keys() and len(found) > 24
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-5)
    cards = [json.loads((tmp_path / k / "export/card.json").read_text()) for k in ("two", "one")]
    assert cards[0]["complete"] and cards[0]["rows"] == cards[1]["rows"]
    # Two evaluators' 24 images each, and three shards of eight, in two parts.
    counts = [[int(x.split()[-1]) for x in log.splitlines() if " decoded " in x] for log in logs]
    assert [sum(column) for column in zip(*counts, strict=True)] == [48, 48 + 24]
    assert min(map(min, counts)) >= 16
    assert "i2t_R@1" in logs[0] and "i2t_R@1" not in logs[1]


# Open MPI


OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "PMIX_NAMESPACE": "prterun-node-1-7000@1",
    "PMIX_HOSTNAME": "node-1",
}


@pytest.fixture
def joined(monkeypatch):
    """Return what `jax.distributed.initialize` is called with."""
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **k: calls.append(k))
    for name in (*OPEN_MPI_5, "OMPI_MCA_orte_hnp_uri", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_open_mpi_tells_of_the_first_process_by_the_name_of_its_job(joined, monkeypatch):
    for name, value in {**OPEN_MPI_5, "OMPI_COMM_WORLD_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PMIX_HOSTNAME", "node-2.cluster")
    distributed.join()
    assert joined.pop() == {
        "coordinator_address": "node-1:64344",  # 61440 + 7000 % 4096
        "num_processes": 2,
        "process_id": 1,
        "local_device_ids": [0],
        "heartbeat_timeout_seconds": distributed.HEARTBEAT_S,
    }
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node-3:1")
    distributed.join()
    assert joined.pop()["coordinator_address"] == "node-3:1"
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1.0;tcp://10.0.0.1:1")  # version 4: JAX knows
    distributed.join()
    assert joined == [{"heartbeat_timeout_seconds": distributed.HEARTBEAT_S}]


@pytest.mark.parametrize("change", [{"PMIX_NAMESPACE": "8"}, {"PMIX_HOSTNAME": "node-2"}])
def test_open_mpi_that_does_not_tell_is_refused(change, joined, monkeypatch):
    for name, value in {**OPEN_MPI_5, **change}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        distributed.join()
    assert joined == []
