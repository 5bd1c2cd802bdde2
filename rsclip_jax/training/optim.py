"""The optimiser: AdamW with warm-up and cosine, frozen parameters and frozen rows."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def learning_rate(lr: float, warmup_steps: int, total_steps: int) -> Callable:
    """Return step -> learning rate: lr (step + 1) / warmup_steps, then a cosine down to 0.

    Long-CLIP's schedule: at step = warmup_steps the rate is `lr`, at total_steps it would be 0.
    """

    def schedule(step):
        warm = (step + 1) / max(warmup_steps, 1)
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        return lr * jnp.where(step < warmup_steps, warm, cosine)

    return schedule


def param_names(params: Any) -> Any:
    """Map every leaf to its name, keys joined by "/": `img/transformer/blocks/mlp/fc1/kernel`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(key.key) for key in path), params
    )


def rate_factors(params: Any, schedule: tuple) -> Any:
    """Map every leaf to its learning-rate factor, or to "frozen".

    Args:
      schedule: pairs (regular expression, factor or None); the first whole match decides.

    Raises:
      ValueError: a parameter that no pattern matches, or a pattern that matches nothing.
    """
    used = set()

    def factor(name: str):
        for pattern, value in schedule:
            if re.fullmatch(pattern, name):
                used.add(pattern)
                return "frozen" if value is None else float(value)
        raise ValueError(f"config.schedule: no pattern matches parameter {name!r}; end with '.*'")

    factors = jax.tree.map(factor, param_names(params))
    idle = [p for p, _ in schedule if p not in used and p != ".*"]
    if idle:
        raise ValueError(
            f"config.schedule: {idle} decide no parameter (regular expressions match whole names "
            "such as 'img/transformer/blocks/mlp/fc1/kernel')"
        )
    return factors


def describe_params(config: Any, params: Any) -> str:
    """Say how many parameters there are, how many are trained, and whether the temperature is."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    trained = trained_parameters(config, params)
    scale = "t" in params and "t" not in trained_names(config, params)
    still = "; the temperature is frozen (config.schedule)" if scale else ""
    return f"{config.model.variant}: {size:,} parameters, {trained:,} trained{still}"


def trained_parameters(config: Any, params: Any) -> int:
    """Count the parameters that `config.schedule` does not freeze."""
    names = trained_names(config, params)
    sizes = zip(jax.tree.leaves(param_names(params)), jax.tree.leaves(params), strict=True)
    return sum(leaf.size for name, leaf in sizes if name in names)


def trained_names(config: Any, params: Any) -> frozenset[str]:
    """Return the names of the parameters that `config.schedule` does not freeze."""
    factors = rate_factors(params, tuple(config.schedule))
    pairs = zip(jax.tree.leaves(param_names(params)), jax.tree.leaves(factors), strict=True)
    return frozenset(name for name, factor in pairs if factor != "frozen")


def decay_mask(params: Any, patterns: tuple[str, ...]) -> Any:
    """Map every leaf to whether weight decay applies: some pattern matches its whole name."""
    return jax.tree.map(
        lambda name: any(re.fullmatch(p, name) for p in patterns), param_names(params)
    )


def make_optimizer(config: Any, params: Any, total_steps: int) -> optax.GradientTransformation:
    """Build AdamW as `config` sets it. Frozen parameters have no optimiser state.

    Decay is decoupled and multiplied by the learning rate, as in torch's AdamW. The rows named by
    `config.frozen_positions` have their *update* masked: a zero gradient alone would still let
    weight decay move them.
    """
    factors = rate_factors(params, tuple(config.schedule))
    mask = decay_mask(params, tuple(config.wd_mask))
    lr = learning_rate(config.lr, config.warmup_steps, total_steps)
    trained = optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm)
        if config.grad_clip_norm
        else optax.identity(),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.wd, mask=lambda p: _pick(mask, p)),
        optax.stateless(lambda u, p: jax.tree.map(lambda x, f: x * f, u, _pick(factors, u))),
        optax.scale_by_learning_rate(lr),
        optax.stateless(lambda u, p: _freeze_rows(u, config.frozen_positions)),
    )
    labels = jax.tree.map(lambda f: "frozen" if f == "frozen" else "trained", factors)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def _pick(values: Any, like: Any) -> Any:
    """Take from `values` what stands where `like` has leaves (optax masks out the frozen ones)."""
    return jax.tree.map(
        lambda leaf, value: leaf if isinstance(leaf, optax.MaskedNode) else value,
        like,
        values,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )


def _freeze_rows(updates: Any, rows: int) -> Any:
    if not rows:
        return updates
    table = updates["txt"]["pos_embedding"]
    if not isinstance(table, optax.MaskedNode):
        kept = jnp.arange(table.shape[0])[:, None] < rows
        table = jnp.where(kept, 0, table)
        updates = {**updates, "txt": {**updates["txt"], "pos_embedding": table}}
    return updates
