"""What the training loop asks of a task: what differs between CLIP and a translator."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from rsclip_jax.encoder import Encoder
from rsclip_jax.models import clip
from rsclip_jax.training import initial, translation
from rsclip_jax.training.flops import step_flops
from rsclip_jax.training.optim import trained_names
from rsclip_jax.training.step import compared_fields, make_loss
from rsclip_jax.translation import Translation


@dataclasses.dataclass(frozen=True)
class Task:
    """One of `config.task`. Its models are those of `models.kinds`.

    Attributes:
      make_loss: (model, config, mesh, total_steps, packed_rows) -> (params, batch, step) ->
        (loss, metrics).
      parameters_from: (config, model, mesh) -> parameters of config.init_from, and what checkpoints
        can leave to their source.
      runner: (model, mesh) -> what evaluators use the model by.
      sample_flops: (config, model) -> (rows of texts a sample takes, 0: its own) -> FLOPs of a
        step for a sample, forward and backward, of what is trained.
    """

    make_loss: Callable
    parameters_from: Callable
    runner: Callable
    sample_flops: Callable[[ConfigDict, Any], Callable[..., float]]


def _clip_flops(config: ConfigDict, model: clip.CLIP) -> Callable[..., float]:
    params = jax.eval_shape(lambda: clip.init_params(model, jax.random.key(0)))
    fields = set(compared_fields(config).values())
    trained = trained_names(config, params)
    # Asked at every step, and the numbers of rows are few.
    return functools.cache(
        lambda rows=0: step_flops(model, config.input.lengths, fields, trained, rows)
    )


def _translator_flops(config: ConfigDict, model: Any) -> Callable[..., float]:
    flops = translation.step_flops(config, model)
    return lambda rows=0: flops


TASKS = {
    "clip": Task(make_loss, initial.parameters_from, Encoder, _clip_flops),
    "translation": Task(
        translation.make_loss, translation.parameters_from, Translation, _translator_flops
    ),
}
