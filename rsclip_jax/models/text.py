"""The text tower: CLIP's causal transformer, pooled at the end-of-text token."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.models.blocks import LayerNorm, Tower, Transformer


class TextTower(nn.Module):
    """Causal transformer read at the first `eot_id` of each row.

    Call with [B, L] int32 ids, L <= context_length; returns [B, embed_dim] float32, not
    L2-normalised. What follows the end-of-text token cannot change the result, so a short caption
    is encoded at a short L with the same outcome.

    Texts share rows where `starts` tells the slot at which each begins (data/packing.py): ids
    [G, N, L], starts [G, N] and `rows`, the number of rows of a group and their length, give
    [G, N, embed_dim].
    """

    tower: Tower
    context_length: int
    vocab_size: int
    eot_id: int
    embed_dim: int

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        starts: jax.Array | None = None,
        rows: tuple[int, int] = (0, 0),
    ) -> jax.Array:
        cfg, length = self.tower, ids.shape[-1]
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens per text: the model has {self.context_length} positions; "
                "raise config.model.context_length or lower config.input.lengths"
            )
        table = self.param(
            "token_embedding", nn.initializers.normal(0.02), (self.vocab_size, cfg.width)
        )
        positions = self.param(
            "pos_embedding", nn.initializers.normal(0.01), (self.context_length, cfg.width)
        )
        eot = jnp.argmax(ids == self.eot_id, axis=-1)
        transformer = Transformer(cfg, causal=True, name="transformer")
        if starts is None:
            x = table[ids].astype(cfg.dtype) + positions[:length].astype(cfg.dtype)
            x = transformer(x, at=eot)[:, 0]
        else:
            count, row_length = rows
            laid_out = jax.vmap(partial(lay_out, slots=count * row_length))(ids, starts)
            tokens, places, segments = (x.reshape(-1, row_length) for x in laid_out)
            # The gradient of a place is summed over its many tokens: in float32.
            x = table[tokens].astype(cfg.dtype) + positions[places].astype(cfg.dtype)
            x = transformer(x, at=starts + eot, segments=segments)
        x = LayerNorm(cfg.dtype, cfg.scan, cfg.epsilon, name="ln_final")(x)
        proj_init = nn.initializers.normal(cfg.width**-0.5)
        proj = self.param("proj", proj_init, (cfg.width, self.embed_dim))
        return jnp.dot(x, proj.astype(cfg.dtype)).astype(jnp.float32)


def lay_out(ids_NxL: jax.Array, starts_N: jax.Array, slots: int) -> tuple[jax.Array, ...]:
    """Put the tokens of N texts into as many slots, each text from its start on.

    Returns:
      Of each slot, int32 [slots]: the token, its place in its text, and the start of that text. A
      text goes on, behind its row of ids too, up to the next one's start.
    """
    begins = jnp.zeros(slots, jnp.int32).at[starts_N].set(starts_N)
    start = jax.lax.cummax(begins)
    place = jnp.minimum(jnp.arange(slots) - start, ids_NxL.shape[1] - 1)
    text = jnp.zeros(slots, jnp.int32).at[starts_N].set(jnp.arange(len(starts_N)))[start]
    return ids_NxL[text, place], place, start
