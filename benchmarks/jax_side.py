"""Our side of `train_step.py`: take a training step for every line of standard input."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp

from benchmarks.bare_step import BareStep
from rsclip_jax.training.flops import device_peak


def main(settings: dict) -> None:
    """Compile, warm up, then answer each line with the seconds of a step."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no answer
    step = BareStep(settings)
    step.take(2)
    device = jax.devices()[0].device_kind
    # What bare matrix products of an MLP's size reach beside it: the library's part of the speed.
    a, b = jnp.ones((50 * settings["batch_size"], 768)), jnp.ones((768, 3072))
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    described = {"jax": jax.__version__, "device": device}
    peak, source = device_peak()
    if jax.default_backend() != "cpu":
        described |= {"flop": step.flops, "peak": peak * jax.device_count(), "peak_of": source}
    print(json.dumps(described), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step.take()
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        start = time.perf_counter()
        for _ in range(10):
            product(a, b).block_until_ready()
        times["matmul"] = 10 * 2 * a.size * b.shape[1] / (time.perf_counter() - start)
        print(json.dumps(times), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
