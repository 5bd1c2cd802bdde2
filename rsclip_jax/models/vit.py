"""The image tower: CLIP's Vision Transformer, for RGB and infrared images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.models.blocks import LayerNorm, Tower, Transformer

Wavelengths = tuple[float, ...]  # of the channels, in micrometres; () where nobody asks


class Spectrum(nn.Module):
    """What wavelengths add to the kernels of their channels, [p, p, C, D] for C wavelengths.

    As in DOFA (arXiv 2403.15356) a small network makes the kernel of a channel from its wavelength;
    here it mixes a few learned kernels, and adds to the base's own. These are zero at first: so is
    what they add.
    """

    patch_size: int
    width: int
    kernels: int = 8
    hidden: int = 64

    @nn.compact
    def __call__(self, wavelengths_C: Wavelengths) -> jax.Array:
        octaves_Cx1 = jnp.log2(jnp.array(wavelengths_C, jnp.float32))[:, None]
        angles_CxF = octaves_Cx1 * jnp.pi * 2.0 ** jnp.arange(-3, 3)  # periods of 16 to 1/2 octaves
        features = jnp.concatenate([jnp.sin(angles_CxF), jnp.cos(angles_CxF)], axis=1)
        mix_CxK = nn.Dense(self.kernels, name="fc2")(
            jnp.tanh(nn.Dense(self.hidden, name="fc1")(features))
        )
        shape = (self.kernels, self.patch_size, self.patch_size, self.width)
        learned = self.param("kernels", nn.initializers.zeros, shape)
        return jnp.einsum("ck,kpqd->pqcd", mix_CxK, learned)


class PatchEmbedding(nn.Module):
    """Cut the image into patches and project each: a strided convolution written as one matmul."""

    patch_size: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, wavelengths: Wavelengths = ()) -> jax.Array:
        p = self.patch_size
        batch, height, width, channels = x_BxHxWxC.shape
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
            (p, p, channels, self.width),
        )
        if wavelengths:
            kernel += Spectrum(p, self.width, name="spectrum")(wavelengths)
        x = x_BxHxWxC.astype(self.dtype).reshape(batch, height // p, p, width // p, p, channels)
        x = x.swapaxes(2, 3).reshape(batch, -1, p * p * channels)
        return x @ kernel.astype(self.dtype).reshape(-1, self.width)


class VisionTower(nn.Module):
    """ViT with class token, LayerNorm before and after, and a linear projection.

    Call with [B, S, S, 3] normalised images, and the wavelengths of the three channels if the
    model looks at them; returns [B, embed_dim] float32, not L2-normalised.
    """

    tower: Tower
    patch_size: int
    image_size: int
    embed_dim: int

    @nn.compact
    def __call__(self, image: jax.Array, wavelengths: Wavelengths = ()) -> jax.Array:
        cfg, size = self.tower, self.image_size
        if image.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images of shape {image.shape[1:]}: expected ({size}, {size}, 3); "
                "config.model.image_size sets it"
            )
        embedding = PatchEmbedding(self.patch_size, cfg.width, cfg.dtype, name="embedding")
        x = embedding(image, wavelengths)
        init = nn.initializers.normal(cfg.width**-0.5)
        cls = self.param("cls", init, (cfg.width,))
        positions = self.param("pos_embedding", init, (1 + x.shape[1], cfg.width))
        cls = jnp.broadcast_to(cls.astype(cfg.dtype), (x.shape[0], 1, cfg.width))
        x = jnp.concatenate([cls, x], axis=1) + positions.astype(cfg.dtype)
        x = LayerNorm(cfg.dtype, cfg.scan, cfg.epsilon, name="ln_pre")(x)
        first = jnp.zeros(x.shape[0], jnp.int32)
        x = Transformer(cfg, name="transformer")(x, at=first)[:, 0]
        x = LayerNorm(cfg.dtype, cfg.scan, cfg.epsilon, name="ln_post")(x)
        proj = self.param("proj", init, (cfg.width, self.embed_dim))
        return jnp.dot(x, proj.astype(cfg.dtype)).astype(jnp.float32)
