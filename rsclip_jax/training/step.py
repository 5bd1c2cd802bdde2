"""One step of training: a pure function of the state and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rsclip_jax.losses.pairs import pair_weights, text_keys, total_loss
from rsclip_jax.models.clip import CLIP
from rsclip_jax.sharding import batch_shards, on_mesh
from rsclip_jax.training.optim import learning_rate, rate_factors
from rsclip_jax.training.state import State

MOVING = ("params", "opt_state", "ema")  # what a step changes, beside the counters
# The field of a batch that an embedding of config.loss_pairs is made from.
FIELDS = {"img": "image", "ir": "ir", "txt": "text", "txt_long": "text_long", "txt_ir": "text_ir"}


def compared_fields(config: Any) -> dict[str, str]:
    """Return the embeddings that the loss compares and the fields of a batch they are made from.

    With `config.input.ir_text_source` "caption" the text of the infrared image is `text`.
    """
    names = {name for a, b, _ in config.loss_pairs for name in (a, b)}
    fields = {name: field for name, field in FIELDS.items() if name in names}
    if "txt_ir" in fields and config.input.ir_text_source == "caption":
        fields["txt_ir"] = "text"
    return fields


def text_rows(config: Any) -> tuple[tuple[str, ...], int]:
    """Return the texts that the loss compares, as fields of a batch, and the greatest length."""
    fields = tuple(
        dict.fromkeys(f for f in compared_fields(config).values() if f.startswith("text"))
    )
    return fields, max((config.input.lengths[field] for field in fields), default=0)


def embed(
    model: CLIP,
    params: Any,
    batch: dict,
    micro_batches: int,
    shards: int = 1,
    rows: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """Return the model's output for a batch, computed in so many parts, one after the other.

    Gradients through it are those of the whole batch, at the memory of one part: a part's
    activations are computed anew when its turn comes in the backward pass (gradient caching,
    arXiv 2101.06983).

    Args:
      batch: the model's inputs by name, [B, ...]; micro_batches divides B. With `starts`
        [B, fields] the texts of each of `shards` share `rows` (number, length) in each part.
    """

    def apply(**inputs):
        if "starts" in inputs:
            starts = inputs["starts"]
            inputs |= {"starts": starts.reshape(shards, -1, starts.shape[1]), "rows": rows}
        return model.apply({"params": params}, **inputs)

    if micro_batches == 1:
        return apply(**batch)

    def one(_, part):
        out = apply(**part)
        return None, {name: x for name, x in out.items() if name.startswith("z")}

    # Every micro_batches-th row: each device cuts its own rows, and none is sent.
    parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
    z = jax.lax.scan(jax.checkpoint(one), None, parts)[1]
    z = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, x.shape[-1]), z)
    return {**apply(), **z}


def make_loss(
    model: CLIP, config: Any, mesh: Mesh, total_steps: int, packed_rows: int = 0
) -> Callable:
    """Return (params, batch, step) -> (loss, metrics) over the global batch.

    With `packed_rows` the texts of a device share so many rows, as the batch's `starts` say.
    """
    shards = batch_shards(mesh) if mesh else 1
    rows = (packed_rows, text_rows(config)[1])
    fields = compared_fields(config)
    embeddings = {field: name for name, field in FIELDS.items()}

    def loss_fn(params, batch, step):
        inputs = {field: batch[field] for field in set(fields.values())}
        if packed_rows:
            inputs["starts"] = batch["starts"]
        with on_mesh(mesh):
            out = embed(model, params, inputs, config.grad_cache_steps, shards, rows)
        out |= {"z" + name: out["z" + embeddings[field]] for name, field in fields.items()}
        masks = {"ir": batch["ir_mask"]} if "ir" in fields else {}
        same: dict[str, jax.Array] = {}
        if config.loss.mask_same_text:
            texts = {name: field for name, field in fields.items() if name.startswith("txt")}
            same = {name: text_keys(batch[field]) for name, field in texts.items()}
        # Names for profiles; Flax gives them to the towers.
        return jax.named_scope("loss")(_loss_of)(
            config, out, step, total_steps, masks=masks, same=same, records=batch["record"],
            mesh=mesh,
        )  # fmt: skip

    return loss_fn


def check_loss(config: Any) -> None:
    """Trace the loss without a model, so that options that do not go together are told.

    Raises:
      ValueError: names the options of config.loss, or the pair of config.loss_pairs.
    """
    names = compared_fields(config)
    out: dict[str, Any] = {f"z{name}": jnp.zeros((2, 2)) for name in names}
    out |= {"t": jnp.ones(()), "b": jnp.ones(())}
    masks = {"ir": jnp.ones(2, bool)} if "ir" in names else {}
    jax.eval_shape(lambda out: _loss_of(config, out, 0, 1, masks=masks), out)


def _loss_of(config: Any, out: dict, step: Any, total_steps: int, **given: Any) -> tuple:
    loss, loss_pairs = config.loss, tuple(tuple(pair) for pair in config.loss_pairs)
    return total_loss(
        out,
        loss_pairs,
        kind=loss.kind,
        label_smoothing=loss.label_smoothing,
        pcm_dim=loss.pcm_dim,
        stop_gradient_gather=loss.stop_gradient_gather,
        normalize=loss.normalize,
        mean=loss.get("mean", "present"),
        weights=pair_weights(step, total_steps, loss_pairs, loss.curriculum),
        impl=loss.impl,
        chunk=loss.chunk,
        **given,
    )


def average_decay(decay: float, updates: jax.Array | int) -> jax.Array:
    """Return the share of the average that the next update leaves: min(decay, (1 + t) / (10 + t)).

    The average begins at the initial weights. At a constant `decay` their share after T updates is
    decay**T, a third and more of runs shorter than 1 / (1 - decay); here it falls below 1 % after
    the third update. (TensorFlow's ExponentialMovingAverage calls it `num_updates`.)

    Args:
      updates: t, those that the average has had.
    """
    return jnp.minimum(decay, (1 + updates) / (10 + updates))


def make_train_step(
    full_loss: Callable, tx: optax.GradientTransformation, config: Any, total_steps: int
) -> Callable[[State, dict], tuple[State, dict]]:
    """Return (state, batch) -> (state, metrics).

    A step whose loss or gradient is not finite changes nothing but the counters: `step`,
    `bad_steps` (such steps in a row) and `bad_steps_total`. Metrics are scalars.

    Args:
      full_loss: (params, batch, step) -> (loss, metrics), as `make_loss` returns it.
    """
    lr = learning_rate(config.lr, config.warmup_steps, total_steps)

    def loss_fn(params, batch, step):
        # The backward pass of what is frozen is left out.
        factors = rate_factors(params, tuple(config.schedule))
        trained = jax.tree.map(
            lambda p, f: jax.lax.stop_gradient(p) if f == "frozen" else p, params, factors
        )
        return full_loss(trained, batch, step)

    def train_step(state: State, batch: dict) -> tuple[State, dict]:
        step, params = state["step"], state["params"]
        scales = [k for k in params if k == "t" or k.startswith("t_")]
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, step)
        l2_grads = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(l2_grads)

        @jax.named_scope("optimizer")
        def update() -> dict:
            updates, opt_state = tx.update(grads, state["opt_state"], params)
            new_params = optax.apply_updates(params, updates)
            if scales and config.loss.max_scale:
                greatest = jnp.log(config.loss.max_scale)
                new_params |= {k: jnp.minimum(new_params[k], greatest) for k in scales}
            new = {"params": new_params, "opt_state": opt_state}
            if config.ema_decay:
                taken = 1 - average_decay(config.ema_decay, step - state["bad_steps_total"])
                # In this form a parameter that does not move is averaged to itself, bit by bit.
                new["ema"] = jax.tree.map(
                    lambda e, p: e + taken * (p - e), state["ema"], new_params
                )
            return new

        # A branch, not a choice leaf by leaf: that would be another pass over the whole state.
        new = jax.lax.cond(good, update, lambda: {k: state[k] for k in MOVING if k in state})
        bad_steps = jnp.where(good, 0, state["bad_steps"] + 1)
        bad_steps_total = state["bad_steps_total"] + ~good
        metrics |= {
            "training_loss": loss,
            "l2_grads": l2_grads,
            "l2_params": optax.tree.norm(new["params"]),
            "lr": lr(step - state["bad_steps_total"]),  # a bad step is no step of the schedule
            **{f"scale{k[1:]}": jnp.exp(params[k]) for k in scales},
            "bad_steps": bad_steps,
            "bad_steps_total": bad_steps_total,
        }
        counters = {"step": step + 1, "bad_steps": bad_steps, "bad_steps_total": bad_steps_total}
        return {**counters, **new}, metrics

    return train_step
