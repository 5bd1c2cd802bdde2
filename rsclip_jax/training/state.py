"""The train state: a plain dict of counters, `params`, `opt_state` and maybe `ema`."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rsclip_jax.models import clip, peft
from rsclip_jax.models.positions import fit_image_positions, fit_text_positions

State = dict[str, Any]
STRETCH = {"stretch": "kps", "keep": 20, "ratio": 4.0}  # LRSCLIP's and Long-CLIP's


def make_state(params: Any, tx: optax.GradientTransformation, ema: bool) -> State:
    """Wrap parameters into the state of step 0."""
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "opt_state": tx.init(params),
        "bad_steps": jnp.zeros((), jnp.int32),
        "bad_steps_total": jnp.zeros((), jnp.int32),
    }
    if ema:
        # A copy: the donated step must not receive one buffer twice.
        state["ema"] = jax.tree.map(jnp.copy, params)
    return state


def adapt_params(model: clip.CLIP, params: Any, stretch: str, keep: int, ratio: float) -> Any:
    """Fit another run's parameters to this model: text and image positions are resampled.

    Raises:
      ValueError: every parameter that is missing, unexpected or of another shape, in one message.
    """
    grid = model.image_size // model.patch_size
    params = {k: dict(v) if isinstance(v, dict) else v for k, v in params.items()}
    for tower in ("img", "ir"):
        if "pos_embedding" in params.get(tower, {}):
            table = params[tower]["pos_embedding"]
            params[tower]["pos_embedding"] = fit_image_positions(table, grid)
    table = params["txt"]["pos_embedding"]
    params["txt"]["pos_embedding"] = fit_text_positions(
        table, model.context_length, stretch, keep, ratio
    )
    wanted = jax.eval_shape(lambda: clip.init_params(model, jax.random.key(0)))
    shapes = [
        {jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (wanted, params))
    ]
    wrong = [
        f"  {name}: this model has {shapes[0].get(name, 'none')}, "
        f"the checkpoint {shapes[1].get(name, 'none')}"
        for name in sorted(shapes[0].keys() | shapes[1].keys())
        if shapes[0].get(name) != shapes[1].get(name)
    ]
    if wrong:
        raise ValueError("config.init_from does not fit config.model:\n" + "\n".join(wrong))
    return params


def with_added(model: clip.CLIP, params: Any, seed: int) -> Any:
    """Give a base's parameters those that the model has beside them, initialised.

    That is what `model.peft` adds, an infrared tower (a copy of RGB's, or what is added to it), and
    the pairs' own scales (a copy of the common one).

    Args:
      params: of a CLIP with or without them; what is there is kept, of any shape.
      seed: of the initial values.
    """
    copies = {f"t_{pair}": "t" for pair in model.own_scale}
    if model.ir_tower == "separate":
        copies["ir"] = "img"
    missing = {new: params[old] for new, old in copies.items() if new not in params}
    params = {**params, **jax.tree.map(jnp.copy, missing)}

    def added(tree: Any, prefix: str = "") -> Any:
        found = {k: added(v, f"{prefix}{k}/") for k, v in tree.items() if isinstance(v, dict)}
        leaves = {k: v for k, v in tree.items() if not isinstance(v, dict)}
        here = {k: v for k, v in leaves.items() if re.fullmatch(peft.ADDED, prefix + k)}
        return {**{k: v for k, v in found.items() if v}, **here}

    def overlay(new: Any, old: Any) -> Any:
        if not (isinstance(new, dict) and isinstance(old, dict)):
            return old
        return {**new, **old, **{k: overlay(new[k], old[k]) for k in new.keys() & old.keys()}}

    fresh = jax.jit(lambda: added(clip.init_params(model, jax.random.key(seed))))()
    return overlay(fresh, params)


def refit(
    config: ConfigDict, params: Any, context_length: int | None, image_size: int | None
) -> tuple[ConfigDict, Any]:
    """Give a model another text length (KPS where it grows) or image size; None leaves it.

    Raises:
      ValueError: a size that cannot be, the patch size does not divide the image size, or KPS does
        not reach the length.
    """
    config = config.copy_and_resolve_references().unlock()
    if context_length is not None:
        if context_length < 3:
            raise ValueError(f"context_length={context_length}: expected 3 or more text positions")
        lengths = {k: min(n, context_length) for k, n in config.input.lengths.items()}
        config.input.lengths = {**lengths, "text_long": context_length}
        config.model.context_length = context_length
    if image_size is not None:
        if image_size < 1:
            raise ValueError(f"image_size={image_size}: expected 1 or more pixels")
        config.model.image_size = image_size
    stretch = {k: config.model.get(k, v) for k, v in STRETCH.items()}
    return config, adapt_params(clip.build(config.model), params, **stretch)


def to_plain(state: State) -> dict:
    """Turn the state into nested dicts of arrays, which outlive changes of optax's classes."""
    plain: dict = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        *parents, last = [jax.tree_util.keystr((k,), simple=True) for k in path]
        node = plain
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return plain


def from_plain(plain: dict, like: State) -> State:
    """Undo `to_plain`, with `like` giving the structure."""

    def take(path, _):
        node = plain
        for key in path:
            node = node[jax.tree_util.keystr((key,), simple=True)]
        return node

    return jax.tree_util.tree_map_with_path(take, like)
