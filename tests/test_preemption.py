"""Ctrl-C and SIGTERM: answered at once, whatever the main thread does."""

import os
import queue
import signal
import threading

import pytest

from rsclip_jax import errors
from rsclip_jax.training import preemption
from rsclip_jax.training.preemption import StopSignal


@pytest.fixture(autouse=True)
def python_handler():
    """Python's own: a suite started in the background ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_answered_and_stops_after_the_step(number, monkeypatch):
    answers = queue.Queue()
    monkeypatch.setattr("builtins.print", lambda text, **_: answers.put(text))
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with StopSignal() as stop:
        assert not stop.reached()
        interrupt(number)
        assert stop.reached()
        assert preemption.STOPPING[number] in answers.get(timeout=60)
    assert {n: signal.getsignal(n) for n in before} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_ctrl_c_ends_a_command_from_a_thread(monkeypatch, capfd):
    left = queue.Queue()  # the main thread may be held up by XLA
    record = lambda status: left.put((status, threading.current_thread()))  # noqa: E731
    monkeypatch.setattr(os, "_exit", record)
    previous = signal.signal(signal.SIGINT, errors.Leave("main", "goes on"))
    try:
        with StopSignal() as stop:
            interrupt()
            assert stop.reached() and left.empty()
            interrupt()
            assert left.get(timeout=60) == (130, stop._thread)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert "main: interrupted; the same command goes on" in capfd.readouterr().err


def test_a_second_ctrl_c_in_a_notebook_raises_what_it_always_does():
    with StopSignal() as stop:
        interrupt()
        assert stop.reached()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
