"""From an RGB image to an infrared one: a U-Net that predicts it, at once or in steps.

Infrared levels are one channel in [-1, 1]. Both kinds start from the luma, so that an untrained one
gives the grayscale image.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.data.free_infrared import LUMA

VARIANTS = ("pix2pix", "bridge")
GROUPS = 8  # of the channels that are normalised together
TIME_FEATURES = 64


class Block(nn.Module):
    """Two convolutions, normalised by groups; with `time` [B, D] scaled and shifted by it."""

    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        for _ in range(2):
            x = nn.Conv(self.width, (3, 3), dtype=self.dtype)(x)
            x = nn.GroupNorm(GROUPS, dtype=self.dtype)(x)
            if time is not None:
                change = nn.Dense(2 * self.width, dtype=self.dtype)(time)[:, None, None]
                scale, shift = jnp.split(change, 2, axis=-1)
                x = x * (1 + scale) + shift
            x = nn.silu(x)
        return x


class UNet(nn.Module):
    """A U-Net whose levels halve the image and double the channels, up to eight times `width`."""

    width: int
    depth: int
    dtype: str

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, time_B: jax.Array | None = None) -> jax.Array:
        """Return float32 [B, H, W, 1], zeros before training; 2^depth divides H and W."""
        time = None
        if time_B is not None:
            time = nn.silu(nn.Dense(4 * self.width, dtype=self.dtype)(_waves(time_B)))
        widths = [self.width * min(2**level, 8) for level in range(self.depth + 1)]
        x = x_BxHxWxC.astype(self.dtype)
        skips = []
        for width in widths[:-1]:
            x = Block(width, self.dtype)(x, time)
            skips.append(x)
            x = nn.Conv(width, (4, 4), strides=2, dtype=self.dtype)(x)
        x = Block(widths[-1], self.dtype)(x, time)
        for width, skip in zip(widths[-2::-1], skips[::-1], strict=True):
            # Not a transposed convolution, whose kernels overlap unevenly: that shows as squares.
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = nn.Conv(width, (3, 3), dtype=self.dtype)(x)
            x = Block(width, self.dtype)(jnp.concatenate([x, skip], axis=-1), time)
        zeros = nn.initializers.zeros
        return nn.Conv(1, (3, 3), kernel_init=zeros, dtype=jnp.float32)(x)


class PatchDiscriminator(nn.Module):
    """Tell true infrared images from made ones, patch by patch of 70 x 70 pixels.

    pix2pix (arXiv 1611.07004), appendix 6.1.2, with groups normalised instead of batches: a row's
    result does not depend on the others.
    """

    width: int
    dtype: str

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        """Return float32 [B, H / 8, W / 8], high where true."""
        x = x_BxHxWxC.astype(self.dtype)
        for level, stride in enumerate((2, 2, 2, 1)):
            x = nn.Conv(self.width * 2**level, (4, 4), strides=stride, dtype=self.dtype)(x)
            if level:
                x = nn.GroupNorm(GROUPS, dtype=self.dtype)(x)
            x = nn.leaky_relu(x, 0.2)
        return nn.Conv(1, (4, 4), dtype=jnp.float32)(x)[..., 0]


class Translator(nn.Module):
    """A translator of RGB images [B, S, S, 3], uint8 or float in [-1, 1].

    Its parameters have the roots `gen` and, of "pix2pix", `disc`.

    Attributes:
      variant: "pix2pix" predicts the image and has a discriminator; "bridge" predicts it from any
        point of a Brownian bridge between the luma and it.
      width, depth: channels of the first level, number of halvings.
      image_size: S in training and evaluation.
      noise: of a bridge, whose standard deviation at `time` is noise sqrt(time (1 - time)).
      steps: of a bridge.
    """

    variant: str
    width: int
    depth: int
    image_size: int
    noise: float
    steps: int
    dtype: str = "float32"

    def setup(self):
        self.gen = UNet(self.width, self.depth, self.dtype)
        if self.variant == "pix2pix":
            self.disc = PatchDiscriminator(self.width, self.dtype)

    def predict(
        self, image: jax.Array, x: jax.Array | None = None, time: jax.Array | None = None
    ) -> jax.Array:
        """Return the infrared image [B, S, S, 1]; of a bridge, from x (like it) at `time` [B]."""
        given = unit(image) if x is None else jnp.concatenate([unit(image), x], axis=-1)
        return luma(image) + self.gen(given, time)

    def realness(self, image: jax.Array, ir: jax.Array) -> jax.Array:
        """Return the discriminator's judgement of an infrared image [B, S, S, 1] of `image`."""
        return self.disc(jnp.concatenate([unit(image), ir], axis=-1))

    def __call__(self, image: jax.Array) -> jax.Array:
        """Use every part once, as a training step does; to make parameters and count FLOPs."""
        if self.variant == "bridge":
            return self.predict(image, luma(image), jnp.zeros(len(image)))
        return self.realness(image, self.predict(image))


