"""Attention over a row of tokens: XLA's, or cuDNN's fused kernel, which stores no weights.

JAX (0.10 to 0.12) refuses the fused kernel in training where a length is odd, and CLIP's are: 197,
257, 77. One token more makes them even, and the kernel is told how many keys are real.
"""

import functools
import math

import jax
import jax.numpy as jnp

from rsclip_jax.sharding import spread

CHOICES = ("auto", "xla", "cudnn")
OLDEST = 8.0  # compute capability that cuDNN's kernel wants


def platform() -> str:
    """Return "cpu", "gpu" or "tpu": what the mesh in use is made of, else JAX's default.

    A program can be compiled for other devices than those that are here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def implementation(choice: str, dtype: str, head_dim: int) -> tuple[str, str]:
    """Decide between XLA's attention and cuDNN's fused kernel.

    Args:
      choice: config.model.attention; "auto" takes the kernel on a GPU, where it applies.
      dtype: of the computation.
      head_dim: width of a head.

    Returns:
      ("xla" or "cudnn", why).

    Raises:
      ValueError: an unknown choice, or "cudnn" where the kernel does not apply.
    """
    if choice not in CHOICES:
        raise ValueError(f"config.model.attention={choice!r}: expected one of {CHOICES}")
    if choice == "xla":
        return "xla", "config.model.attention"
    if (where := platform()) != "gpu":
        reason = f"the fused kernel is for GPUs, and this is a {where.upper()}"
    else:
        reason = refusal(dtype, head_dim)
    if not reason:
        return "cudnn", f"{dtype}, heads of {head_dim}"
    if choice == "cudnn":
        raise ValueError(f"config.model.attention='cudnn': {reason}; take 'auto' or 'xla'")
    return "xla", reason


@functools.cache
def refusal(dtype: str, head_dim: int) -> str:
    """Tell why JAX does not take cuDNN's kernel in training, "" where it does."""
    if dtype not in ("bfloat16", "float16"):
        return f"the fused kernel wants bfloat16 or float16, and config.model.dtype is {dtype}"
    if jax.default_backend() == "gpu":  # else the GPU is described, and all that are have it
        if float(jax.local_devices()[0].compute_capability) < OLDEST:
            return f"the fused kernel wants a GPU of compute capability {OLDEST} or more (Ampere)"
    x = jax.ShapeDtypeStruct((1, 7, 1, head_dim), dtype)
    try:
        jax.eval_shape(jax.grad(lambda x: fused(x, x, x).astype(jnp.float32).sum()), x)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return f"JAX says: {error}"
    return ""


def visible(
    positions: jax.Array,
    keys: int,
    *,
    prefixes: int = 0,
    length: int,
    causal: bool,
    segments: jax.Array | None = None,
) -> jax.Array | None:
    """Tell which keys a query sees: bool, broadcast to [B, H, L, keys]; None: it sees all.

    Args:
      positions: int32 [1 or B, L], of the queries in their row.
      keys: how many there are: `prefixes`, which every query sees, then the row's own.
      length: tokens of the row that are real; those behind are not seen.
      causal: no query sees what follows it.
      segments: int32 [B, keys - prefixes]; no query sees another segment. Needs all queries.
    """
    places = jnp.arange(keys) - prefixes
    if causal:  # which hides what is not real from all that is
        mask = places <= positions[:, None, :, None]
    elif length < keys - prefixes:
        mask = (places < length)[None, None, None]
    else:
        return None
    if segments is not None:
        same = segments[:, :, None] == segments[:, None, :]
        same = jnp.pad(same, ((0, 0), (0, 0), (prefixes, 0)), constant_values=True)
        mask &= same[:, None]
    return mask


def plain(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
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


def fused(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    *,
    causal: bool = False,
    length: int | None = None,
) -> jax.Array:
    """Attend as `plain` does, by cuDNN's fused kernel, at any number of queries and keys.

    Args:
      mask: as in `plain`; the kernel reads it as a bias. None where `causal` and `length` tell all.
      causal: query i sees keys 0 to i; without a mask only.
      length: the first keys that are real; None: all.
    """
    batch, queries = q.shape[:2]
    # Told the number of keys, the kernel also avoids a NaN: without it, cuDNN's backward pass on
    # Hopper reads what lies behind lengths that 128 does not divide (NVIDIA/cudnn-frontend#1072).
    lengths = spread(jnp.full((batch,), k.shape[1] if length is None else length, jnp.int32))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (batch, 1, queries, k.shape[1]))
        added = ((0, 0), (0, 0), (0, queries % 2), (0, k.shape[1] % 2))
        mask = spread(jnp.pad(mask, added, constant_values=True))
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) if x.shape[1] % 2 else x
        for x in (q, k, v)
    )
    y = jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=causal,
        scale=1 / math.sqrt(q.shape[-1]),
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return y[:, :queries]
