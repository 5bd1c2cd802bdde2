"""bfloat16 and the fused attention beside float32 and XLA's: embeddings and gradients."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bare_step import END, TOTAL_STEPS, config_of, random_batch
from benchmarks.gpu.rows import Row, Stage
from benchmarks.gpu.step import settings_of
from rsclip_jax import sharding
from rsclip_jax.models import clip
from rsclip_jax.models.blocks import Tower, Transformer
from rsclip_jax.training.step import make_loss

Kind = tuple[str, str]  # dtype and attention of config.model
# What is compared, and with what.
KINDS = {"bfloat16": ("bfloat16", "auto"), "bfloat16, XLA's attention": ("bfloat16", "xla")}
REFERENCE = ("float32", "xla")
SMALL = 1e-3  # share of the gradient below which a parameter's own is noise (key biases: zero)


def run(stage: Stage) -> None:
    """Compare the whole model, then a transformer of B/16's image tower at each length."""
    subjects = {"B/16+248+77": functools.partial(whole, stage.toy)}
    lengths = ((17, True),) if stage.toy else itertools.product((197, 77, 248), (False, True))
    for length, causal in lengths:
        what = f"transformer, {length} tokens{', causal' * causal}"
        subjects[what] = functools.partial(transformer, stage.toy, length, causal)
    for what, subject in subjects.items():
        truth = functools.cache(lambda subject=subject: exactly(subject))
        for name, kind in list(KINDS.items())[: 1 if stage.toy else None]:
            compared = functools.partial(beside, subject, kind, truth)
            stage.measure(what, name, compared)


def exactly(subject: Callable[[Kind], tuple]) -> tuple[np.ndarray, list]:
    """Return embeddings and gradients of the reference."""
    with jax.default_matmul_precision("highest"):
        return evaluated(*subject(REFERENCE))[:2]


def beside(subject: Callable[[Kind], tuple], kind: Kind, truth: Callable[[], tuple]) -> Row:
    """Compare embeddings and gradients of a kind of computation with the reference's."""
    z, grads, kernels = evaluated(*subject(kind))
    z_true, grads_true = truth()
    cosine = np.sum(z * z_true, -1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(z_true, axis=-1)
    errors = np.array([np.sum((g - t) ** 2) for g, t in zip(grads, grads_true, strict=True)])
    sizes = np.array([np.sum(t**2) for t in grads_true])
    large = sizes > SMALL**2 * sizes.sum()
    return {
        "greatest 1 - cosine of an embedding": float(1 - cosine.min()),
        "relative error of the gradient": float(np.sqrt(errors.sum() / sizes.sum())),
        "of the worst parameter": float(np.sqrt((errors[large] / sizes[large]).max())),
        "cuDNN attention kernels": kernels,
    }


def evaluated(loss_fn: Callable, params: Any, inputs: Any) -> tuple[np.ndarray, list, int]:
    """Return embeddings [..., D], gradients, and the number of fused kernels of the program."""
    step = jax.jit(jax.grad(loss_fn, has_aux=True)).lower(params, inputs).compile()
    grads, z = step(params, inputs)
    kernels = step.as_text().count('custom_call_target="__cudnn$fmha')
    leaves = [np.asarray(g, np.float64) for g in jax.tree.leaves(grads)]
    return np.asarray(z, np.float64), leaves, kernels


def transformer(toy: bool, length: int, causal: bool, kind: Kind) -> tuple[Callable, Any, Any]:
    """Return (loss, parameters, inputs) of a transformer alone."""
    width, depth, heads = (64, 2, 2) if toy else (768, 12, 12)
    dtype, attention = kind
    model = Transformer(Tower(width, depth, heads, dtype=dtype, attention=attention), causal)
    keys = jax.random.split(jax.random.key(0))
    x, towards = jax.random.normal(keys[0], (2, 2 if toy else 32, length, width))
    exact = Transformer(Tower(width, depth, heads, attention="xla"), causal)
    params = jax.jit(lambda key: exact.init(key, x)["params"])(keys[1])

    def loss_fn(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = model.apply({"params": params}, x).astype(jnp.float32)
        return jnp.mean(jnp.sum(z * towards, -1)), z

    return loss_fn, params, x


def whole(toy: bool, kind: Kind) -> tuple[Callable, Any, Any]:
    """Return (loss, parameters, inputs) of LRSCLIP's B/16."""
    settings = settings_of("B/16+248+77", toy)
    dtype, attention = kind
    settings |= {"dtype": dtype, "batch_size": 8 if toy else 64}
    settings["set"] += [f"model.attention={attention}", "model.remat=none"]
    config = config_of(settings)
    config.model.vocab_size, config.model.eot_id = END + 1, END
    model = clip.build(config.model)
    config.model.image_size = model.image_size
    mesh = sharding.make_mesh()
    params = clip.init_params(model, jax.random.key(0))
    contrast = make_loss(model, config, mesh, TOTAL_STEPS)

    def loss_fn(params: Any, batch: dict) -> tuple[jax.Array, jax.Array]:
        inputs = {name: array for name, array in batch.items() if name != "record"}
        with sharding.on_mesh(mesh):
            out = model.apply({"params": params}, **inputs)
        z = jnp.concatenate([value for name, value in out.items() if name.startswith("z")])
        return contrast(params, batch, 0)[0], z

    return loss_fn, params, jax.device_put(random_batch(config), sharding.batch_sharding(mesh))
