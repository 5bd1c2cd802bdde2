"""Processes that each keep a model and take a step when told to, so that they can take turns."""

import json
import os
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Side:
    """One of the processes that are compared: `jax_side.py` or `torch_side.py`.

    Attributes:
      describe: what it says of itself once it is warm.
      times: of each step: seconds `wall` and `cpu`, and `matmul`, the FLOP/s of bare products.
    """

    def __init__(
        self,
        name: str,
        python: str,
        script: str,
        settings: Mapping[str, Any],
        env: Mapping[str, str] | None = None,
    ):
        """Start it, and wait until it is warm.

        Args:
          python: its interpreter.
          settings: see `bare_step.BareStep`.
          env: variables besides this process's own.

        Raises:
          RuntimeError: it ended; what it said stands on this process's standard error.
        """
        self.name = name
        self.times: list[dict[str, float]] = []
        self._process = subprocess.Popen(
            [python, str(Path(__file__).parent / script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            text=True,
        )
        self.describe = self._answer()  # it answers once when it is warm

    def step(self) -> None:
        """Take one step and note its seconds."""
        assert self._process.stdin
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.times.append(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def median(self, clock: str) -> float:
        """Return the median seconds of a step."""
        return statistics.median(times[clock] for times in self.times)

    def _answer(self) -> dict:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"{self.name} ended with status {code}; its message stands above")
        return json.loads(line)


def ratios(ours: Side, theirs: Side, clock: str) -> list[float]:
    """Return how many times as long as ours each step of theirs took."""
    return [b[clock] / a[clock] for a, b in zip(ours.times, theirs.times, strict=True)]
