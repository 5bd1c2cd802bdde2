"""What commands do before they compute: memory, compiled programs on disk, one printed line."""

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from jax._src import compilation_cache

from rsclip_jax import cuda, main, startup

ROOT = Path(__file__).parents[1]
# Prints a number that a compiled program computes.
PROGRAM = """
from rsclip_jax import startup
with startup.started(compiles=True):
    import jax, jax.numpy as jnp
    print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(64.0))))
"""


def python(code: str, **environment: str) -> subprocess.Popen:
    inherited = {k: v for k, v in os.environ.items() if k != startup.CACHE_VARIABLE}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen, alone: bool = True) -> tuple[str, str]:
    """Return the line about the start, and the rest.

    Args:
      process: of `python`.
      alone: no other may be writing what it reads, which JAX would warn of.
    """
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert not alone or ("Warning" not in err and "Error" not in err), err
    told, rest = out.split("\n", 1)
    return told, rest


def test_importing_the_package_starts_nothing():
    code = """
import os, sys
before = dict(os.environ)
import rsclip_jax
assert "jax" not in sys.modules and dict(os.environ) == before
print("light\\n")
"""
    assert result(python(code))[0] == "light"


def test_programs_are_kept_for_all_processes_and_cut_off_ones_are_made_anew(tmp_path):
    together = [python(PROGRAM, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    (told, number), (_, other) = (result(process, alone=False) for process in together)
    assert other == number
    place = startup.default_place({"XDG_CACHE_HOME": str(tmp_path)})
    assert f"compiled programs: {place} ({startup.CACHE_VARIABLE}" in told
    entries = {path: path.read_bytes() for path in place.glob("*-cache")}
    assert len(entries) > 1 and all(map(startup._whole, entries))
    for i, (path, content) in enumerate(entries.items()):  # as a kill may leave them
        path.write_bytes(content[: (0, len(content) // 2, -1)[i % 3]])
    told, again = result(python(PROGRAM, XDG_CACHE_HOME=str(tmp_path)))
    assert again == number
    assert f"{len(entries)} cut off" in told
    assert sorted(place.glob("*-cache")) == sorted(entries)
    assert all(map(startup._whole, entries))


def test_an_empty_variable_keeps_no_programs(tmp_path):
    off = {startup.CACHE_VARIABLE: "", "XDG_CACHE_HOME": str(tmp_path)}
    told, _ = result(python(PROGRAM, **off))
    assert "not kept" in told and list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_and_does_without(tmp_path):
    (tmp_path / "rsclip_jax").write_text("a file where the folder should be")
    told, _ = result(python(PROGRAM, XDG_CACHE_HOME=str(tmp_path)))
    assert "not kept" in told and str(tmp_path / "rsclip_jax") in told


def test_each_kind_of_cpu_has_programs_of_its_own(tmp_path):
    def kind(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return startup.cpu_kind(tmp_path / "cpuinfo")

    core = "processor : 0\nmodel name : A\ncpu MHz : {}\nflags : fpu {}\n\nprocessor : 1\n"
    assert kind(core.format(2000, "avx2")) == kind(core.format(3000, "avx2"))
    assert kind(core.format(2000, "avx2")) != kind(core.format(2000, "avx512f"))
    assert startup.default_place({}).parents[2] == Path.home() / ".cache"


def test_tidying_removes_what_nobody_has_read_and_what_is_cut_off(tmp_path):
    content = compilation_cache.compress_executable(bytes(range(256)) * 99)
    day = 24 * 3600
    ages = {"new": 0, "read": 99 * day, "unread": 99 * day}
    for name, age in ages.items():
        path = tmp_path / f"{name}-cache"
        path.write_bytes(content)
        os.utime(path, (time.time() - (0 if name == "read" else age), time.time() - age))
    (tmp_path / "cut-cache").write_bytes(content[:-9])
    (tmp_path / "others.txt").write_text("not ours")
    assert startup.tidy(tmp_path, unread_days=60) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"new-cache", "read-cache", "others.txt", ".checked"}
    assert startup.tidy(tmp_path, unread_days=60) == 0


def test_the_trainer_takes_most_of_a_gpu_unless_the_user_has_decided():
    environ: dict[str, str] = {}
    assert startup.claim_memory(environ).startswith("92 % of their memory")
    assert environ == {"XLA_CLIENT_MEM_FRACTION": "0.92"}


@pytest.mark.parametrize("name", startup.MEMORY_VARIABLES)
def test_a_users_word_on_memory_wins_and_is_told(name):
    environ = {name: "0.5"}
    assert f"{name}=0.5" in startup.claim_memory(environ)
    assert environ == {name: "0.5"}


def test_training_without_the_right_devices_ends_in_one_line(monkeypatch, tmp_path):
    def failing(*args, **kwargs):
        raise cuda.DeviceError("no GPU")

    monkeypatch.setattr(startup, "started", failing)
    monkeypatch.setattr(main.flags, "FLAGS", types.SimpleNamespace(workdir=str(tmp_path)))
    with pytest.raises(SystemExit, match=r"^main: no GPU$"):
        main.main(["main"])
