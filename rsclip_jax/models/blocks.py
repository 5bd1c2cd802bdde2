"""The pre-LN transformer both towers are made of, its layers stacked along a leading axis."""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsclip_jax.models import attention
from rsclip_jax.models.peft import NONE, Adapter, Gate, Lora, Peft, Prefix
from rsclip_jax.sharding import spread, tensor_parallel


@jax.custom_jvp
def quick_gelu(x: jax.Array) -> jax.Array:
    """Return x * sigmoid(1.702 x), OpenAI's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


@quick_gelu.defjvp
def _(primals, tangents):
    # Written out, the backward pass is one fused loop: a fifth of an MLP's time on a CPU.
    (x,), (dx,) = primals, tangents
    s = jax.nn.sigmoid(1.702 * x)
    return x * s, dx * (s + 1.702 * x * s * (1 - s))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,  # OpenAI's weights
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # laion's weights
}


def _matmuls_and_attention(prim, *args, **params) -> bool:
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(prim, *args, **params)
    return dots or prim.name.startswith("dot_product_attention_fwd")


# What the backward pass finds, from the most memory and the fastest step to the opposite.
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,  # all that it reads
    "elementwise": _matmuls_and_attention,  # LayerNorms, activations and sums are computed anew
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # and attention
    "full": jax.checkpoint_policies.nothing_saveable,  # everything but the input of each layer
}


@dataclasses.dataclass(frozen=True)
class Tower:
    """Size and execution of one transformer.

    `scan` compiles one layer and loops over it; without it the loop is unrolled (faster steps,
    slower compilation). The parameters are the same arrays of shape [depth, ...] either way.
    """

    width: int
    depth: int
    heads: int
    activation: str = "quick_gelu"
    dtype: str = "float32"
    attention: str = "auto"
    remat: str = "none"
    scan: bool = True
    peft: Peft = NONE
    epsilon: float = 1e-5


class LayerNorm(nn.Module):
    """CLIP's LayerNorm, its statistics in float32 by the exact two-pass formula.

    Its backward pass starts from the input anew. Of what lies between nothing is stored: in
    bfloat16 that would be several times the input. `scan` as in `Tower`.
    """

    dtype: str  # of the result
    scan: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x_BxLxD.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x_BxLxD.shape[-1],))
        return recomputed(self._normalise, self.scan)(x_BxLxD, scale, bias)

    def _normalise(self, x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(x * x, axis=-1, keepdims=True)
        return (x * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(self.dtype)


def recomputed(function: Callable, scan: bool) -> Callable:
    """Let the backward pass of a cheap function compute it anew instead of storing its insides."""
    # In a loop the compiler cannot merge the two computations; elsewhere it has to be kept from it.
    return jax.checkpoint(function, prevent_cse=not scan)


def take_tokens(x_BxLxD: jax.Array, at: jax.Array | None) -> jax.Array:
    """Take one token of each row, [B, 1, D], at the positions `at` [B]; all of them for None.

    With `at` [G, N], G dividing B: N tokens of each B / G rows, positions counted through them.
    """
    if at is None:
        return x_BxLxD
    x = x_BxLxD.reshape(len(at), -1, x_BxLxD.shape[-1])
    return jnp.take_along_axis(x, at.reshape(len(at), -1, 1), axis=1)


class DenseParams(nn.Module):
    """The kernel and bias of a dense layer, for a caller that multiplies several at once."""

    features: int
    std: float

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.normal(self.std), (width, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class Attention(nn.Module):
    """Multi-head self-attention; `causal` masks what follows each position.

    With `at`, int32 [B], only these positions ask: returns [B, 1, D] instead of [B, L, D]. With
    `segments`, int32 [B, L], a position sees none of another segment of its row. What stands behind
    the first `real_tokens` of a row (0: all are real) is not seen.
    """

    tower: Tower
    causal: bool
    real_tokens: int = 0

    @nn.compact
    def __call__(
        self,
        x_BxLxD: jax.Array,
        at: jax.Array | None = None,
        prefix_2xPxD: jax.Array | None = None,
        real: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        cfg, peft = self.tower, self.tower.peft
        batch, length, width = x_BxLxD.shape
        heads = (batch, -1, cfg.heads, width // cfg.heads)
        params = {
            n: DenseParams(width, width**-0.5, name=n)(width) for n in ("query", "key", "value")
        }

        def project(x: jax.Array, *names: str) -> list[jax.Array]:
            if tensor_parallel() and len(names) > 1:  # side by side, heads would change places
                return [project(x, name)[0] for name in names]
            # One matmul as wide as all of them: the input is read once.
            kernel, bias = (
                jnp.concatenate(part, axis=-1).astype(cfg.dtype)
                for part in zip(*(params[n] for n in names), strict=True)
            )
            y = x.reshape(-1, width) @ kernel + bias
            parts = [part.reshape(heads) for part in jnp.split(y, len(names), axis=-1)]
            parts = [updated(n, part, x) for n, part in zip(names, parts, strict=True)]
            return [spread(part, None, "tensor") for part in parts]

        def updated(name: str, part: jax.Array, x: jax.Array) -> jax.Array:
            if not peft.adapts(f"attn/{name}"):
                return part
            update = Lora(peft, width, name=f"lora_{name}")(x_BxLxD, real, lambda _: x)
            return part + update.reshape(heads)

        asking = at if segments is None else None  # of rows with several texts all positions
        if asking is None:
            q, k, v = project(x_BxLxD, "query", "key", "value")
        else:
            (q,) = project(take_tokens(x_BxLxD, asking), "query")
            k, v = project(x_BxLxD, "key", "value")
        if prefix_2xPxD is not None:
            gate = Gate(name="gate_prefix")(x_BxLxD, real) if peft.gated else 1.0
            before = (jnp.broadcast_to(p, (batch, *p.shape)) * gate for p in prefix_2xPxD)
            k, v = (
                jnp.concatenate([p.astype(x.dtype).reshape(heads), x], axis=1)
                for p, x in zip(before, (k, v), strict=True)
            )
        positions = jnp.arange(length)[None] if asking is None else asking[:, None]
        prefixes = k.shape[1] - length
        mask = partial(
            attention.visible,
            positions,
            k.shape[1],
            prefixes=prefixes,
            length=self.real_tokens or length,
            causal=self.causal,
            segments=segments,
        )
        if cfg.attention == "cudnn" and asking is None:
            told = segments is None and not (prefixes and self.causal)  # by causality and length
            keys = prefixes + (self.real_tokens or length)
            y = attention.fused(
                q, k, v, None if told else mask(), causal=told and self.causal, length=keys
            )
        else:
            attend = attention.plain
            if attention.platform() == "tpu":  # docs/performance.md: instead of a fused kernel
                attend = recomputed(attend, cfg.scan)
            y = attend(q, k, v, mask())
        out_init = nn.initializers.normal(width**-0.5 * (2 * cfg.depth) ** -0.5)
        y = y.reshape(batch, -1, width)
        if asking is None:
            y = take_tokens(y, at)
        out = nn.Dense(width, dtype=cfg.dtype, kernel_init=out_init, name="out")
        z = out(y.reshape(-1, width)).reshape(y.shape)
        if peft.adapts("attn/out"):
            z = z + Lora(peft, width, name="lora_out")(y, real)
        return spread(z)


class Mlp(nn.Module):
    """Two dense layers, four times as wide inside."""

    tower: Tower

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, real: jax.Array | None = None) -> jax.Array:
        cfg = self.tower
        width = cfg.width

        def dense(x_BxLxD: jax.Array, name: str, features: int, init: Callable) -> jax.Array:
            # Matrices of two axes: XLA's CPU backend multiplies them faster than those of three.
            x = x_BxLxD.reshape(-1, x_BxLxD.shape[-1])
            y = nn.Dense(features, dtype=cfg.dtype, kernel_init=init, name=name)(x)
            y = y.reshape(*x_BxLxD.shape[:2], features)
            if cfg.peft.adapts(f"mlp/{name}"):
                y = y + Lora(cfg.peft, features, name=f"lora_{name}")(x_BxLxD, real)
            return y

        fc1_init = nn.initializers.normal((2 * width) ** -0.5)
        fc2_init = nn.initializers.normal(width**-0.5 * (2 * cfg.depth) ** -0.5)
        h = spread(dense(x_BxLxD, "fc1", 4 * width, fc1_init), None, "tensor")
        h = recomputed(ACTIVATIONS[cfg.activation], cfg.scan)(h)
        return spread(dense(h, "fc2", width, fc2_init))


class Block(nn.Module):
    """One residual layer: x + attn(ln_1(x)), then x + mlp(ln_2(x)); of the tokens `at` only."""

    tower: Tower
    causal: bool
    real_tokens: int = 0  # the first of each row; 0: all

    @nn.compact
    def __call__(
        self,
        x_BxLxD: jax.Array,
        at: jax.Array | None = None,
        prefix: jax.Array | None = None,
        real: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        cfg, peft = self.tower, self.tower.peft
        h = LayerNorm(cfg.dtype, cfg.scan, cfg.epsilon, name="ln_1")(x_BxLxD)
        attend = Attention(cfg, self.causal, self.real_tokens, name="attn")
        x = take_tokens(x_BxLxD, at) + attend(h, at, prefix, real, segments)
        h = LayerNorm(cfg.dtype, cfg.scan, cfg.epsilon, name="ln_2")(x)
        x = x + Mlp(cfg, name="mlp")(h, real)
        return Adapter(peft, name="adapter")(x, real) if peft.reduction else x


class Transformer(nn.Module):
    """`depth` blocks. Parameters lie under `blocks`, every leaf with a leading layer axis.

    A CLIP tower reads one token of the last layer: with `at`, int32 [B], the last layer computes
    that token alone (keys and values aside) and [B, 1, D] is returned, instead of [B, L, D]. Rows
    that hold several texts have `segments`, int32 [B, L], and `at` [G, N]: see `take_tokens`.
    """

    tower: Tower
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x_BxLxD: jax.Array,
        at: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        cfg = self.tower
        if cfg.activation not in ACTIVATIONS:
            raise ValueError(
                f"config.model.activation={cfg.activation!r}: one of {sorted(ACTIVATIONS)}"
            )
        if cfg.remat not in REMAT_POLICIES:
            raise ValueError(f"config.model.remat={cfg.remat!r}: one of {sorted(REMAT_POLICIES)}")
        kind, _ = attention.implementation(cfg.attention, cfg.dtype, cfg.width // cfg.heads)
        length = x_BxLxD.shape[1]
        x = x_BxLxD
        if kind == "cudnn" and length % 2:  # see models/attention.py
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
            if segments is not None:
                assert at is not None  # of rows that hold several texts, some tokens are asked for
                segments = jnp.pad(segments, ((0, 0), (0, 1)), mode="edge")
                at = at + at // length
        block = Block(dataclasses.replace(cfg, attention=kind), self.causal, length, parent=None)
        prefix = None
        if cfg.peft.prefix:
            prefix = Prefix(cfg.peft, cfg.depth, cfg.width, name="prefix")()
        real = None
        if cfg.peft.gated:  # gates look at all real tokens
            end = at[:, None] if self.causal and at is not None else length - 1
            real = jnp.broadcast_to(jnp.arange(x.shape[1]) <= end, x.shape[:2])

        def init(rng: jax.Array) -> dict:
            keys = jax.random.split(rng, cfg.depth)
            first = None if prefix is None else prefix[0]
            # Only shapes matter here, and the fused kernel cannot be mapped over layers.
            plain = Block(dataclasses.replace(cfg, attention="xla"), self.causal, parent=None)
            return jax.vmap(lambda key: plain.init(key, x_BxLxD, None, first)["params"])(keys)

        def layer(x: jax.Array, inputs: tuple, at: jax.Array | None = None):
            params, prefix = inputs
            return block.apply({"params": params}, x, at, prefix, real, segments), None

        if cfg.remat != "none":
            policy = REMAT_POLICIES[cfg.remat]
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=not cfg.scan)
        leaves, tree = jax.tree.flatten((self.param("blocks", init), prefix))
        # `split`, not two slices: its gradient is one concatenation.
        most, last = zip(*(jax.lax.split(p, (cfg.depth - 1, 1)) for p in leaves), strict=True)
        unroll = 1 if cfg.scan else max(1, cfg.depth - 1)
        x, _ = jax.lax.scan(layer, x, jax.tree.unflatten(tree, most), unroll=unroll)
        last = jax.tree.unflatten(tree, [p[0] for p in last])
        if at is None:
            return layer(x, last)[0][:, :length]
        if cfg.peft.gated:  # the gates of the last layer look at all of its tokens
            return take_tokens(layer(x, last)[0], at)
        return layer(x, last, at)[0]