def translate(model: Translator, params: Any, image: jax.Array, rng: jax.Array) -> jax.Array:
    """Return the infrared images [B, S, S, 1] of RGB images [B, S, S, 3].

    A bridge goes from the luma to what is predicted, a part of the way at each step, with the noise
    of a Brownian bridge, and ends in a prediction; after I2SB (arXiv 2302.05872).

    Args:
      rng: of a bridge's noise, which is the same for all images.
    """

    def predict(*given: jax.Array) -> Any:
        return model.apply({"params": params}, image, *given, method="predict")

    if model.variant == "pix2pix":
        return predict()

    def step(number: jax.Array, x: jax.Array) -> jax.Array:
        time, later = number / model.steps, (number + 1) / model.steps
        way = (later - time) / (1 - time)
        noise = jax.random.normal(jax.random.fold_in(rng, number), (*image.shape[1:3], 1))
        x += way * (predict(x, jnp.full(len(image), time)) - x)
        return x + model.noise * jnp.sqrt(way * (1 - later)) * noise

    return jax.lax.fori_loop(0, model.steps, step, luma(image))


def on_bridge(
    model: Translator, image: jax.Array, ir: jax.Array, time: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return points [B, S, S, 1] between luma and infrared image at `time` [B] in [0, 1].

    Args:
      noise: standard normal [B, S, S, 1].
    """
    time = time[:, None, None, None]
    spread = model.noise * jnp.sqrt(time * (1 - time))
    return (1 - time) * luma(image) + time * ir + spread * noise


def unit(image: jax.Array) -> jax.Array:
    """Bring uint8 to [-1, 1]; float stays as it is."""
    return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def luma(image: jax.Array) -> jax.Array:
    """Return the grey levels of RGB images [..., 3]: [..., 1] in [-1, 1]."""
    return jnp.sum(unit(image) * jnp.array(LUMA), axis=-1, keepdims=True)


def build(config: Mapping[str, Any]) -> Translator:
    """Make the translator that `config.model` describes (fields: configs/translator.py).

    Raises:
      ValueError: unknown variant, or sizes that do not go together.
    """
    model = Translator(
        **{k: config[k] for k in ("variant", "width", "depth", "image_size", "noise", "steps")},
        dtype=config["dtype"],
    )
    if model.variant not in VARIANTS:
        raise ValueError(f"config.model.variant={model.variant!r}: one of {', '.join(VARIANTS)}")
    if model.width < GROUPS or model.width % GROUPS:
        raise ValueError(f"config.model.width={model.width}: expected a multiple of {GROUPS}")
    if model.depth < 1 or model.image_size < 1 or model.image_size % 2**model.depth:
        raise ValueError(
            f"config.model.image_size={model.image_size}, config.model.depth={model.depth}: "
            "expected a multiple of 2^depth pixels, depth 1 or more"
        )
    if model.steps < 1 or model.noise < 0:
        raise ValueError(
            f"config.model.steps={model.steps}, config.model.noise={model.noise}: expected 1 or "
            "more, 0 or more"
        )
    return model


def init_params(model: Translator, rng: jax.Array) -> dict:
    """Initialise parameters (float32, random)."""
    image = jnp.zeros((1, model.image_size, model.image_size, 3), jnp.float32)
    return model.init(rng, image)["params"]


def described(model: Translator) -> str:
    """Say how the model computes."""
    return f"convolutions in {model.dtype}"


def _waves(time_B: jax.Array) -> jax.Array:
    """Return sines and cosines [B, TIME_FEATURES] of the time, of 1/4 to 250 turns."""
    rates = 2 * jnp.pi * 0.25 * 1000 ** jnp.linspace(0, 1, TIME_FEATURES // 2)
    angles = time_B[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
