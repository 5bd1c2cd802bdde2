"""Contrastive loss between two batches of embeddings, exact over the global batch.

`pair_loss` is the one function: dense on one device, or sharded over a mesh, where each device
compares its own rows with everybody's columns and so holds logits [B / devices, B], never [B, B].
Row log-sum-exps are local; column log-sum-exps need one sum of [B] numbers over the devices, so one
matrix product serves both directions, and JAX differentiates through the collectives exactly.
Where even these logits are large, `ring` goes through them block by block and keeps none.

All of it is float32 with `Precision.HIGHEST`: at the default precision GPUs and TPUs would round
the embeddings to TF32 or bfloat16 (in bfloat16, 512 wide: errors up to 0.05 in logits near 100).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from rsclip_jax.losses.ring import ring_loss
from rsclip_jax.sharding import BATCH_AXES, batch_shards

KINDS = ("softmax", "sigmoid")
IMPLS = ("auto", "dense", "gather", "ring")
# "auto" is "ring" above this size of a device's logits. "gather" holds four arrays of it: up to
# 256 MiB, little beside the activations of the towers that such a batch has.
MAX_LOGITS_BYTES = 2**26
_MASKED = -1e30  # finite: a row without any candidate must not give inf - inf


def contrastive_loss(
    za: jax.Array, zb: jax.Array, scale: jax.Array | float, label_smoothing: float = 0.0
) -> jax.Array:
    """Return CLIP's softmax loss: the mean of the a -> b and b -> a cross-entropies.

    Args:
      za, zb: embeddings [B, D], row i of one belongs to row i of the other; L2-normalised.
      scale: factor of the cosine similarities, exp(logit scale).
      label_smoothing: mass in [0, 1) spread evenly over all B candidates, the right one included.

    Returns:
      float32 scalar. Source: Radford et al. 2021, figure 3.
    """
    return pair_loss(za, zb, scale, label_smoothing=label_smoothing)[0]


def sigmoid_loss(
    za: jax.Array, zb: jax.Array, scale: jax.Array | float, bias: jax.Array | float
) -> jax.Array:
    """Return SigLIP's loss, -1/B sum_ij log sigmoid(y_ij (scale a_i.b_j + bias)), y_ij = +-1.

    Args:
      za, zb: embeddings [B, D], L2-normalised.
      scale, bias: scalars.

    Returns:
      float32 scalar. Source: Zhai et al. 2023 (arXiv 2303.15343), equation 1.
    """
    return pair_loss(za, zb, scale, kind="sigmoid", bias=bias)[0]


def pair_loss(
    za: jax.Array,
    zb: jax.Array,
    scale: jax.Array | float,
    *,
    kind: str = "softmax",
    bias: jax.Array | float | None = None,
    label_smoothing: float = 0.0,
    mask: jax.Array | None = None,
    same: Sequence[jax.Array] = (),
    stop_gradient_gather: bool = False,
    impl: str = "auto",
    chunk: int = 0,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the contrastive loss of matching rows and the top-1 accuracies within the batch.

    Args:
      za, zb: embeddings [B, D] of any float type, L2-normalised.
      scale: scalar factor of the similarities, exp(logit scale).
      kind: "softmax" (CLIP) or "sigmoid" (SigLIP).
      bias: scalar added to the logits; for "sigmoid" only, and needed there.
      label_smoothing: in [0, 1), for "softmax" only.
      mask: bool [B]; rows with False are neither anchors nor negatives and get zero gradient. The
        mean is over the others; without any, the loss is 0.
      same: keys [B, K] of any integer type; two rows equal in one of them are no negatives of each
        other (the same record, identical captions).
      stop_gradient_gather: leave out the gradient through the candidates, as LRSCLIP's released
        code does (its all_gather carries none): a -> b trains only a, b -> a only b, both the
        scale. The value of the loss stays the same. For "softmax" only.
      impl: "gather": each device holds its rows' logits [B / devices, B]; "ring": blocks of them,
        one at a time, for a third more matrix products; "auto": "ring" where the logits would be
        larger than MAX_LOGITS_BYTES; "dense": what one device does, sharded by the compiler. The
        result is the same.
      chunk: rows of a block of "ring", any number; 0: half the width of the embeddings.
      mesh: mesh with axes "data" and "fsdp" over which B is sharded; None: one device.

    Returns:
      (loss, {"acc_ab", "acc_ba"}): float32 scalars. Accuracies are fractions of the participating
      rows in [0, 1]; a tie counts as a miss, so a collapsed model scores 0.

    Raises:
      ValueError: unknown kind, shapes that do not match or divide, options that do not combine.
    """
    bias = _checked_bias(kind, bias, label_smoothing, stop_gradient_gather)
    if za.ndim != 2 or za.shape != zb.shape:
        raise ValueError(f"za and zb must both be [B, D], got {za.shape} and {zb.shape}")
    if mask is None:
        mask = jnp.ones(len(za), bool)
    elif mask.shape != za.shape[:1] or mask.dtype != bool:
        raise ValueError(f"mask must be bool [{len(za)}], got {mask.dtype} {list(mask.shape)}")
    scale, bias = (jnp.asarray(x, jnp.float32) for x in (scale, bias))
    devices = batch_shards(mesh) if mesh else 1
    if len(za) % devices:
        raise ValueError(
            f"a global batch of {len(za)} does not divide over {devices} devices: "
            "make config.input.batch_size a multiple of them"
        )
    if _chosen(impl, chunk, len(za), devices) == "ring":
        return ring_loss(
            za,
            zb,
            scale,
            bias,
            mask,
            tuple(same),
            kind=kind,
            smoothing=label_smoothing,
            stop_gradient=stop_gradient_gather,
            chunk=chunk,
            mesh=mesh,
        )
    block = partial(
        _block_loss, kind=kind, smoothing=label_smoothing, stop_gradient=stop_gradient_gather
    )
    if mesh is None or impl == "dense":
        return block(za, zb, mask, tuple(same), scale, bias, axes=())

    rows, replicated = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(
        partial(block, axes=BATCH_AXES),
        mesh=mesh,
        in_specs=(rows, rows, rows, rows, replicated, replicated),
        out_specs=replicated,
    )(za, zb, mask, tuple(same), scale, bias)


