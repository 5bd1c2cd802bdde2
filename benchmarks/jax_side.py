"""Our side of `train_step.py`: take a training step for every line of standard input."""

import ast
import functools
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
from rsclip_jax.training.ahead import compile_step
from rsclip_jax.training.flops import device_peak, forward_flops
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import make_state
from rsclip_jax.training.step import make_loss, make_train_step


def main(settings: dict) -> None:
    """Compile, warm up, then answer each line with the seconds of a step."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no answer
    config = defaults.get_config()
    config.total_steps = 10**6
    config.model.variant = settings["variant"]
    config.model.context_length = settings["context_length"]
    config.model.dtype = settings["dtype"]
    config.model.activation = "gelu"
    config.model.scan = False
    config.model.remat, config.grad_cache_steps = "none", 1  # unless --set says otherwise
    batch_size = config.input.batch_size = settings["batch_size"]
    config.input.lengths.text = settings["text_length"]
    if settings["long"]:
        config.input.lengths.text_long = settings["context_length"]
        config.loss_pairs = (("img", "txt_long", 1.0), ("img", "txt", 1.0))
    config.wd = 0.2
    config.b2, config.eps = 0.98, 1e-6
    for assignment in settings["set"]:
        *parents, field = assignment.partition("=")[0].split(".")
        node = functools.reduce(lambda node, name: node[name], parents, config)
        try:
            node[field] = ast.literal_eval(assignment.partition("=")[2])
        except (SyntaxError, ValueError):  # a word
            node[field] = assignment.partition("=")[2]
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
    batch = {"image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)}
    for field, length in config.input.lengths.items():
        batch[field] = rng.integers(1, 49406, (batch_size, length), np.int32)
        batch[field][:, -1] = 49407
    batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    loss_fn = make_loss(model, config, mesh, config.total_steps)
    train_step = make_train_step(loss_fn, tx, config, config.total_steps)
    step = compile_step(train_step, state, batch, shardings, mesh)
    for _ in range(2):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    device = jax.devices()[0].device_kind
    # What bare matrix products of an MLP's size reach beside it: the library's part of the speed.
    a, b = jnp.ones((50 * batch_size, 768)), jnp.ones((768, 3072))
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    described = {"jax": jax.__version__, "device": device}
    flop = 3 * batch_size * forward_flops(model, config.input.lengths, set(batch))
    peak, source = device_peak()
    if jax.default_backend() != "cpu":
        described |= {"flop": flop, "peak": peak * jax.device_count(), "peak_of": source}
    print(json.dumps(described), file=answers, flush=True)
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
    main(json.loads(sys.argv[1]))
