"""Noticing that the scheduler, or the user, wants the run to stop."""

import signal
import threading

import jax

from rsclip_jax.training.checkpoint import Checkpoints


class StopSignal:
    """Remember SIGTERM and the first Ctrl-C; a second Ctrl-C interrupts at once.

    With several processes Orbax agrees on the step at which all of them stop.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._received = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._receive)
            signal.signal(signal.SIGINT, self._receive)

    def _receive(self, number: int, frame) -> None:
        self._received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def reached(self, step: int) -> bool:
        """Tell whether to save this step and stop."""
        if jax.process_count() > 1:
            return self._checkpoints.reached_preemption(step)
        return self._received
