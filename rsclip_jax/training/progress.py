"""What a run tells: a progress line with speed and ETA, metrics.jsonl, TensorBoard."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from rsclip_jax.evaluators import Evaluator
from rsclip_jax.evaluators.report import table
from rsclip_jax.host import available_cores
from rsclip_jax.training.flops import device_peak
from rsclip_jax.training.metrics import MetricWriter
from rsclip_jax.training.optim import learning_rate

# Above this share of a step the wait for its batch is reported.
INPUT_BOUND = 0.1


def log(message: str) -> None:
    """Print on the first process only."""
    if jax.process_index() == 0:
        print(message, flush=True)


class Progress:
    """Report training steps, each one step late so that the device never waits for the host.

    Args:
      config: the resolved config.
      sample_flops: of a step, with the number of rows that a sample's texts take (0: its own).
      workdir: where metrics.jsonl and TensorBoard events go.
      step, total_steps: where the run stands and ends.
    """

    def __init__(
        self,
        config: Any,
        sample_flops: Callable[..., float],
        workdir: Path,
        step: int,
        total_steps: int,
    ):
        self._config = config
        self._total_steps = total_steps
        self._writer = MetricWriter(workdir, step) if jax.process_index() == 0 else None
        self._pending: tuple[int, dict, int] | None = None
        self._learning_rate = learning_rate(config.lr, config.warmup_steps, total_steps)
        self._explained: list[Evaluator] = []
        self._slow_reports = 0  # in a row, as long as nothing was advised
        self._sample_flops = sample_flops
        peak, source = device_peak()
        self._peak = peak * jax.device_count()
        whole = " if no text shares its row" if config.input.pack_text else ""
        log(f"{self._sample_flops() / 1e9:.3g} GFLOP per sample, forward and backward of what is "
            f"trained{whole}; MFU against {self._peak / 1e12:.3g} TFLOP/s ({source})")  # fmt: skip

    def start(self, step: int, waited: Callable[[], float]) -> None:
        """Start the clock; `waited` tells the seconds spent waiting for input so far."""
        self._waited = waited
        self._restart(step)

    def _restart(self, step: int) -> None:
        self._since = (step, time.perf_counter(), self._waited())
        self._paused = 0.0
        self._flops = 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens inside (evaluating, saving) out of the speed."""
        self.flush()  # which waits for the step that is on its way
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def push(self, step: int, metrics: dict[str, jax.Array], packed_rows: int = 0) -> None:
        """Take the metrics of the step just started; report those of the step before it.

        Args:
          packed_rows: that the texts of the step share; 0: each has its own.

        Raises:
          FloatingPointError: config.max_bad_steps steps in a row were not finite.
        """
        self.flush()
        self._pending = (step, metrics, packed_rows)

    def flush(self) -> None:
        """Report the step whose metrics are still on the device."""
        if self._pending is None:
            return
        step, device_metrics, packed_rows = self._pending
        self._pending = None
        batch_size = self._config.input.batch_size
        self._flops += batch_size * self._sample_flops(packed_rows / batch_size)
        metrics = {k: float(v) for k, v in jax.device_get(device_metrics).items()}
        if bad := int(metrics.pop("bad_steps")):
            log(f"step {step}: not finite, parameters left as they were ({bad} in a row)")
        if bad >= self._config.max_bad_steps:
            raise FloatingPointError(f"{bad} steps in a row were not finite")
        if step % self._config.log_steps == 0 or step == self._total_steps:
            self._report(step, metrics)

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        since, start, waited = self._since
        seconds = max(time.perf_counter() - start - self._paused, 1e-9)
        rate = (step - since) / seconds
        input_bound = (self._waited() - waited) / seconds
        flops = self._flops
        self._restart(step)
        metrics |= {
            "samples_per_s": rate * self._config.input.batch_size,
            "mfu": flops / seconds / self._peak,
            "input_wait": input_bound,
        }
        if self._writer:
            self._writer.write(step, metrics)
        accuracies = "  ".join(
            f"{k[4:].replace('_', '-', 1)} {100 * v:.1f}%"
            for k, v in metrics.items()
            if k.startswith("acc_")
        )
        busy = "" if metrics["mfu"] <= 1 else " (the peak was measured on a busy machine)"
        eta = clock((self._total_steps - step) / max(rate, 1e-9))
        bound = input_bound > INPUT_BOUND
        slow = f"  input-bound: {100 * input_bound:.0f}% of the step" if bound else ""
        log(
            f"step {step}/{self._total_steps}  loss {metrics['training_loss']:.4f}  {accuracies}  "
            f"lr {float(self._learning_rate(step - 1)):.2e}  "
            f"{metrics['samples_per_s']:.1f} samples/s  MFU {100 * metrics['mfu']:.1f}%{busy}  "
            f"ETA {eta}{slow}"
        )
        if self._slow_reports < 2:
            self._slow_reports = self._slow_reports + 1 if bound else 0
            if self._slow_reports == 2:
                log(input_advice(self._config))

    def scores(self, step: int, name: str, metrics: dict[str, float], evaluator: Evaluator) -> None:
        """Report what an evaluator found at a step, the first time with what the numbers are of."""
        if self._writer:
            self._writer.write(step, {f"{name}/{key}": value for key, value in metrics.items()})
        notes = []
        if evaluator not in self._explained:
            self._explained.append(evaluator)
            notes = [f"  {line}" for line in evaluator.about()]
        log("\n".join([f"step {step}, {name}", table(metrics, evaluator.protocol), *notes]))

    def close(self) -> None:
        """Write what is pending and close the files."""
        if self._writer:
            self._writer.close()


def input_advice(config: Any) -> str:
    """Say what can be done where the steps wait for their batches."""
    size = math.ceil(config.model.image_size * 8 / 7)  # 256 px for 224
    advice = (
        f"the steps wait for images: store smaller ones (rsclip_jax.prepare --resize={size}), or "
        "give the input more cores"
    )
    cores = available_cores()
    if 0 < config.input.threads < cores:
        return f"{advice} (config.input.threads=0 takes all {cores})"
    if cores > 12 * max(config.input.workers, 1):  # reckoned: what one interpreter keeps busy
        return f"{advice} (config.input.workers={math.ceil(cores / 12)} keeps {cores} busy)"
    return advice


def clock(seconds: float) -> str:
    """Write seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
