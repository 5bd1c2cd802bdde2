"""The training step before there is a state or a batch: its shapes, and its compilation."""

import math
import os
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rsclip_jax import sharding
from rsclip_jax.data.assemble import from_config
from rsclip_jax.data.captions import TextChoice
from rsclip_jax.models.kinds import kind_of
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.progress import log
from rsclip_jax.training.state import State, make_state
from rsclip_jax.training.step import make_train_step, text_rows
from rsclip_jax.training.tasks import TASKS
from rsclip_jax.training.xla_options import compile_for


class Setup(NamedTuple):
    """What a run of a config is made of.

    Attributes:
      model: of `models.kinds`.
      tx: the optimiser.
      state: a train state of shapes.
      shardings: the place of each of its arrays.
    """

    model: Any
    tx: optax.GradientTransformation
    state: State
    shardings: Any


def setup(config: ConfigDict, mesh: Mesh, total_steps: int) -> Setup:
    """Make the model and optimiser of a resolved config, and the shapes of its state.

    Raises:
      ValueError: a model, schedule or sharding that cannot be.
    """
    models = kind_of(config)
    model = models.build(config.model)
    params = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    tx = make_optimizer(config, params, total_steps)
    state = jax.eval_shape(lambda p: make_state(p, tx, ema=config.ema_decay > 0), params)
    return Setup(model, tx, state, sharding.state_shardings(state, mesh, config.sharding))


def is_open(config: ConfigDict) -> bool:
    """Tell whether a resolved config leaves it to training/fit.py what is recomputed, or parts."""
    return config.model.get("remat") == "auto" or config.grad_cache_steps == 0


def trace_step(
    config: ConfigDict, mesh: Mesh, total_steps: int = 0, packed_rows: int = 0
) -> jax.stages.Traced:
    """Trace the training step of a resolved config for the devices of a mesh.

    Args:
      total_steps: of the run; 0: of its config, 10^6 where that counts epochs over data that need
        not be here.
      packed_rows: that the texts of a device share in each part; 0: they do not.

    Raises:
      ValueError: a config that cannot be trained, or one that leaves things open.
    """
    if is_open(config):
        raise ValueError(
            f"config.model.remat={config.model.remat!r}, config.grad_cache_steps="
            f"{config.grad_cache_steps}: expected a policy and a number of parts (see "
            "training/fit.py for their choice)"
        )
    check_batch(config, mesh)
    total_steps = total_steps or config.total_steps or 10**6
    model, tx, state, shardings = setup(config, mesh, total_steps)
    loss_fn = TASKS[config.task].make_loss(model, config, mesh, total_steps, packed_rows)
    step = jitted(make_train_step(loss_fn, tx, config, total_steps), shardings, mesh)
    batch = abstract_batch(config)
    if packed_rows:
        fields = text_rows(config)[0]
        starts = (config.input.batch_size, len(fields))
        batch["starts"] = jax.ShapeDtypeStruct(starts, jnp.int32)
    return step.trace(state, batch)


def lower_step(config: ConfigDict, mesh: Mesh, *args: int) -> jax.stages.Lowered:
    """Trace the training step as `trace_step` does, ready to be compiled."""
    return trace_step(config, mesh, *args).lower()


def abstract_batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and types of a training batch of a resolved config."""
    size, side = config.input.batch_size, config.model.image_size
    fields = from_config(TextChoice, config.input).fields(config.input.lengths)
    batch = {name: jax.ShapeDtypeStruct((size, n), jnp.int32) for name, n in fields.items()}
    batch["record"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    for name in ("image", "ir") if config.input.ir else ("image",):
        batch[name] = jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8)
    if config.input.ir:
        batch["ir_mask"] = jax.ShapeDtypeStruct((size,), bool)
    return batch


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Raise ValueError unless the batch can be split as the mesh and gradient caching want."""
    shards = sharding.batch_shards(mesh)
    parts = config.grad_cache_steps or 1  # 0: that many divide it as will fit
    if config.input.batch_size % (shards * parts):
        raise ValueError(
            f"config.input.batch_size={config.input.batch_size}: expected a multiple of "
            f"{shards}, the product of config.mesh.data and fsdp, times "
            f"config.grad_cache_steps={parts}"
        )


def check_host(config: ConfigDict) -> None:
    """Refuse a batch whose part of a process is more than the memory of its machine.

    Raises:
      ValueError: names the fields that decide.
    """
    arrays = abstract_batch(config).values()
    needed = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays) // jax.process_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        lengths = ", ".join(f"{k} {n}" for k, n in config.input.lengths.items())
        texts = f" and of texts of tokens ({lengths})" if lengths else ""
        raise ValueError(
            f"config.input.batch_size={config.input.batch_size} images of config.model.image_size="
            f"{config.model.image_size} pixels{texts} are {needed / 2**30:,.0f} GiB a process, "
            f"and this machine has {memory / 2**30:,.0f} GiB: set smaller ones"
        )


def jitted(train_step, shardings, mesh) -> Any:
    """Return the step with its arrays in their places, the state's own donated to the next."""
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )


def compile_step(train_step, state: State, batch: dict, shardings, mesh) -> jax.stages.Compiled:
    """Compile the step ahead of the first call and print how long it took and what it needs."""
    lowered = jitted(train_step, shardings, mesh).lower(state, batch)
    return compile_lowered(lowered, mesh, sharding.bytes_per_device(state, shardings))


def compile_lowered(
    lowered: jax.stages.Lowered, mesh: Mesh, state_bytes: int
) -> jax.stages.Compiled:
    """Compile a step and print how long it took and what it needs.

    Args:
      mesh: that it was lowered for.
      state_bytes: what the state takes of a device by its shapes, printed beside it.
    """
    start = perf_counter()
    compiled = compile_for(lowered, mesh.devices.flat)
    needs = ""
    if memory := compiled.memory_analysis():  # not every backend tells
        needs = (
            f"; memory per device: {memory.argument_size_in_bytes / 2**20:.0f} MiB state and "
            f"batch ({state_bytes / 2**20:.0f} MiB state), {memory.temp_size_in_bytes / 2**20:.0f} "
            "MiB temporary"
        )
    log(f"compiled in {perf_counter() - start:.1f} s{needs}")
    return compiled
