"""Errors that a user can mend are told in a line; faults of the program keep their traceback."""

import os
import pickle
import signal

import numpy as np
import pytest

from rsclip_jax import errors, host
from rsclip_jax.cuda import DeviceError
from rsclip_jax.data.records import BadRecordError
from rsclip_jax.training import loop


class OutOfMemory(RuntimeError):
    """As JAX's own."""


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def fail(error):
    raise error


def unpack(pair):
    a, b = pair
    return a, b


USERS = {
    "a check of ours": lambda: host.local_path("gs://bucket", "--workdir"),
    "a file": lambda: open("/none"),
    "an error of our own class": lambda: fail(DeviceError("no GPU")),
    "not finite": lambda: fail(FloatingPointError("3 steps in a row")),
    "a package": lambda: __import__("not_installed"),
}
FAULTS = {
    "NumPy's": lambda: np.zeros(3) + np.zeros(4),
    "Python's, in a line of ours": lambda: loop.due("a", 1),
    "of a call": lambda: host.local_path(),
    "a key": lambda: {}["absent"],
    "an assertion": lambda: fail(AssertionError("never")),
    "another package's check": lambda: np.random.default_rng(-1),
    "a call that went wrong in a check": lambda: unpack((1, 2, 3)),
}


@pytest.mark.parametrize("name", USERS)
def test_a_users_error_ends_a_command_in_its_words(name, monkeypatch):
    error = raised(USERS[name])
    with pytest.raises(SystemExit) as end, errors.one_line("main"):
        raise error
    assert end.value.code == f"main: {error}"
    monkeypatch.setenv(errors.TRACEBACK_VARIABLE, "1")
    with pytest.raises(type(error)), errors.one_line("main"):
        raise error
    assert "Traceback" in errors.report(error)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_keeps_its_traceback(name):
    error = raised(FAULTS[name])
    assert errors.told(error) == "" and "Traceback" in errors.report(error)
    with pytest.raises(type(error)), errors.one_line("main"):
        raise error


def test_notes_are_told_and_out_of_memory_says_what_to_lower():
    error = FloatingPointError("3 steps in a row")
    error.add_note("the gradients of img/proj are NaN")
    assert errors.told(error) == "3 steps in a row\nthe gradients of img/proj are NaN"
    full = OutOfMemory("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore")
    told = errors.told(full)
    assert "--config.input.batch_size" in told and "allocate 9 bytes" in told and "\n" not in told


def test_ctrl_c_ends_a_command_with_a_line_and_status_130(monkeypatch, capfd):
    monkeypatch.setattr(os, "_exit", lambda status: fail(SystemExit(status)))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end, errors.one_line("export", "continues"):
        os.kill(os.getpid(), signal.SIGINT)
    assert end.value.code == 130
    assert capfd.readouterr().err == "\nexport: interrupted; the same command continues\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_worker_process_says_of_a_record_is_told():
    error = pickle.loads(pickle.dumps(BadRecordError("record 7 is damaged")))
    error.add_note("For simplicity, Grain has removed its internal frames from the traceback")
    assert errors.told(error) == "record 7 is damaged"
