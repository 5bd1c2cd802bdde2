"""The contrastive loss without its matrix of logits: on a ring of devices, block by block.

Each device keeps its rows at home. The others' columns visit it one device's share at a time,
passed on along a ring, and meet the rows in blocks of `chunk`: no more than [chunk, b] logits exist
at once, b being the rows of a device. One matrix product serves both directions, since a visitor
carries the log-sum-exp of its columns along as it grows. Derivatives are written out: the backward
pass goes round once more, computes the blocks anew from the log-sum-exps, and the gradient of the
columns travels with them.

The rule wraps the two `shard_map`s: within one, with its checks off, gradients came out too small
by the number of devices. Everything is float32 with `Precision.HIGHEST`, as in `contrastive`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from rsclip_jax.sharding import BATCH_AXES, batch_shards

_LEAST = -1e30  # finite: the greatest of no logits must not give inf - inf
_matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


class Rows(NamedTuple):
    """Some rows of one side."""

    z: jax.Array  # float32 [b, D], zeros where a row takes no part
    place: jax.Array  # int32 [b]: index in the global batch, -1 where a row takes no part
    same: tuple[jax.Array, ...]  # keys [b, K]


def ring_loss(
    za: jax.Array,
    zb: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array,
    same: tuple[jax.Array, ...],
    *,
    kind: str,
    smoothing: float,
    stop_gradient: bool,
    chunk: int,
    mesh: Mesh | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return loss and accuracies of `contrastive.pair_loss`, which has checked the arguments.

    Args:
      za, zb, mask, same: the global batch, [B, D], [B, D], bool [B] and [B, K].
      scale, bias: float32 scalars.
      chunk: rows of a block; 0: D / 2, so that its logits take half the memory of the device's
        embeddings. The last block overlaps its neighbour where chunk does not divide.
      mesh: None on one device.
    """
    axes = BATCH_AXES if mesh else ()
    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    devices = batch_shards(mesh) if mesh else 1
    chunk = min(chunk or max(za.shape[1] // 2, 1), max(len(za) // devices, 1))
    options = {"kind": kind, "smoothing": smoothing, "chunk": chunk, "axes": axes}

    def on_mesh(function: Callable, in_specs: tuple, out_specs: tuple) -> Callable:
        if mesh is None:
            return function
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)

    forward = on_mesh(
        partial(_forward, **options),
        (rows, rows, whole, whole, rows, rows),
        (whole, whole, rows),
    )
    backward = on_mesh(
        partial(_backward, stop_gradient=stop_gradient, **options),
        (rows, rows, whole, whole, rows, rows, rows, whole),
        (rows, rows, whole, whole),
    )

    @jax.custom_vjp
    def loss(*inputs):
        return forward(*inputs)[:2]

    def loss_forward(*inputs):
        value, accuracies, known = forward(*inputs)
        return (value, accuracies), (*inputs, known)

    def loss_backward(saved, cotangents):
        return *backward(*saved, cotangents[0]), None, None  # mask and same have no gradient

    loss.defvjp(loss_forward, loss_backward)
    return loss(za, zb, scale, bias, mask, same)


def _forward(za, zb, scale, bias, mask, same, *, kind, smoothing, chunk, axes):
    """Return (loss, accuracies, what the backward pass must know of each row, [b] each)."""
    b = len(za)
    home = _Home(za, mask, same, chunk, axes)
    sums = ("total", "spread") if smoothing else ("total",)
    rows = _nothing_met(b, ("top", "right", *sums, *(["count"] if smoothing else [])), axes)
    columns = _nothing_met(b, ("top", *(sums if kind == "softmax" else ())), axes)

    def visit(guest, rows, columns):
        def block(own, at, state):
            rows, columns = state
            logits, positive, negative = _compare(own, guest, scale, bias)
            met = _meet({k: at.read(x) for k, x in rows.items()}, logits, negative, 1, kind)
            met["right"] += jnp.sum(jnp.where(positive, logits, 0.0), axis=1)
            rows = {k: at.write(x, met[k]) for k, x in rows.items()}
            return rows, _meet(columns, logits, negative, 0, kind)

        return home.blocks(block, (rows, columns))

    rows, columns = _round_trip(visit, home.guest(zb), rows, columns, axes)
    right = rows["right"]
    known = {}
    if kind == "softmax":
        known = {"row_lse": _log_sum_exp(rows, right), "column_lse": _log_sum_exp(columns, right)}
        losses = 0.5 * (known["row_lse"] + known["column_lse"]) - (1.0 - smoothing) * right
        if smoothing:
            known["share"] = 1.0 / (1.0 + rows["count"])  # of each candidate in the smoothing
            spread = right + 0.5 * (rows["spread"] + columns["spread"])
            losses -= smoothing * known["share"] * spread
    else:
        losses = rows["total"] + jax.nn.softplus(-right)

    n = _participants(mask, axes)

    def mean(x_b):
        return lax.psum(jnp.sum(jnp.where(mask, x_b, 0.0)), axes) / n

    accuracies = {"acc_ab": mean(right > rows["top"]), "acc_ba": mean(right > columns["top"])}
    return mean(losses), accuracies, known


def _backward(
    za,
    zb,
    scale,
    bias,
    mask,
    same,
    known,
    cotangent,
    *,
    kind,
    smoothing,
    stop_gradient,
    chunk,
    axes,
):
    """Return the gradients of za, zb, scale and bias."""
    home = _Home(za, mask, same, chunk, axes)

    def softmax_error(logits, positive, candidate, lse, share):
        # Probability minus target, as a [chunk, b] block of one direction.
        error = jnp.exp(logits - lse)
        if smoothing:
            error -= smoothing * share
        return jnp.where(candidate, error, 0.0) - jnp.where(positive, 1.0 - smoothing, 0.0)

    def visit(visitor, gradients, dzb):
        guest, guest_known = visitor

        def block(own, at, state):
            (dza, dbias), dzb = state
            logits, positive, negative = _compare(own, guest, scale, bias)
            candidate = positive | negative
            if kind == "softmax":
                own_known = {k: at.read(x)[:, None] for k, x in known.items()}
                columns = {k: x[None, :] for k, x in guest_known.items()}
                error = partial(softmax_error, logits, positive, candidate)
                by_row = error(own_known["row_lse"], own_known.get("share"))
                by_column = error(columns["column_lse"], columns.get("share"))
                to_a = to_b = 0.5 * (by_row + by_column)
                if stop_gradient:
                    to_a, to_b = 0.5 * by_row, 0.5 * by_column
            else:
                to_a = to_b = jnp.where(candidate, jax.nn.sigmoid(logits), 0.0) - positive
                dbias += jnp.sum(to_a)
            dza = at.write(dza, at.read(dza) + _matmul(to_a, guest.z))
            return (dza, dbias), dzb + _matmul(to_b.T, own.z)

        return home.blocks(block, (gradients, dzb))

    zeros = partial(_varying, axes=axes)
    gradients = zeros(jnp.zeros(za.shape, jnp.float32)), zeros(jnp.float32(0.0))
    dzb = zeros(jnp.zeros(zb.shape, jnp.float32))
    visitor = home.guest(zb), {k: x for k, x in known.items() if k != "row_lse"}
    (dza, dbias), dzb = _round_trip(visit, visitor, gradients, dzb, axes)

    # So far these are the derivatives by the logits, multiplied by the other side's embeddings:
    # with each row's own embedding they give sum_ij dL/dlogit_ij cos_ij, the scale's gradient.
    factor = cotangent / _participants(mask, axes)
    dscale = jnp.sum(home.clean(za) * dza)
    if stop_gradient:
        dscale += jnp.sum(home.clean(zb) * dzb)
    dza, dzb = ((factor * scale * dz).astype(z.dtype) for dz, z in ((dza, za), (dzb, zb)))
    return dza, dzb, factor * lax.psum(dscale, axes), factor * lax.psum(dbias, axes)


class _Home:
    """The rows that stay on this device."""

    def __init__(self, z, mask, same, chunk, axes):
        b = len(z)
        start = lax.axis_index(axes) * b if axes else 0
        self.z, self.mask, self.same, self.chunk = z, mask, same, chunk
        self.place = jnp.where(mask, start + jnp.arange(b, dtype=jnp.int32), -1)

    def clean(self, z):
        """Return z in float32, with zeros instead of whatever a masked row holds."""
        return jnp.where(self.mask[:, None], z.astype(jnp.float32), 0.0)

    def guest(self, z):
        """Return the columns that leave from here."""
        return Rows(self.clean(z), self.place, self.same)

    def blocks(self, function, state):
        """Return state after state = function(rows, at, state) for each chunk of the rows."""
        b = len(self.z)

        def step(i, state):
            at = _At(jnp.minimum(i * self.chunk, b - self.chunk), self.chunk)
            # Blocks of one shape: the last one starts early and leaves out what has had its turn.
            new = at.start + jnp.arange(self.chunk) >= i * self.chunk
            place = jnp.where(new, at.read(self.place), -1)
            z = jnp.where(place[:, None] >= 0, at.read(self.z).astype(jnp.float32), 0.0)
            return function(Rows(z, place, tuple(at.read(keys) for keys in self.same)), at, state)

        return lax.fori_loop(0, -(-b // self.chunk), step, state)


class _At(NamedTuple):
    """The place of a chunk among a device's rows."""

    start: jax.Array
    size: int

    def read(self, x):
        return lax.dynamic_slice_in_dim(x, self.start, self.size)

    def write(self, x, part):
        return lax.dynamic_update_slice_in_dim(x, part, self.start, 0)


def _round_trip(visit, guest, home, luggage, axes):
    """Let every device's guest call at all devices; return (home, luggage) when it is back.

    visit(guest, home, luggage) -> (home, luggage): the guest stays as it is, its luggage grows and
    travels with it, what is at home grows at home.
    """
    devices = lax.axis_size(axes) if axes else 1
    if devices == 1:
        return visit(guest, home, luggage)
    neighbours = [(i, (i + 1) % devices) for i in range(devices)]
    onward = partial(lax.ppermute, axis_name=axes, perm=neighbours)

    def call(_, state):
        guest, home, luggage = state
        home, luggage = visit(guest, home, luggage)
        return onward(guest), home, onward(luggage)

    state = lax.fori_loop(0, devices - 1, call, (guest, home, luggage))
    home, luggage = visit(*state)  # the last device of the ring: only the luggage goes home
    return home, onward(luggage)


def _compare(rows: Rows, columns: Rows, scale, bias):
    """Return logits, which pairs belong together and which are negatives, all [chunk, b]."""
    logits = scale * _matmul(rows.z, columns.z.T) + bias
    both = (rows.place[:, None] >= 0) & (columns.place[None, :] >= 0)
    matching = rows.place[:, None] == columns.place[None, :]
    negative = both & ~matching
    for keys, others in zip(rows.same, columns.same, strict=True):
        negative &= ~jnp.all(keys[:, None] == others[None, :], axis=-1)
    return logits, both & matching, negative


def _nothing_met(b, names, axes):
    """Return what is known of each row before it has met a negative: [b] for each name.

    top: the greatest logit; total: softmax's sum of exp(logit - top), or sigmoid's loss; spread:
    the sum of the logits; count: of the negatives; right: the logit of the row's own partner.
    """
    least = {"top": _LEAST}
    return {k: _varying(jnp.full(b, least.get(k, 0.0), jnp.float32), axes) for k in names}


def _meet(seen, logits, negative, axis, kind):
    """Return `seen` with the negatives of a block added, along its rows (axis 1) or columns."""
    met = dict(seen)
    met["top"] = jnp.maximum(seen["top"], jnp.max(jnp.where(negative, logits, _LEAST), axis=axis))

    def add(x):
        return jnp.sum(jnp.where(negative, x, 0.0), axis=axis)

    if "total" in seen and kind == "softmax":
        old = seen["total"] * jnp.exp(seen["top"] - met["top"])
        met["total"] = old + add(jnp.exp(logits - jnp.expand_dims(met["top"], axis)))
    elif "total" in seen:
        met["total"] = seen["total"] + add(jax.nn.softplus(logits))
    if "spread" in seen:
        met["spread"] = seen["spread"] + add(logits)
    if "count" in seen:
        met["count"] = seen["count"] + add(1.0)
    return met


def _log_sum_exp(seen, right):
    """Return the log-sum-exp over all candidates, the right one and the negatives."""
    top = jnp.maximum(seen["top"], right)
    return top + jnp.log(seen["total"] * jnp.exp(seen["top"] - top) + jnp.exp(right - top))


def _participants(mask, axes):
    return jnp.maximum(lax.psum(jnp.sum(mask, dtype=jnp.float32), axes), 1.0)


def _varying(x, axes):
    """Mark a constant as different on each device, which what is added to it will make it."""
    return lax.pcast(x, axes, to="varying") if axes else x
