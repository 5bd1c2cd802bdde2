"""A trace of some of a run's steps, for TensorBoard or Perfetto."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rsclip_jax.training.progress import log

FOLDER = "profile"  # in the workdir


class Profile:
    """Trace the steps from `first` to `last` while they are taken.

    Only the first process writes: all take the same steps, and processes of one host would write
    files of the same name. A run that is resumed between the two traces the steps that are left.

    Args:
      steps: (first, last), counted from 1, or ().
      workdir: the trace goes to WORKDIR/profile.
      step, total_steps: where the run stands and ends.
    """

    def __init__(self, steps: tuple[int, ...], workdir: Path, step: int, total_steps: int):
        self._first, self._last = steps or (0, 0)
        self._folder = workdir / FOLDER
        self._writes = jax.process_index() == 0
        self._tracing = False
        if not steps or step >= total_steps:
            return
        if step >= self._last or self._first > total_steps:
            log(f"config.profile={steps}: nothing to trace from step {step} to {total_steps}")
        self._last = min(self._last, total_steps)

    def run(self, step: int, train_step: Callable[..., Any], *args: Any) -> Any:
        """Return train_step(*args); where `step` is one to trace, a trace has it under its name."""
        if not (self._writes and self._first <= step <= self._last):
            return train_step(*args)
        if not self._tracing:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each Python call would be millions of events
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            out = train_step(*args)
        if step == self._last:
            jax.block_until_ready(out)  # the device works on it still
            self.close()
        return out

    def close(self) -> None:
        """Write what has been traced."""
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        log(
            f"a trace of the steps is in {self._folder}: pip install xprof, then "
            f"xprof --logdir={self._folder} (or tensorboard); or open its .trace.json.gz at "
            "https://ui.perfetto.dev"
        )
