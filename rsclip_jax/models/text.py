"""The text tower: CLIP's causal transformer, pooled at the end-of-text token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.models.blocks import Tower, Transformer, layer_norm


class TextTower(nn.Module):
    """Causal transformer read at the first `eot_id` of each row.

    Call with [B, L] int32 ids, L <= context_length; returns [B, embed_dim] float32, not
    L2-normalised. What follows the end-of-text token cannot change the result, so a short caption
    is encoded at a short L with the same outcome.
    """

    tower: Tower
    context_length: int
    vocab_size: int
    eot_id: int
    embed_dim: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        cfg, length = self.tower, ids.shape[1]
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
        x = table[ids].astype(cfg.dtype) + positions[:length].astype(cfg.dtype)
        eot = jnp.argmax(ids == self.eot_id, axis=1)
        x = Transformer(cfg, causal=True, name="transformer")(x, at=eot)[:, 0]
        x = layer_norm("ln_final")(x)
        proj_init = nn.initializers.normal(cfg.width**-0.5)
        proj = self.param("proj", proj_init, (cfg.width, self.embed_dim))
        return jnp.dot(x.astype(cfg.dtype), proj.astype(cfg.dtype)).astype(jnp.float32)
