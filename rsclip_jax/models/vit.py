"""The image tower: CLIP's Vision Transformer, shared by RGB and infrared images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.models.blocks import Tower, Transformer, layer_norm


class PatchEmbedding(nn.Module):
    """Cut the image into patches and project each: a strided convolution written as one matmul."""

    patch_size: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        p = self.patch_size
        batch, height, width, channels = x_BxHxWxC.shape
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
            (p, p, channels, self.width),
        )
        x = x_BxHxWxC.astype(self.dtype).reshape(batch, height // p, p, width // p, p, channels)
        x = x.swapaxes(2, 3).reshape(batch, -1, p * p * channels)
        return x @ kernel.astype(self.dtype).reshape(-1, self.width)


class VisionTower(nn.Module):
    """ViT with class token, LayerNorm before and after, and a linear projection.

    Call with [B, S, S, 3] normalised images; returns [B, embed_dim] float32, not L2-normalised.
    """

    tower: Tower
    patch_size: int
    image_size: int
    embed_dim: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        cfg, size = self.tower, self.image_size
        if image.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images of shape {image.shape[1:]}: expected ({size}, {size}, 3); "
                "config.model.image_size sets it"
            )
        x = PatchEmbedding(self.patch_size, cfg.width, cfg.dtype, name="embedding")(image)
        init = nn.initializers.normal(cfg.width**-0.5)
        cls = self.param("cls", init, (cfg.width,))
        positions = self.param("pos_embedding", init, (1 + x.shape[1], cfg.width))
        cls = jnp.broadcast_to(cls.astype(cfg.dtype), (x.shape[0], 1, cfg.width))
        x = jnp.concatenate([cls, x], axis=1) + positions.astype(cfg.dtype)
        x = layer_norm("ln_pre")(x).astype(cfg.dtype)
        first = jnp.zeros(x.shape[0], jnp.int32)
        x = Transformer(cfg, name="transformer")(x, at=first)[:, 0]
        x = layer_norm("ln_post")(x)
        proj = self.param("proj", init, (cfg.width, self.embed_dim))
        return jnp.dot(x.astype(cfg.dtype), proj.astype(cfg.dtype)).astype(jnp.float32)
