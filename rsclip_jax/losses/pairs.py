"""The training loss: a weighted sum of contrastive losses over pairs of embeddings.

`config.loss_pairs` names the pairs: dual text (LRSCLIP, Long-CLIP) is image with long text and
image with short text; trimodal (FusionRS) is RGB, infrared and text with each other.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rsclip_jax.losses.contrastive import pair_loss
from rsclip_jax.losses.pcm import principal_components

NAMES = ("img", "ir", "txt", "txt_long", "txt_ir")
MEANS = ("present", "batch")
PCM_PAIR = {"img", "txt"}

Pairs = Sequence[tuple[str, str, float]]


def _dual_text(long: float, short: float) -> Pairs:
    return (("img", "txt_long", long), ("img", "txt", short))


# LRSCLIP has released no weights: 1:1 is our default; its code has neither smoothing nor PCM and
# gathers without gradient, which we do only when asked (stop_gradient_gather=True).
DUAL_TEXT_PRESETS = {
    "lrsclip": {
        "loss_pairs": _dual_text(1.0, 1.0),
        "label_smoothing": 0.0,
        "pcm_dim": 0,
        "stop_gradient_gather": False,
    },
    "longclip": {
        "loss_pairs": _dual_text(1.0, 1.0),
        "label_smoothing": 0.1,
        "pcm_dim": 32,
        "stop_gradient_gather": False,
    },
    # Long-CLIP's first release, before May 2024: weaker short loss, gather without gradient.
    # Smoothing and dimension are those of the current one.
    "longclip_first": {
        "loss_pairs": _dual_text(1.0, 0.1),
        "label_smoothing": 0.1,
        "pcm_dim": 32,
        "stop_gradient_gather": True,
    },
}


def total_loss(
    out: Mapping[str, jax.Array],
    loss_pairs: Pairs,
    *,
    kind: str = "softmax",
    label_smoothing: float = 0.0,
    pcm_dim: int = 0,
    stop_gradient_gather: bool = False,
    masks: Mapping[str, jax.Array] | None = None,
    same: Mapping[str, jax.Array] | None = None,
    records: jax.Array | None = None,
    weights: jax.Array | Sequence[float] | None = None,
    normalize: bool = False,
    mean: str = "present",
    impl: str = "auto",
    chunk: int = 0,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the weighted sum of the pairs' contrastive losses over the global batch, and metrics.

    Args:
      out: the model's output: "z" + name, [B, D], for every name in loss_pairs; "t", the scale
        (already exp), or "t_a_b" for a pair (a, b) with a scale of its own; "b", the bias, for the
        sigmoid loss.
      loss_pairs: (name, name, weight) of each pair; names as in NAMES, weights >= 0.
      kind, label_smoothing, stop_gradient_gather, impl, chunk, mesh: see `contrastive.pair_loss`.
      pcm_dim: if positive, the image embedding of the pair image with short text ("img", "txt") is
        rebuilt from this many principal components of the global batch (`pcm`).
      masks: name -> bool [B], False where that modality is missing. A pair's mask is the AND of its
        two sides'; names without a mask are always there.
      same: name -> keys [B, K]; rows whose key of one side of a pair is equal are no negatives of
        each other (`text_keys`).
      records: integers [B]; rows of the same record are no negatives of each other, in any pair.
      weights: [len(loss_pairs)], in place of loss_pairs' own; from `pair_weights`, may be traced.
      mean: of a pair's loss: over the rows "present", those that its masks leave, or over all rows
        of the "batch", those left out counting 0. Where a fifth of the rows have infrared images,
        a row of theirs weighs five times as much in the first as in the second.
      normalize: divide by the sum of the weights (FusionRS); LRSCLIP and Long-CLIP do not.

    Returns:
      (loss, metrics): float32 scalars. Metrics of a pair (a, b): `loss_a_b`, `weight_a_b`,
      `acc_a_b` (a retrieves b, fraction in [0, 1]) and `acc_b_a`.

    Raises:
      ValueError: loss_pairs or options that the model's output cannot serve.
    """
    check_pairs(loss_pairs)
    if mean not in MEANS:
        raise ValueError(f"config.loss.mean={mean!r}: expected one of {MEANS}")
    masks, same = masks or {}, same or {}
    _check_inputs(out, loss_pairs, kind, masks)
    if pcm_dim:
        zimg_components = _checked_components(out, loss_pairs, pcm_dim, masks)
    if weights is None:
        weights = [weight for _, _, weight in loss_pairs]
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != (len(loss_pairs),):
        raise ValueError(
            f"weights must hold one number for each of the {len(loss_pairs)} "
            f"config.loss_pairs, got shape {weights.shape}"
        )

    identity = [] if records is None else [records[:, None]]
    total = jnp.float32(0.0)
    metrics = {}
    for (a, b, _), weight in zip(loss_pairs, weights, strict=True):
        z = {name: out["z" + name] for name in (a, b)}
        if pcm_dim and {a, b} == PCM_PAIR:
            z["img"] = zimg_components
        sides = [masks[name] for name in (a, b) if name in masks]
        mask = reduce(and_, sides) if sides else None
        loss, accuracy = pair_loss(
            z[a],
            z[b],
            out.get(f"t_{a}_{b}", out["t"]),
            kind=kind,
            bias=out["b"] if kind == "sigmoid" else None,
            label_smoothing=label_smoothing,
            mask=mask,
            same=[*identity, *(same[name] for name in (a, b) if name in same)],
            stop_gradient_gather=stop_gradient_gather,
            impl=impl,
            chunk=chunk,
            mesh=mesh,
        )
        if mean == "batch" and mask is not None:
            loss *= jnp.mean(mask, dtype=jnp.float32)
        total += weight * loss
        metrics[f"loss_{a}_{b}"] = loss
        metrics[f"weight_{a}_{b}"] = weight
        metrics[f"acc_{a}_{b}"] = accuracy["acc_ab"]
        metrics[f"acc_{b}_{a}"] = accuracy["acc_ba"]
    return (total / jnp.sum(weights) if normalize else total), metrics


