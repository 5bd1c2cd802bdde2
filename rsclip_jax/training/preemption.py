"""Noticing that the scheduler, or the user, wants the run to stop."""

import signal
import threading

import jax

from rsclip_jax.training.checkpoint import Checkpoints


class StopSignal:
    """Remember SIGTERM and the first Ctrl-C; a second Ctrl-C interrupts at once.

    A context manager: afterwards signals mean again what they meant before. With several processes
    JAX notices SIGTERM, and Orbax agrees on the step at which all of them stop.
    """

    def __init__(self):
        self._received = False
        self._previous: dict = {}

    def __enter__(self) -> "StopSignal":
        alone = jax.process_count() == 1  # else JAX's own handler must stay
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._receive)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Give the signals back: what follows can be stopped at any moment."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        self._received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def reached(self, step: int, checkpoints: Checkpoints) -> bool:
        """Tell whether to save this step and stop."""
        if jax.process_count() > 1:
            return checkpoints.reached_preemption(step)
        return self._received
