"""What a translator is trained by: distances, and the two sides of an adversarial game.

Each is a mean over the rows that `mask_B` keeps; 0 if it keeps none.
"""

import jax
import jax.numpy as jnp


def row_mean(x: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Return the mean of x [B, ...] over the rows that the mask keeps."""
    rows = jnp.mean(x.reshape(len(x), -1), axis=1)
    return jnp.sum(rows * mask_B) / jnp.maximum(jnp.sum(mask_B), 1)


def l1(made: jax.Array, true: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Return the mean absolute difference."""
    return row_mean(jnp.abs(made - true), mask_B)


def generator_loss(of_made: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Return how far what is made is from being judged true (LSGAN, arXiv 1611.04076, eq. 9)."""
    return 0.5 * row_mean(jnp.square(of_made - 1), mask_B)


def discriminator_loss(of_true: jax.Array, of_made: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Return how far the judgements are from 1 of what is true and 0 of what is made."""
    wrong = row_mean(jnp.square(of_true - 1), mask_B) + row_mean(jnp.square(of_made), mask_B)
    return 0.5 * wrong