def text_keys(ids_BxL: jax.Array) -> jax.Array:
    """Return keys [B, 2] that are equal for equal rows of token ids.

    Different rows have equal keys with a probability below 1e-9 (two multilinear hashes of 32
    bits); such a pair would be left out of the negatives, no more.
    """
    factors = np.random.default_rng(0).integers(2**32, size=(ids_BxL.shape[1], 2), dtype=np.uint32)
    terms = ids_BxL.astype(jnp.uint32)[:, :, None] * (factors | np.uint32(1))
    return jnp.sum(terms, axis=1, dtype=jnp.uint32)


def pair_weights(
    step: jax.Array | int, total_steps: int, loss_pairs: Pairs, curriculum: tuple = ()
) -> jax.Array:
    """Return the pairs' weights at a step: constant, or moving along a cosine.

    Args:
      step: training step, may be traced.
      total_steps: steps of the whole training, >= 1.
      loss_pairs: (name, name, weight) of each pair.
      curriculum: () keeps the weights of loss_pairs. (first, last, start, end) takes `first`, one
        weight a pair, until the fraction `start` of training, `last` from the fraction `end` on,
        and in between last + (first - last) (1 + cos(pi u)) / 2 with u rising from 0 to 1.

    Returns:
      float32 [len(loss_pairs)].

    Raises:
      ValueError: a curriculum of another form.
    """
    check_pairs(loss_pairs)
    if not curriculum:
        return jnp.array([weight for _, _, weight in loss_pairs], jnp.float32)
    first, last, start, end = _checked_curriculum(curriculum, len(loss_pairs))
    progress = jnp.asarray(step, jnp.float32) / total_steps
    u = jnp.clip((progress - start) / (end - start), 0.0, 1.0)
    first, last = jnp.array(first, jnp.float32), jnp.array(last, jnp.float32)
    return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * u))


