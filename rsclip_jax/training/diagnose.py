"""Why did the loss stop being finite? Asked once, after training has given up."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.training.optim import param_names
from rsclip_jax.training.state import State
from rsclip_jax.training.step import compared_fields


def diagnose(model: nn.Module, loss_fn: Callable, state: State, batch: dict, config: Any) -> str:
    """Name the parameters, embeddings, loss terms and gradients that are not finite."""
    params = state["params"]
    (_, terms), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        params, batch, state["step"]
    )
    names = jax.tree.leaves(param_names(params))

    def bad(labels, values) -> str:
        found = [n for n, v in zip(labels, values, strict=True) if not jnp.isfinite(v).all()]
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        return f"{len(found)} of {len(labels)}" + (f": {shown}" if found else "")

    embeddings, scale = [], []
    if config.task == "clip":
        inputs = {k: batch[k] for k in compared_fields(config).values()}
        out: Any = jax.jit(lambda p, x: model.apply({"params": p}, **x))(params, inputs)
        embeddings = [f"  embeddings  {bad(list(out), out.values())}"]
        scale = [f"  logit scale {float(out['t']):.4g}"]
    return "\n".join(
        [
            f"not finite at step {int(state['step'])}, at the last good parameters:",
            f"  parameters  {bad(names, jax.tree.leaves(params))}",
            *embeddings,
            f"  loss terms  {bad(list(terms), terms.values())}",
            f"  gradients   {bad(names, jax.tree.leaves(grads))}",
            *scale,
            "Parameters not finite: start from an earlier checkpoint. Embeddings: the input or the "
            f"dtype ({config.model.dtype}). Otherwise lower config.lr={config.lr:g}, raise "
            "config.warmup_steps, or set config.grad_clip_norm and config.loss.max_scale.",
        ]
    )
