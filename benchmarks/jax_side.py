"""Our side of `train_step.py`: take a training step for every line of standard input."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from configs import defaults
from rsclip_jax import sharding
from rsclip_jax.models import clip
from rsclip_jax.training.loop import compile_step
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import make_state
from rsclip_jax.training.step import make_train_step


def main(variant: str, batch_size: int, text_length: int) -> None:
    """Compile, warm up, then answer each line with the seconds of a step."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no answer
    config = defaults.get_config()
    config.total_steps = 10**6
    config.model.variant = variant
    config.model.activation = "gelu"
    config.model.scan = False
    config.input.batch_size = batch_size
    config.wd = 0.2
    config.b2, config.eps = 0.98, 1e-6
    config = resolve(config, Path("unused"))
    mesh = sharding.make_mesh()
    model = clip.build(config.model)
    params = clip.init_params(model, jax.random.key(0))
    tx = make_optimizer(config, params, config.total_steps)
    state = make_state(params, tx, ema=False)
    shardings = sharding.state_shardings(state, mesh, config.sharding)
    state = jax.device_put(state, shardings)
    rng = np.random.default_rng(0)
    size = model.image_size
    text = rng.integers(1, 49406, (batch_size, text_length), np.int32)
    text[:, -1] = 49407
    batch = {"image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8), "text": text}
    batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    train_step = make_train_step(model, tx, config, mesh, config.total_steps)
    step = compile_step(train_step, state, batch, shardings, mesh)
    for _ in range(2):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    device = jax.devices()[0].device_kind
    # What bare matrix products of an MLP's size reach beside it: the library's part of the speed.
    a, b = jnp.ones((50 * batch_size, 768)), jnp.ones((768, 3072))
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    print(json.dumps({"jax": jax.__version__, "device": device}), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        start = time.perf_counter()
        for _ in range(10):
            product(a, b).block_until_ready()
        times["matmul"] = 10 * 2 * a.size * b.shape[1] / (time.perf_counter() - start)
        print(json.dumps(times), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
