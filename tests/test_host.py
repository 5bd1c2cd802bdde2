"""What differs between operating systems and file systems."""

import ast
import errno
import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rsclip_jax
from rsclip_jax import convert, evaluate, export, host
from rsclip_jax.data.records import write_dataset
from rsclip_jax.training.workdir import lock_workdir

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF])
def test_a_file_system_without_locks_is_said_and_no_obstacle(monkeypatch, tmp_path, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="does not support locks"), lock_workdir(tmp_path / "run"):
        pass
    record = {"id": "a", "image": b"x", "captions": ["a"]}
    with pytest.warns(UserWarning, match="no second process"):
        write_dataset(tmp_path / "data", "d", {"train": [record]})


def test_another_failure_of_a_lock_is_an_error(monkeypatch, tmp_path):
    def flock(file, operation):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), lock_workdir(tmp_path):
        pass


def test_a_lock_keeps_a_second_one_out(tmp_path):
    with lock_workdir(tmp_path), (tmp_path / ".lock").open("rb") as file:
        with pytest.raises(BlockingIOError):
            host.lock(file, tmp_path)


def test_cores_are_counted_without_sched_getaffinity(monkeypatch):
    assert host.available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert host.available_cores() == os.cpu_count()


def test_local_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert host.local_path("~/runs", "--workdir") == Path("/somewhere/runs")
    assert host.local_path("runs", "--workdir") == Path.cwd() / "runs"
    assert host.local_path("a:b", "--workdir") == Path.cwd() / "a:b"
    for bucket in ("gs://bucket/run", "s3://bucket/run", "gs:/bucket/run"):
        with pytest.raises(ValueError, match=f"--workdir={bucket}: expected a local path"):
            host.local_path(bucket, "--workdir")


@pytest.mark.parametrize(
    ("given", "message"),
    [("", "--x is empty"), ("runs/a\n", r"--x='runs/a\\n': expected"), ("a\0b", r"='a\\x00b'")],
)
def test_what_a_shell_makes_of_a_path_is_told(given, message):
    for check in (host.local_path, host.output_directory):
        with pytest.raises(ValueError, match=message):
            check(given, "--x")


def test_an_output_is_a_directory_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert host.output_directory(tmp_path / "a" / "b", "--x") == tmp_path / "a" / "b"
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(ValueError, match=r"^--x=.*/file is a file; give a directory"):
            host.output_directory(path, "--x")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match=f"^--x={tmp_path}/a/b: {tmp_path} cannot be written to"):
        host.output_directory(tmp_path / "a" / "b", "--x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_every_command_refuses_a_bucket_in_one_line(tmp_path):
    bucket, message = "gs://bucket/a", "=gs://bucket/a: expected a local path"
    here = str(tmp_path)
    calls = [
        (evaluate.main, {"--model": here, "--data": here, "--output": here}),
        (export.main, {"--model": here, "--data_dir": here, "--output": here, "--dataset": "d"}),
        (convert.main, {"--input": here, "--output": here}),
    ]
    for command, given in calls:
        for flag in given.keys() - {"--dataset"}:
            arguments = [f"{name}={value}" for name, value in {**given, flag: bucket}.items()]
            with pytest.raises(ValueError, match=f"{flag}{message}"):
                command(arguments)
    with pytest.raises(ValueError, match=f"path{message}"):
        rsclip_jax.load(bucket)
    assert list(tmp_path.iterdir()) == []


def test_characters_that_the_output_lacks_are_escaped(monkeypatch):
    written = io.BytesIO()
    output = io.TextIOWrapper(written, "ascii")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        host.printable_output()
        print("Stra\u00dfe, a name that is no UTF-8: \udcff", flush=True)
    assert written.getvalue() == b"Stra\\xdfe, a name that is no UTF-8: \\udcff\n"
    host.printable_output()  # of pytest's own streams, whatever they are


@pytest.mark.parametrize("flag", ["--workdir", "--config.input.data_dir"])
def test_buckets_are_refused_before_anything_is_made(tmp_path, flag):
    flags = {"--workdir": str(tmp_path / "run"), flag: "gs://bucket/run"}
    command = [sys.executable, "-m", "rsclip_jax.main", f"--config={ROOT}/configs/lrsclip.py:demo"]
    command += [f"{name}={value}" for name, value in flags.items()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ended.returncode
    assert f"{flag.lstrip('-')}=gs://bucket/run: expected a local path" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    wrong = []
    for path in [*ROOT.glob("rsclip_jax/**/*.py"), *ROOT.glob("launch/*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _without_encoding(call):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert wrong == []


def _without_encoding(call: ast.Call) -> bool:
    """Whether a call opens text and leaves the encoding to the locale."""
    owner = ast.unparse(call.func).rpartition(".")[0]
    name = ast.unparse(call.func).rpartition(".")[2]
    if "encoding" in ast.unparse(call):
        return False
    if name in ("read_text", "write_text"):
        return owner != "files"  # rsclip_jax.build.files: UTF-8 always
    if name != "open" or owner in ("os", "Image", "tarfile", "files"):
        return False
    modes = [x.value for x in ast.walk(call) if isinstance(x, ast.Constant)]
    modes = [x for x in modes if isinstance(x, str) and set(x) <= set("rwxab+t")]
    return bool(modes) and not any("b" in mode for mode in modes)
