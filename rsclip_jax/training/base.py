"""What checkpoints do not hold: frozen parameters, which lie unchanged where the run started from.

A checkpoint notes which parameters it leaves to that base, and a fingerprint of all of the base's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rsclip_jax.training.optim import param_names, rate_factors


class Base(NamedTuple):
    """The model at `config.init_from`, and what checkpoints leave to it.

    Attributes:
      checksum: of its parameters as they were read, before positions were stretched.
      step: its checkpoint, 0 for weights of another codebase.
      leaves: names of the parameters that are read from there.
    """

    checksum: int
    step: int
    leaves: tuple[str, ...]


def base_of(config: ConfigDict, source: Any, step: int, params: Any) -> Base | None:
    """Find what checkpoints can leave to the base; None if that is nothing.

    Args:
      source: the base's parameters as they were read.
      step: of the base.
      params: those that training starts with, made from `source`: what was only handed on is the
        same array. What was added, stretched or resampled is no part of the base.
    """
    factors = jax.tree.leaves(rate_factors(params, tuple(config.schedule)))
    there = named(source)
    frozen = tuple(
        name
        for (name, leaf), factor in zip(named(params).items(), factors, strict=True)
        if factor == "frozen"
        and name in there
        and leaf is there[name]
        # The clamp moves even a frozen temperature.
        and (leaf.ndim or not config.loss.max_scale)
    )
    return Base(checksum(source), step, frozen) if frozen else None


def named(params: Any) -> dict[str, Any]:
    """Return name -> leaf."""
    names, leaves = jax.tree.leaves(param_names(params)), jax.tree.leaves(params)
    return dict(zip(names, leaves, strict=True))


def without(params: Any, leaves: tuple[str, ...], prefix: str = "") -> Any:
    """Leave out the parameters of these names, and the groups that are then empty."""
    kept = {
        key: without(value, leaves, f"{prefix}{key}/") if isinstance(value, dict) else value
        for key, value in params.items()
        if prefix + key not in leaves
    }
    return {
        key: value for key, value in kept.items() if not (isinstance(value, dict) and not value)
    }


def joined(params: Any, leaves: dict[str, Any]) -> Any:
    """Undo `without`: put the leaves, by name, into the tree."""
    whole = {k: joined(v, {}) if isinstance(v, dict) else v for k, v in params.items()}
    for name, leaf in leaves.items():
        *groups, last = name.split("/")
        node = whole
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = leaf
    return whole


def checksum(tree: Any) -> int:
    """Sum the bits of 32-bit arrays, each weighted by its place; exact on any sharding."""
    return int(_bit_sum(jax.tree.leaves(tree)))


@jax.jit
def _bit_sum(leaves: list[jax.Array]) -> jax.Array:
    total = jnp.uint32(0)
    for leaf in leaves:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32).ravel()
        total = total * jnp.uint32(31) + jnp.sum(
            bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1)
        )
    return total
