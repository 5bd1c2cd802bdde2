"""Noticing that the scheduler, or the user, wants the run to stop."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from rsclip_jax.errors import Leave

WHEN = "the run stops after this step (or its first one) and saves it, or within its evaluation"
STOPPING = {
    signal.SIGINT: f"Ctrl-C: {WHEN}; once more stops it now, unsaved",
    signal.SIGTERM: f"SIGTERM: {WHEN}",
}


class Stopped(Exception):
    """The run was told to stop, and what it was doing need not be finished."""


class StopSignal:
    """Remember SIGTERM and the first Ctrl-C; a second Ctrl-C does what it did before.

    That is to end a command at once (`errors.Leave`), and to raise KeyboardInterrupt in a notebook.
    A thread answers: Python's own handlers wait while XLA compiles.

    A context manager: afterwards signals mean again what they meant before. With several processes
    JAX notices SIGTERM, and agrees with the others on the question at which all of them stop.
    """

    def __init__(self):
        self._received = False
        self._asked = 0
        self._previous: dict = {}

    def __enter__(self) -> "StopSignal":
        alone = jax.process_count() == 1  # else JAX's own handler must stay
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._receive)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
            # Python writes the number of each signal here, whatever the main thread is doing.
            reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            self._woken = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._answer, args=(reading,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Give the signals back: what follows can be stopped at any moment."""
        if not self._previous:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        signal.set_wakeup_fd(self._woken)
        os.close(self._writing)
        self._thread.join()

    def _answer(self, reading: int) -> None:
        """Print what a signal leads to; end the command at the second Ctrl-C."""
        leave = self._previous[signal.SIGINT]
        seen = set()
        while number := os.read(reading, 1):
            (signal_number,) = number
            if signal_number not in STOPPING:
                continue
            if signal_number not in seen:
                print(f"\n{STOPPING[signal.Signals(signal_number)]}", flush=True)
            elif signal_number == signal.SIGINT and isinstance(leave, Leave):
                leave()
            seen.add(signal_number)
        os.close(reading)

    def _receive(self, number: int, frame) -> None:
        self._received = True
        previous = self._previous[signal.SIGINT]
        if number == signal.SIGINT and not isinstance(previous, Leave):  # else the thread's task
            signal.signal(signal.SIGINT, previous)

    def reached(self) -> bool:
        """Tell whether to stop: all processes must ask equally often, and get the same answer."""
        if jax.process_count() > 1 and not self._received:
            # JAX counts as well: it stops all of them at the next number that none has asked yet.
            self._asked += 1
            self._received = multihost_utils.reached_preemption_sync_point(self._asked)
        return self._received

    def check(self) -> None:
        """Raise `Stopped` where `reached` is true."""
        if self.reached():
            raise Stopped
