"""A training step on random images and tokens: the thing that benchmarks of the step take."""

import ast
import functools
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import defaults
from rsclip_jax import sharding
from rsclip_jax.data.packing import Packing, row_count
from rsclip_jax.models import clip
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import make_state
from rsclip_jax.training.step import make_loss, make_train_step, text_rows
from rsclip_jax.training.tasks import TASKS
from rsclip_jax.training.xla_options import compile_for

VOCABULARY, END = 49408, 49407  # CLIP's
TOTAL_STEPS = 10**6


class BareStep:
    """A compiled step, its state and its batch.

    Args:
      settings: `variant`, `dtype`, `batch_size`; `context_length`, the text positions;
        `text_length`, of the text; `long`, whether a text as long as the context joins it, as in
        LRSCLIP; `set`, a list of FIELD=VALUE of the config. May be left out: `tokens`, the mean
        length of captions (else they fill their rows); `donate` (True): the old state's memory
        serves the new one; `cast_once` (False): matrices are rounded to `dtype` before the towers,
        not in every layer; `options`: XLA's flags for this program by name, beside the trainer's.

    Attributes:
      config: the resolved config.
      batch: what every step reads, on the device.
      flops: of a step, by the model's dimensions and the rows that its texts take.
      compile_s: seconds that compiling took.
      temporary, arguments: bytes of a device by the compiler.
    """

    def __init__(self, settings: Mapping[str, Any]):
        config = self.config = resolve(config_of(settings), Path("unused"))
        mesh = sharding.make_mesh()
        model = clip.build(config.model)
        init = lambda: clip.init_params(model, jax.random.key(0))  # noqa: E731
        tx = make_optimizer(config, jax.eval_shape(init), TOTAL_STEPS)
        wrap = lambda: make_state(init(), tx, ema=False)  # noqa: E731
        shardings = sharding.state_shardings(jax.eval_shape(wrap), mesh, config.sharding)
        batch = random_batch(config, settings.get("tokens", 0))
        rows = 0
        if config.input.pack_text:
            rows = row_count(int(batch["starts"].max()) // text_rows(config)[1] + 1)
        self.batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        loss_fn = make_loss(model, config, mesh, TOTAL_STEPS, rows)
        if settings.get("cast_once"):
            loss_fn = _cast_once(loss_fn, config.model.dtype)
        step = jax.jit(
            make_train_step(loss_fn, tx, config, TOTAL_STEPS),
            donate_argnums=(0,) if settings.get("donate", True) else (),
            in_shardings=(shardings, sharding.batch_sharding(mesh)),
            out_shardings=(shardings, sharding.replicated(mesh)),
        )
        start = time.perf_counter()
        lowered = step.lower(jax.eval_shape(wrap), self.batch)
        self._step = compile_for(lowered, mesh.devices.flat, **settings.get("options", {}))
        self.compile_s = time.perf_counter() - start
        memory = self._step.memory_analysis()
        self.temporary, self.arguments = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        self._init = jax.jit(wrap, out_shardings=shardings)
        self._state: Any = None
        batch_size = config.input.batch_size
        self.flops = batch_size * TASKS[config.task].sample_flops(config, model)(rows / batch_size)

    def take(self, count: int = 1) -> None:
        """Take steps one after the other, and wait for the last."""
        if self._state is None:
            self._state = self._init()
        for _ in range(count):
            self._state, metrics = self._step(self._state, self.batch)
        jax.block_until_ready((self._state, metrics))

    def program(self) -> str:
        """Return the compiled program."""
        return self._step.as_text()


def config_of(settings: Mapping[str, Any]) -> ConfigDict:
    """Return the config of a step; see `BareStep`."""
    config = defaults.get_config()
    config.total_steps = TOTAL_STEPS
    config.model.variant = settings["variant"]
    config.model.context_length = settings["context_length"]
    config.model.dtype = settings["dtype"]
    config.model.activation = "gelu"  # open_clip's, of models without weights
    config.model.scan = False
    config.model.remat, config.grad_cache_steps = "none", 1  # unless `set` says otherwise
    config.input.batch_size = settings["batch_size"]
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
    return config


def random_batch(config: ConfigDict, tokens: float = 0) -> dict[str, np.ndarray]:
    """Draw a batch of a resolved config; with `tokens` captions of that mean length."""
    rng = np.random.default_rng(0)
    size, side = config.input.batch_size, config.model.image_size
    batch = {"image": rng.integers(0, 256, (size, side, side, 3), np.uint8)}
    batch["record"] = np.arange(size, dtype=np.int32)
    for field, length in config.input.lengths.items():
        ids = rng.integers(1, END - 1, (size, length), np.int32)
        ends = np.full(size, length - 1)
        if tokens:  # lengths spread as widely as those of captions: deviation a third of the mean
            ends = np.clip(rng.gamma(9, tokens / 9, size).astype(int), 2, length) - 1
        ids[np.arange(size), ends] = END
        batch[field] = np.where(np.arange(length) <= ends[:, None], ids, 0).astype(np.int32)
    if config.input.pack_text:
        fields, row_length = text_rows(config)
        batch = Packing(fields, row_length, END)(batch)
    return batch


def _cast_once(loss_fn: Any, dtype: str) -> Any:
    """Round the matrices of dense layers before the towers do it, layer by layer."""

    def cast(path: tuple, x: jax.Array) -> jax.Array:
        name = "/".join(str(key.key) for key in path)
        return x.astype(dtype) if re.fullmatch(".*/kernel", name) else x

    def rounded(params: Any, batch: dict, step: jax.Array) -> Any:
        return loss_fn(jax.tree_util.tree_map_with_path(cast, params), batch, step)

    return rounded


def product_rate(side: int, dtype: str = "bfloat16", rounds: int = 10) -> float:
    """Return the FLOP/s of bare square matrix products of random numbers."""
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    start = time.perf_counter()
    for _ in range(rounds):
        out = product(a, b)
    out.block_until_ready()
    return rounds * 2 * side**3 / (time.perf_counter() - start)