def check_pairs(loss_pairs: Pairs) -> None:
    """Check config.loss_pairs, without any array.

    Raises:
      ValueError: empty, not (name, name, weight), an unknown or repeated name, a repeated pair, a
        weight that is negative or not a finite number, or no weight above 0.
    """
    if not loss_pairs:
        raise ValueError("config.loss_pairs is empty: name at least one pair, ('img', 'txt', 1.0)")
    seen = set()
    for pair in loss_pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 3:
            raise ValueError(f"config.loss_pairs: expected (name, name, weight), got {pair!r}")
        a, b, weight = pair
        for name in (a, b):
            if name not in NAMES:
                near = difflib.get_close_matches(str(name), NAMES, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"config.loss_pairs: unknown name {name!r} in {pair!r}, "
                    f"expected one of {NAMES}{hint}"
                )
        if a == b:
            raise ValueError(f"config.loss_pairs: {pair!r} pairs {a!r} with itself")
        if frozenset((a, b)) in seen:
            raise ValueError(f"config.loss_pairs: the pair of {a!r} and {b!r} stands there twice")
        seen.add(frozenset((a, b)))
        if not _is_weight(weight):
            raise ValueError(f"config.loss_pairs: {pair!r} needs a finite weight >= 0")
    if not any(weight > 0 for _, _, weight in loss_pairs):
        raise ValueError("config.loss_pairs: all weights are 0, nothing would be learned")


def _is_weight(weight) -> bool:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    return number and math.isfinite(weight) and weight >= 0


def _checked_curriculum(curriculum, pairs):
    form = (
        "config.loss.curriculum must be () or (first weights, last weights, start, end), such as "
        f"((1.0, 0.0), (0.5, 0.5), 0.2, 0.8), with {pairs} weights >= 0, not all 0, as in "
        f"config.loss_pairs, and fractions 0 <= start < end <= 1; got {curriculum!r}"
    )
    if len(curriculum) != 4:
        raise ValueError(form)
    first, last, start, end = curriculum
    for weights in (first, last):
        if not isinstance(weights, Sequence) or len(weights) != pairs:
            raise ValueError(form)
        if not all(_is_weight(w) for w in weights) or not any(weights):
            raise ValueError(form)
    if not (_is_weight(start) and _is_weight(end) and start < end <= 1):
        raise ValueError(form)
    return first, last, start, end


def _check_inputs(out, loss_pairs, kind, masks):
    fields = {
        "img": "it is always made",
        "ir": "set config.input.ir = True",
        "txt": "add 'text' to config.input.lengths",
        "txt_long": "add 'text_long' to config.input.lengths",
        "txt_ir": "add 'text_ir' to config.input.lengths",
    }
    for a, b, _ in loss_pairs:
        for name in (a, b):
            if "z" + name not in out:
                raise ValueError(
                    f"config.loss_pairs wants {name!r}, but the model made only "
                    f"{sorted(key[1:] for key in out if key.startswith('z'))}: {fields[name]}"
                )
    unknown = sorted(set(masks) - set(NAMES))
    if unknown:
        raise ValueError(f"masks of unknown names {unknown}: expected some of {NAMES}")
    if kind == "sigmoid" and "b" not in out:
        raise ValueError("the sigmoid loss needs the model's bias 'b', which its output lacks")


def _checked_components(out, loss_pairs, pcm_dim, masks):
    if not any({a, b} == PCM_PAIR for a, b, _ in loss_pairs):
        raise ValueError(
            f"pcm_dim = {pcm_dim} acts on the pair ('img', 'txt'), which config.loss_pairs lacks: "
            "add it or set pcm_dim to 0"
        )
    if "img" in masks:
        raise ValueError("principal component matching needs an image in every row: no 'img' mask")
    return principal_components(out["zimg"], pcm_dim)
