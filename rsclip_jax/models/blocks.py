"""The pre-LN transformer both towers are made of, its layers stacked along a leading axis."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

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
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
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


def attention_implementation(choice: str, dtype: str, head_dim: int) -> str:
    """Return "cudnn" where its fused kernel applies (GPU, 16-bit, head size <= 128), else "xla"."""
    if choice not in ("auto", "xla", "cudnn"):
        raise ValueError(f"config.model.attention={choice!r}: expected 'auto', 'xla' or 'cudnn'")
    if choice != "auto":
        return choice
    fits = dtype in ("bfloat16", "float16") and head_dim <= 128 and head_dim % 8 == 0
    return "cudnn" if fits and jax.default_backend() == "gpu" else "xla"


def layer_norm(name: str) -> nn.LayerNorm:
    """Make CLIP's LayerNorm: epsilon 1e-5, statistics in float32 by the exact two-pass formula."""
    return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name=name)


def dot_product_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Attend over [B, L, H, D / H] queries, keys and values, softmax in float32.

    Args:
      mask: boolean, broadcast to [B, H, L queries, L keys]: True where a query sees a key.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # contiguous batched matmuls are the fast ones
    logits = jnp.einsum("bhld,bhmd->bhlm", q, k, preferred_element_type=jnp.float32)
    logits *= q.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("bhlm,bhmd->bhld", weights, v).swapaxes(1, 2)


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
    `segments`, int32 [B, L], a position sees none of another segment of its row.
    """

    tower: Tower
    causal: bool

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
        kind = attention_implementation(cfg.attention, cfg.dtype, width // cfg.heads)
        whole = asking is None and segments is None and prefix_2xPxD is None
        if kind == "cudnn" and whole:
            y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal, implementation="cudnn")
        else:
            positions = jnp.arange(length)[None] if asking is None else asking[:, None]
            # Prefixes stand before the first position: every query sees them.
            keys = jnp.arange(k.shape[1]) - (k.shape[1] - length)
            mask = keys <= positions[:, None, :, None] if self.causal else None
            if segments is not None:
                assert mask is not None  # only texts share rows
                same = segments[:, :, None] == segments[:, None, :]
                prefixes = ((0, 0), (0, 0), (k.shape[1] - length, 0))
                mask &= jnp.pad(same, prefixes, constant_values=True)[:, None]
            y = dot_product_attention(q, k, v, mask)
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
        return spread(dense(ACTIVATIONS[cfg.activation](h), "fc2", width, fc2_init))


class Block(nn.Module):
    """One residual layer: x + attn(ln_1(x)), then x + mlp(ln_2(x)); of the tokens `at` only."""

    tower: Tower
    causal: bool

    @nn.compact
    def __call__(
        self,
        x_BxLxD: jax.Array,
        at: jax.Array | None = None,
        prefix: jax.Array | None = None,
        real: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        dtype, peft = self.tower.dtype, self.tower.peft
        h = layer_norm("ln_1")(x_BxLxD).astype(dtype)
        attention = Attention(self.tower, self.causal, name="attn")(h, at, prefix, real, segments)
        x = take_tokens(x_BxLxD, at) + attention
        x = x + Mlp(self.tower, name="mlp")(layer_norm("ln_2")(x).astype(dtype), real)
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
        block = Block(cfg, self.causal, parent=None)
        prefix = None
        if cfg.peft.prefix:
            prefix = Prefix(cfg.peft, cfg.depth, cfg.width, name="prefix")()
        real = None
        if cfg.peft.gated and self.causal and at is not None:  # gates look at all real tokens
            real = jnp.arange(x_BxLxD.shape[1]) <= at[:, None]

        def init(rng: jax.Array) -> dict:
            keys = jax.random.split(rng, cfg.depth)
            first = None if prefix is None else prefix[0]
            return jax.vmap(lambda key: block.init(key, x_BxLxD, None, first)["params"])(keys)

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
        x, _ = jax.lax.scan(layer, x_BxLxD, jax.tree.unflatten(tree, most), unroll=unroll)
        last = jax.tree.unflatten(tree, [p[0] for p in last])
        if cfg.peft.gated:  # the gates of the last layer look at all of its tokens
            return layer(x, last)[0] if at is None else take_tokens(layer(x, last)[0], at)
        return layer(x, last, at)[0]
