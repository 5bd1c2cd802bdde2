"""From the config a user gave to one in which nothing is left open; bad values are refused here."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from rsclip_jax import host
from rsclip_jax.data import text
from rsclip_jax.losses.pairs import check_pairs
from rsclip_jax.models import clip, peft, translator
from rsclip_jax.models.kinds import kind_of
from rsclip_jax.training import fields
from rsclip_jax.training.step import check_loss, compared_fields, text_rows

ALL_TRAINED = ((".*", 1.0),)  # config.schedule where nobody has set it


def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Return a copy with the model's and tokenizer's own sizes filled in and paths made absolute.

    Raises:
      ValueError: a field that holds what it cannot, or fields that contradict each other; the
        message names them.
    """
    config = config.copy_and_resolve_references().unlock()
    fields.check(config)
    if ":" in config.tokenizer:
        kind, path = config.tokenizer.split(":", 1)
        config.tokenizer = f"{kind}:{host.local_path(path, 'config.tokenizer')}"
    if config.init_from:  # checkpoints of frozen parameters need it, from wherever they are read
        config.init_from = str(host.local_path(config.init_from, "config.init_from"))
    data_dir = config.input.data_dir
    config.input.data_dir = str(
        host.local_path(data_dir, "config.input.data_dir") if data_dir else workdir / "data"
    )

    config.task = config.get("task", "clip")
    kind = kind_of(config)
    if kind is translator:
        _check_translation(config)
    else:
        _resolve_clip(config)
    _check(config)
    return config


def _resolve_clip(config: ConfigDict) -> None:
    model = config.model
    tokenizer = text.make_tokenizer(config.tokenizer, model.context_length)
    for field, unset, value in (
        ("vocab_size", 0, tokenizer.vocab_size),
        ("eot_id", -1, tokenizer.eot_id),
    ):
        if model[field] not in (unset, value):
            raise ValueError(
                f"config.model.{field}={model[field]}, but the tokenizer {config.tokenizer!r} "
                f"has {value}; leave the field at {unset}"
            )
        model[field] = value
    built = clip.build(model)
    model.image_size, model.activation = built.image_size, built.image.activation
    if model.peft.method and tuple(config.schedule) == ALL_TRAINED:
        config.schedule = ((peft.ADDED, 1.0), (".*", None))
    _check_clip(config)


def _check_clip(config: ConfigDict) -> None:
    lengths, model = config.input.lengths, config.model
    fields.check_lengths(config)
    if config.input.batch_size == 1 and config.loss.kind == "softmax":
        raise ValueError(
            "config.input.batch_size=1: the loss compares the samples of a batch, and with one it "
            "is 0 whatever the weights; expected 2 or more"
        )
    check_pairs(config.loss_pairs)
    for name, field in compared_fields(config).items():
        if name == "ir" and not config.input.ir:
            raise ValueError("config.loss_pairs names 'ir': set config.input.ir=True")
        if name.startswith("txt") and field not in lengths:
            raise ValueError(
                f"config.loss_pairs names {name!r}: give its length, config.input.lengths.{field}"
            )
    pairs = [f"{a}_{b}" for a, b, _ in config.loss_pairs]
    if unknown := sorted(set(config.model.own_scale) - set(pairs)):
        raise ValueError(f"config.model.own_scale names {unknown}: expected some of {pairs}")
    if "ir" not in compared_fields(config):
        for name, unset in (
            ("input.ir_view", "translated"),
            ("model.ir_tower", "shared"),
            ("model.ir_wavelength", 0.0),
        ):
            section, field = name.split(".")
            if (given := config[section][field]) != unset:
                raise ValueError(
                    f"config.{name}={given!r} is of no use: no pair of config.loss_pairs has 'ir'"
                )
    if (config.loss.kind == "sigmoid") != config.model.logit_bias:
        raise ValueError(
            f"config.loss.kind={config.loss.kind!r} and config.model.logit_bias="
            f"{config.model.logit_bias}: the sigmoid loss needs the bias, the softmax has no use "
            "for it"
        )
    check_loss(config)
    width = clip.sizes_of(model).embed_dim
    if config.loss.pcm_dim > width:
        raise ValueError(
            f"config.loss.pcm_dim={config.loss.pcm_dim}: expected at most {width} components, the "
            "width of the embeddings, or 0 for none"
        )
    still = [tower for tower in ("img", "txt") if _freezes(config.schedule, f"{tower}/proj")]
    if still and not config.init_from:
        raise ValueError(
            f"config.schedule={tuple(config.schedule)} freezes {' and '.join(still)}, which would "
            "stay random: name a trained model, --config.init_from=PATH"
        )
    if config.input.pack_text and not text_rows(config)[0]:
        raise ValueError(
            "config.input.pack_text=True is of no use: no pair of config.loss_pairs has a text"
        )
    if config.input.pack_text and model.peft.method == "unipelt":
        raise ValueError(
            "config.input.pack_text=True and config.model.peft.method='unipelt': its gates look at "
            "a whole row of tokens, which must not hold several texts; leave pack_text at False"
        )
    if config.frozen_positions and config.frozen_positions >= config.model.context_length:
        raise ValueError(
            f"config.frozen_positions={config.frozen_positions}: expected fewer than "
            f"config.model.context_length={config.model.context_length}"
        )


def _check_translation(config: ConfigDict) -> None:
    translator.build(config.model)
    weights = {"l1", "adversarial"} if config.model.variant == "pix2pix" else set()
    if not weights <= set(config.loss):
        raise ValueError(
            "config.model.variant='pix2pix' needs the weights config.loss.l1 and "
            "config.loss.adversarial: begin with configs/translator.py:pix2pix"
        )
    if not config.input.ir or config.input.ir_view != "translated":
        raise ValueError(
            "config.task='translation' learns from the records' own infrared images: leave "
            "config.input.ir=True and config.input.ir_view='translated'"
        )
    unused = {name: config[name] for name in ("grad_cache_steps", "frozen_positions", "export")}
    unused |= {f"input.{name}": config.input[name] for name in ("lengths", "pack_text")}
    unset = {"grad_cache_steps": 1, "frozen_positions": 0, "input.pack_text": False}
    for name, field in unused.items():
        given = field.to_dict() if isinstance(field, ConfigDict) else field
        if given != unset.get(name, {}):
            raise ValueError(
                f"config.{name}={given} is of no use to a translator: leave it as in "
                "configs/translator.py"
            )


def _check(config: ConfigDict) -> None:
    if (config.total_steps > 0) == (config.total_epochs > 0):
        raise ValueError(
            f"config.total_steps={config.total_steps}, config.total_epochs={config.total_epochs}: "
            "give exactly one of them"
        )
    profile, end = tuple(config.profile), config.total_steps or float("inf")
    if profile and not (len(profile) == 2 and 1 <= profile[0] <= profile[1] <= end):
        raise ValueError(
            f"config.profile={profile}: expected (first, last), steps from 1 to config.total_steps "
            f"(here {config.total_steps or 'of config.total_epochs'}), or () for no trace"
        )
    best = config.checkpoint.best
    if best and best.split("/")[0] not in config.evals:
        raise ValueError(
            f"config.checkpoint.best={best!r}: expected EVALUATOR/METRIC with one of the "
            f"evaluators {sorted(config.evals)}; --config.checkpoint.best= keeps the newest steps"
        )


def _freezes(schedule: tuple, name: str) -> bool:
    return next((value for pattern, value in schedule if re.fullmatch(pattern, name)), 1.0) is None
