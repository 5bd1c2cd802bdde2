"""How a translator from RGB to infrared is trained: its loss over a batch of aligned pairs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rsclip_jax.losses import translation
from rsclip_jax.models.translator import Translator, init_params, on_bridge, unit
from rsclip_jax.sharding import on_mesh
from rsclip_jax.training.base import named
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.progress import log


def make_loss(
    model: Translator, config: Any, mesh: Mesh | None, total_steps: int, packed_rows: int = 0
) -> Callable:
    """Return (params, batch, step) -> (loss, metrics) over the global batch.

    `total_steps` and `packed_rows` are there for the loop, which has other losses too.
    """
    del total_steps, packed_rows
    one = {"pix2pix": _pix2pix, "bridge": _bridge}[model.variant]

    def loss_fn(params, batch, step):
        ir, mask = unit(batch["ir"])[..., :1], batch["ir_mask"].astype(jnp.float32)
        with on_mesh(mesh):
            return one(model, config, params, batch["image"], ir, mask, step)

    return loss_fn


def _pix2pix(model, config, params, image, ir, mask, step):
    """Both players' losses in one sum, whose gradient moves each by its own alone.

    pix2pix (arXiv 1611.07004, eq. 4), of least squares. The generator's part sees the discriminator
    as a constant, the discriminator's part what is made.
    """
    still = {**params, "disc": jax.lax.stop_gradient(params["disc"])}

    def judge(params, ir):
        return model.apply({"params": params}, image, ir, method="realness")

    made = model.apply({"params": params}, image, method="predict")
    terms = {
        "l1": translation.l1(made, ir, mask),
        "generator": translation.generator_loss(judge(still, made), mask),
        "discriminator": translation.discriminator_loss(
            judge(params, ir), judge(params, jax.lax.stop_gradient(made)), mask
        ),
    }
    loss = config.loss.l1 * terms["l1"] + config.loss.adversarial * terms["generator"]
    return loss + terms["discriminator"], terms


def _bridge(model, config, params, image, ir, mask, step):
    """Predict the infrared image from points of the bridge where steps begin.

    About half of the rows are at its start, where all is to be guessed.
    """
    for_time, for_noise = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step))
    number = jax.random.randint(for_time, (len(image),), 1 - model.steps, model.steps)
    time = jnp.maximum(number, 0) / model.steps
    x = on_bridge(model, image, ir, time, jax.random.normal(for_noise, ir.shape))
    made = model.apply({"params": params}, image, x, time, method="predict")
    loss = translation.l1(made, ir, mask)
    return loss, {"l1": loss}


def step_flops(config: ConfigDict, model: Translator) -> float:
    """Count the FLOPs of a forward and a backward pass for one image, as the compiler does.

    A translator has no loop over layers, of which the compiler would count one.
    """
    size = model.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    batch = {"image": image, "ir": image, "ir_mask": jax.ShapeDtypeStruct((1,), bool)}
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    loss = make_loss(model, config, None, 1)
    lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(params, batch, 0)
    cost: Any = lowered.cost_analysis() or {}  # not every backend tells
    return float(cost.get("flops", 0.0))


def parameters_from(
    config: ConfigDict, model: Translator, mesh: Mesh | None = None
) -> tuple[Any, None]:
    """Load config.init_from, a translator of the same sizes.

    Returns:
      The parameters; and None, for checkpoints hold all of them.

    Raises:
      ValueError: another task, or other parameters.
    """
    source, params, step = load_for_inference(config.init_from, mesh=mesh)
    like = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    shapes = [{k: v.shape for k, v in named(tree).items()} for tree in (like, params)]
    if source.get("task", "clip") != "translation" or shapes[0] != shapes[1]:
        raise ValueError(
            f"config.init_from={config.init_from!r} is no translator of config.model="
            f"{config.model.to_dict()}, but {source.model.variant!r} of "
            f"{ {k: source.model.get(k) for k in ('width', 'depth')} }"
        )
    log(f"starting from {config.init_from}, step {step}")
    return params, None
