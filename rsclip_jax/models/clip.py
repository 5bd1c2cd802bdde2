"""CLIP for RGB images, infrared images and text of any length."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rsclip_jax.models import attention, peft
from rsclip_jax.models.blocks import Tower
from rsclip_jax.models.text import TextTower
from rsclip_jax.models.vit import VisionTower

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RGB_WAVELENGTHS = (0.665, 0.56, 0.49)  # micrometres, of Sentinel-2's red, green and blue
MAX_IMAGE_SIZE = 2**13  # in pixels; with patches of 16 a quarter of a million of them
IR_TOWERS = ("shared", "lora", "separate")


class Sizes(NamedTuple):
    """Size of a CLIP, and the image size and activation of the weights published at that size."""

    patch_size: int
    image_width: int
    image_depth: int
    image_heads: int
    text_width: int
    text_depth: int
    text_heads: int
    embed_dim: int
    image_size: int
    activation: str = "quick_gelu"


VARIANTS = {
    "tiny": Sizes(8, 96, 3, 3, 64, 2, 2, 64, 64),
    "small": Sizes(16, 192, 4, 3, 128, 2, 2, 128, 96),
    "B/32": Sizes(32, 768, 12, 12, 512, 12, 8, 512, 224),
    "B/16": Sizes(16, 768, 12, 12, 512, 12, 8, 512, 224),
    "L/14": Sizes(14, 1024, 24, 16, 768, 12, 12, 768, 224),
    "L/14-336": Sizes(14, 1024, 24, 16, 768, 12, 12, 768, 336),
    "H/14": Sizes(14, 1280, 32, 16, 1024, 24, 16, 1024, 224, "gelu"),
}


class CLIP(nn.Module):
    """Two towers and a temperature.

    Parameters are a plain nested dict with the roots `img`, `txt`, `t` (logarithm of the logit
    scale); with `logit_bias`, `b` (SigLIP's bias); for each pair in `own_scale`, `t_PAIR`; and
    `ir`, where infrared images have a tower of their own, or an update of the shared one.
    """

    image: Tower
    text: Tower
    patch_size: int
    image_size: int
    context_length: int
    vocab_size: int
    eot_id: int
    embed_dim: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    init_scale: float = 1 / 0.07
    logit_bias: bool = False
    own_scale: tuple[str, ...] = ()
    ir_tower: str = "shared"
    ir_lora: peft.Peft = peft.NONE
    ir_wavelength: float = 0.0

    def setup(self):
        tower = (self.image, self.patch_size, self.image_size, self.embed_dim)
        self.img = VisionTower(*tower)
        if self.ir_tower == "separate":
            self.ir = VisionTower(*tower)
        elif self.ir_tower == "lora":
            self.ir = peft.InfraredLora(self.ir_lora, self.image.depth, self.image.width)
        self.txt = TextTower(
            self.text, self.context_length, self.vocab_size, self.eot_id, self.embed_dim
        )
        scale = nn.initializers.constant(np.log(self.init_scale))
        self.t = self.param("t", scale, ())
        self.t_own = {pair: self.param(f"t_{pair}", scale, ()) for pair in self.own_scale}
        if self.logit_bias:
            self.b = self.param("b", nn.initializers.constant(-10.0), ())

    def __call__(
        self,
        image: jax.Array | None = None,
        ir: jax.Array | None = None,
        text: jax.Array | None = None,
        text_long: jax.Array | None = None,
        text_ir: jax.Array | None = None,
        starts: jax.Array | None = None,
        rows: tuple[int, int] = (0, 0),
        normalize: bool = True,
    ) -> dict[str, jax.Array]:
        """Embed whatever is given.

        Args:
          image, ir: [B, S, S, 3]; uint8 is normalised here with `mean` and `std`, float is taken
            as normalised. Both go through the one image tower in one forward pass, unless the
            model treats them differently.
          text, text_long, text_ir: [B, L] int32 ids, each with its own L <= context_length.
          starts, rows: where the texts share rows, [G, B / G, fields] in the order above: see
            `TextTower`.
          normalize: scale embeddings to unit length.

        Returns:
          `zimg`, `zir`, `ztxt`, `ztxt_long`, `ztxt_ir` for those given, float32 [B, embed_dim];
          `t` = exp(log scale), `t_PAIR` for those with their own, and `b` where there is a bias.
        """
        given = (("zimg", image), ("zir", ir))
        images = {name: self._standardise(x) for name, x in given if x is not None}
        out: dict[str, jax.Array] = {}
        if self.ir_tower != "shared" or self.ir_wavelength:
            towers = {"zimg": self._rgb, "zir": self._infrared}
            out = {name: towers[name](x) for name, x in images.items()}
        elif images:
            z = self.img(jnp.concatenate(list(images.values())))
            out.update(zip(images, jnp.split(z, len(images)), strict=True))
        ids = {"ztxt": text, "ztxt_long": text_long, "ztxt_ir": text_ir}
        texts = {name: x for name, x in ids.items() if x is not None}
        if starts is None:
            out |= {name: self.txt(x) for name, x in texts.items()}
        else:
            out |= self._packed(texts, starts, rows)
        if normalize:
            out = {k: _unit(v) for k, v in out.items()}
        out["t"] = jnp.exp(self.t)
        out |= {f"t_{pair}": jnp.exp(t) for pair, t in self.t_own.items()}
        if self.logit_bias:
            out["b"] = self.b
        return out

    def _rgb(self, x_BxSxSx3: jax.Array) -> jax.Array:
        return self.img(x_BxSxSx3, RGB_WAVELENGTHS if self.ir_wavelength else ())

    def _infrared(self, x_BxSxSx3: jax.Array) -> jax.Array:
        wavelengths = (self.ir_wavelength,) * 3 if self.ir_wavelength else ()
        if self.ir_tower == "shared":
            return self.img(x_BxSxSx3, wavelengths)
        if self.ir_tower == "separate":
            return self.ir(x_BxSxSx3, wavelengths)
        params = peft.add_lora(self.img.variables["params"], self.ir(), self.ir_lora)
        return self.img.clone(parent=None).apply({"params": params}, x_BxSxSx3, wavelengths)

    def _packed(self, texts: dict, starts_GxNxF: jax.Array, rows: tuple[int, int]) -> dict:
        groups, count, fields = starts_GxNxF.shape
        longest = max(ids.shape[1] for ids in texts.values())
        padded = [jnp.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in texts.values()]
        ids = jnp.stack([x.reshape(groups, count, longest) for x in padded], axis=2)
        z = self.txt(
            ids.reshape(groups, -1, longest), starts_GxNxF.reshape(groups, -1), rows
        ).reshape(groups * count, fields, -1)
        return {name: z[:, i] for i, name in enumerate(texts)}

    def _standardise(self, image: jax.Array) -> jax.Array:
        if image.dtype != jnp.uint8:
            return image
        mean, std = jnp.array(self.mean), jnp.array(self.std)
        return (image.astype(jnp.float32) / 255 - mean) / std


def _unit(z_BxD: jax.Array) -> jax.Array:
    # The floor keeps the gradient of an all-zero embedding finite.
    square = jnp.sum(z_BxD * z_BxD, axis=-1, keepdims=True)
    return z_BxD * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def build(config: Mapping[str, Any]) -> CLIP:
    """Make the model that `config.model` describes (fields: configs/defaults.py).

    Raises:
      ValueError: unknown variant or infrared tower, a negative wavelength, or an image size that
        the patch size does not divide or that is too large.
    """
    sizes = sizes_of(config)
    ir_tower, ir_wavelength = config.get("ir_tower", "shared"), config.get("ir_wavelength", 0.0)
    if ir_tower not in IR_TOWERS:
        raise ValueError(f"config.model.ir_tower={ir_tower!r}: one of {', '.join(IR_TOWERS)}")
    if ir_wavelength < 0:
        raise ValueError(
            f"config.model.ir_wavelength={ir_wavelength}: expected micrometres, 0.85 for near "
            "infrared, 10 for thermal, or 0 for a tower that does not look at it"
        )
    image_size = config["image_size"] or sizes.image_size
    if image_size % sizes.patch_size or not 0 < image_size <= MAX_IMAGE_SIZE:
        raise ValueError(
            f"config.model.image_size={image_size}: expected a multiple of the patch size "
            f"{sizes.patch_size}, at most {MAX_IMAGE_SIZE}"
        )
    shared = {k: config[k] for k in ("dtype", "attention", "remat", "scan")}
    if shared["remat"] == "auto":  # what training has not settled: nobody asks for gradients
        shared["remat"] = "none"
    shared["activation"] = config["activation"] or sizes.activation
    shared["epsilon"] = config.get("layer_norm_eps", 1e-5)
    shared["peft"] = peft.make(config.get("peft"))
    return CLIP(
        image=Tower(sizes.image_width, sizes.image_depth, sizes.image_heads, **shared),
        text=Tower(sizes.text_width, sizes.text_depth, sizes.text_heads, **shared),
        patch_size=sizes.patch_size,
        image_size=image_size,
        context_length=config["context_length"],
        vocab_size=config["vocab_size"],
        eot_id=config["eot_id"],
        embed_dim=sizes.embed_dim,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        init_scale=config["init_scale"],
        logit_bias=config["logit_bias"],
        own_scale=tuple(config.get("own_scale", ())),
        ir_tower=ir_tower,
        ir_lora=peft.make({**config["peft"], "method": "lora"})
        if ir_tower == "lora"
        else peft.NONE,
        ir_wavelength=ir_wavelength,
    )


def described(model: CLIP) -> str:
    """Say how the towers attend on the devices of the mesh in use."""
    names = {"cudnn": "cuDNN's fused kernel", "xla": "XLA's"}
    towers = (model.image, model.text)
    kinds = [attention.implementation(t.attention, t.dtype, t.width // t.heads) for t in towers]
    told = [f"{names[kind]} ({why})" for kind, why in kinds]
    return f"attention: {told[0] if told[0] == told[1] else f'{told[0]}; of texts {told[1]}'}"


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Return the sizes of `config.model`: its variant's, or `config.model.sizes` for "custom".

    Raises:
      ValueError: unknown variant; sizes that are missing, or not nine numbers and an activation.
    """
    variant, given = config["variant"], tuple(config.get("sizes", ()))
    if (variant == "custom") != bool(given) or (variant != "custom" and variant not in VARIANTS):
        raise ValueError(
            f"config.model.variant={variant!r}, config.model.sizes={given}: expected one of "
            f"{', '.join(VARIANTS)}, or 'custom' and the sizes ({', '.join(Sizes._fields)})"
        )
    if not given:
        return VARIANTS[variant]
    if len(given) not in (len(Sizes._fields) - 1, len(Sizes._fields)):
        raise ValueError(
            f"config.model.sizes={given}: expected ({', '.join(Sizes._fields)}), the activation "
            "may be left out"
        )
    return Sizes(*given)


def init_params(model: CLIP, rng: jax.Array) -> dict:
    """Initialise parameters (float32, random), the scheme of OpenAI's CLIP."""
    image = jnp.zeros((1, model.image_size, model.image_size, 3), jnp.float32)
    text = jnp.zeros((1, 2), jnp.int32)
    ir = None if model.ir_tower == "shared" else image
    # Compiled, the forward pass that tells the shapes is left out.
    return jax.jit(lambda rng: model.init(rng, image=image, ir=ir, text=text)["params"])(rng)