def _chosen(impl, chunk, rows, devices):
    if impl not in IMPLS:
        raise ValueError(f"config.loss.impl={impl!r}: expected one of {IMPLS}")
    if chunk < 0 or (chunk and impl not in ("ring", "auto")):
        raise ValueError(
            f"config.loss.chunk={chunk} with config.loss.impl={impl!r}: expected the rows of a "
            "block of 'ring', or 0, which leaves them to it"
        )
    if impl == "auto":
        logits_bytes = 4 * rows * rows // devices
        return "ring" if logits_bytes > MAX_LOGITS_BYTES else "gather"
    return impl


def _checked_bias(kind, bias, label_smoothing, stop_gradient_gather):
    if kind not in KINDS:
        raise ValueError(f"unknown loss kind {kind!r}: expected one of {KINDS}")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if kind == "softmax":
        if bias is not None:
            raise ValueError("the softmax loss has no bias: leave it out or use kind='sigmoid'")
        return 0.0
    if bias is None:
        raise ValueError("the sigmoid loss needs a bias")
    if label_smoothing or stop_gradient_gather:
        raise ValueError(
            "label_smoothing and stop_gradient_gather belong to the softmax loss: "
            f"got {label_smoothing} and {stop_gradient_gather} with kind='sigmoid'"
        )
    return bias


def _block_loss(za, zb, mask, same, scale, bias, *, kind, smoothing, stop_gradient, axes):
    """Return what pair_loss does, seen from one device: za, zb [b, D] and mask [b] are its rows.

    `axes` are the mesh axes the batch is sharded over; () means that these rows are all there are.
    """
    gather = partial(lax.all_gather, axis_name=axes, tiled=True) if axes else lambda x: x
    # Zeros instead of whatever a masked row holds: its logits are then 0, its gradient too.
    za, zb = (jnp.where(mask[:, None], z.astype(jnp.float32), 0.0) for z in (za, zb))
    zb_all, mask_all = gather(zb), gather(mask)
    n = jnp.maximum(lax.psum(jnp.sum(mask, dtype=jnp.float32), axes), 1.0)
    b = len(za)
    start = lax.axis_index(axes) * b if axes else 0  # this device's first row in the global batch
    valid = mask[:, None] & mask_all[None, :]  # [b, B]
    positive = (start + jnp.arange(b))[:, None] == jnp.arange(len(zb_all))[None, :]  # [b, B]
    for keys_bxK in same:
        equal = jnp.all(keys_bxK[:, None] == gather(keys_bxK)[None, :], axis=-1)
        valid &= ~equal | positive
    share = 1.0 / jnp.maximum(jnp.sum(valid, axis=1, dtype=jnp.float32), 1.0)  # of each candidate

    def own_columns(x_B):
        return lax.dynamic_slice_in_dim(x_B, start, b)

    def column_max(logits_bxB):
        return lax.pmax(jnp.max(lax.stop_gradient(logits_bxB), axis=0), axes)

    def mean(x_b):
        return lax.psum(jnp.sum(jnp.where(mask, x_b, 0.0)), axes) / n

    def logits(a, b_all):
        return scale * jnp.matmul(a, b_all.T, precision=lax.Precision.HIGHEST) + bias

    def cross_entropy(logits_bxB, lse_b, share):
        # -sum_j q_j log p_j with q = (1 - smoothing) * one-hot + smoothing * share. Its sum over
        # the batch is what counts, and may be taken along the rows for the columns too.
        right = jnp.sum(jnp.where(positive, logits_bxB, 0.0), axis=1)
        spread = jnp.sum(jnp.where(valid, logits_bxB * share, 0.0), axis=1) if smoothing else 0.0
        return lse_b - (1.0 - smoothing) * right - smoothing * spread

    def softmax_rows():
        rows = columns = logits(za, zb_all)
        if stop_gradient:
            rows = logits(za, lax.stop_gradient(zb_all))
            columns = logits(lax.stop_gradient(za), zb_all)
        row_lse = jax.nn.logsumexp(jnp.where(valid, rows, _MASKED), axis=1)
        candidates = jnp.where(valid, columns, _MASKED)
        top = column_max(candidates)
        column_lse = top + jnp.log(lax.psum(jnp.sum(jnp.exp(candidates - top), axis=0), axes))
        loss = cross_entropy(rows, row_lse, share[:, None])
        loss += cross_entropy(columns, own_columns(column_lse), gather(share)[None, :])
        return rows, 0.5 * loss

    def sigmoid_rows():
        all_pairs = logits(za, zb_all)
        signed = jnp.where(positive, all_pairs, -all_pairs)
        return all_pairs, -jnp.sum(jnp.where(valid, jax.nn.log_sigmoid(signed), 0.0), axis=1)

    scores, loss_b = softmax_rows() if kind == "softmax" else sigmoid_rows()
    scores = lax.stop_gradient(scores)
    right = jnp.sum(jnp.where(positive, scores, 0.0), axis=1)
    wrong = jnp.where(valid & ~positive, scores, _MASKED)
    return mean(loss_b), {
        "acc_ab": mean(right > jnp.max(wrong, axis=1)),
        "acc_ba": mean(right > own_columns(column_max(wrong))),
    }
