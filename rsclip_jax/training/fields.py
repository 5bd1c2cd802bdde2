"""What the fields of a config may hold: one table, looked at before anything is built."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rsclip_jax.data import captions, synthetic, views
from rsclip_jax.losses import contrastive, pairs
from rsclip_jax.models import attention, blocks, clip, kinds, peft, translator
from rsclip_jax.sharding import AXES
from rsclip_jax.training.workdir import flat


class Kind(NamedTuple):
    """What a field may hold: in words, and as a test of its value."""

    expected: str
    fits: Callable[[Any], bool]


MOST = 2**31 - 1  # that the counters of the devices reach


def _whole(least: int, most: int = MOST, more: str = "") -> Kind:
    expected = f"a whole number, {least} to {most}{more}"
    return Kind(expected, lambda v: type(v) is int and least <= v <= most)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _number(words: str, fits: Callable[[float], bool]) -> Kind:
    return Kind(f"a number{words}", lambda v: _is_number(v) and fits(v))


def _one_of(*words: str) -> Kind:
    return Kind(f"one of {', '.join(map(repr, words))}", lambda v: v in words)


def _tuple_of(words: str, fits: Callable[[Any], bool], count: int | None = None) -> Kind:
    def all_fit(value: Any) -> bool:
        whole = isinstance(value, tuple | list) and count in (None, len(value))
        return whole and all(map(fits, value))

    return Kind(words, all_fit)


def _dictionary_of(words: str, fits: Callable[[Any], bool]) -> Kind:
    return Kind(words, lambda v: _is_dictionary(v) and all(map(fits, v.values())))


def _is_dictionary(value: Any) -> bool:
    return isinstance(value, Mapping | ConfigDict)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def _is_rule(value: Any, of: Callable[[Any], bool]) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and _is_pattern(value[0]) and of(value[1])


def _is_size(value: Any) -> bool:
    numbers = value[:9]
    if not all(type(v) is int and v > 0 for v in numbers):
        return False
    sizes = clip.Sizes(*numbers)
    heads = sizes.image_width % sizes.image_heads, sizes.text_width % sizes.text_heads
    return heads == (0, 0) and all(v in blocks.ACTIVATIONS for v in value[9:])


def _is_range(value: Any) -> bool:
    return all(map(_is_number, value)) and 0 < value[0] <= value[1] <= 1


def _is_axis(value: Any) -> bool:
    return type(value) is int and (value == -1 or value > 0)


NOT_NEGATIVE = _number(", 0 or more", lambda v: v >= 0)
POSITIVE = _number(" above 0", lambda v: v > 0)
SHARE = _number(" from 0 to 1", lambda v: 0 <= v <= 1)
DECAY = _number(" from 0 to below 1", lambda v: 0 <= v < 1)
COUNT, ANY_COUNT = _whole(1), _whole(0)
TEXT = Kind("a string", lambda v: isinstance(v, str))
SWITCH = Kind("True or False", lambda v: type(v) is bool)
DTYPE = _one_of("float32", "bfloat16", "float16")
THREE = "a tuple of three numbers, of red, green and blue on the scale from 0 to 1"
OF_255 = " (those of 0 to 255 divided by 255)"
SPLITS = _tuple_of("", lambda v: isinstance(v, str))

FIELDS: dict[str, Kind] = {
    "seed": _whole(0, 2**32 - 1),
    "total_steps": ANY_COUNT,
    "total_epochs": NOT_NEGATIVE,
    "init_from": TEXT,
    "tokenizer": TEXT,
    "input.data_dir": TEXT,
    "input.data": _dictionary_of(
        "data sets and their mixing weights above 0, such as {'rsicd': 1.0}",
        lambda v: _is_number(v) and v > 0,
    ),
    "input.split": TEXT,
    "input.subset": _number(
        ": a share of the records, above 0 and up to 1, or their number", lambda v: v > 0
    ),
    "input.batch_size": COUNT,
    "input.lengths": _dictionary_of(
        "the number of tokens of each text, such as {'text': 77}",
        lambda v: type(v) is int,
    ),
    "input.pack_text": SWITCH,
    "input.ir": SWITCH,
    "input.ir_view": _one_of(*views.IR_VIEWS),
    "input.ir_text_source": _one_of(*captions.IR_TEXT_SOURCES),
    "input.caption": _one_of(*captions.CAPTION_CHOICES),
    "input.label_words": SWITCH,
    "input.long_caption": _one_of(*captions.LONG_CAPTION_CHOICES),
    "input.crop": Kind(
        "(least, greatest) share of the image area, 0 < least <= greatest <= 1, or () for no crop",
        lambda v: isinstance(v, tuple | list) and (not v or (len(v) == 2 and _is_range(v))),
    ),
    "input.flip": SWITCH,
    "input.right_angles": SWITCH,
    "input.rotate": _number(" of degrees from 0 to 180", lambda v: 0 <= v <= 180),
    "input.augment_text": _one_of(*views.AUGMENT_TEXT),
    "input.threads": _whole(0, 1024),
    "input.workers": ANY_COUNT,
    "input.max_bad_records": ANY_COUNT,
    "scenes.train": ANY_COUNT,
    "scenes.val": ANY_COUNT,
    "scenes.infrared": _one_of(*synthetic.INFRARED),
    "lr": _number(" from 0 to below 1, such as 5e-5", lambda v: 0 <= v < 1),
    "warmup_steps": ANY_COUNT,
    "wd": NOT_NEGATIVE,
    "wd_mask": _tuple_of("a tuple of regular expressions, such as ('.*/kernel',)", _is_pattern),
    "b1": DECAY,
    "b2": DECAY,
    "eps": POSITIVE,
    "grad_clip_norm": NOT_NEGATIVE,
    "schedule": _tuple_of(
        "pairs (regular expression, factor 0 or more, or None for frozen), such as "
        "(('img/.*', None), ('.*', 1.0))",
        lambda v: _is_rule(v, lambda f: f is None or (_is_number(f) and f >= 0)),
    ),
    "frozen_positions": ANY_COUNT,
    "ema_decay": DECAY,
    "max_bad_steps": COUNT,
    "grad_cache_steps": _whole(0, more=" (0: as few as fit)"),
    "mesh": Kind(
        f"the devices along {', '.join(AXES)}, -1 for the rest, such as {{'data': -1, 'fsdp': 1}}",
        lambda v: _is_dictionary(v) and set(v) <= set(AXES) and all(map(_is_axis, v.values())),
    ),
    "sharding": _tuple_of(
        f"pairs (regular expression, tuple of {', '.join(AXES)} or None), such as "
        "(('.*/fc1/kernel', ('fsdp', 'tensor')),)",
        lambda v: _is_rule(
            v, lambda axes: isinstance(axes, tuple | list) and all(a in (*AXES, None) for a in axes)
        ),
    ),
    "log_steps": COUNT,
    "profile": _tuple_of("(first, last) steps, or () for no trace", lambda v: type(v) is int),
    "eval_steps": ANY_COUNT,
    "evals": _dictionary_of("a dictionary of evaluators, each one of its fields", _is_dictionary),
    "checkpoint.steps": ANY_COUNT,
    "checkpoint.minutes": NOT_NEGATIVE,
    "checkpoint.keep": COUNT,
    "checkpoint.best": TEXT,
    "export": _dictionary_of(
        "the splits of data sets, as tuples such as {'scenes': ('val',)}", SPLITS.fits
    ),
}

CLIP_FIELDS: dict[str, Kind] = {
    "model.variant": _one_of(*clip.VARIANTS, "custom"),
    "model.sizes": Kind(
        f"() or, for the variant 'custom', ({', '.join(clip.Sizes._fields)}): whole numbers above "
        "0, heads that divide their widths; the activation may be left out",
        lambda v: isinstance(v, tuple | list) and (not v or (len(v) in (9, 10) and _is_size(v))),
    ),
    "model.image_size": _whole(0, more=" (0: the variant's own)"),
    "model.context_length": _whole(3),
    "model.activation": _one_of("", *blocks.ACTIVATIONS),
    "model.layer_norm_eps": POSITIVE,
    "model.vocab_size": ANY_COUNT,
    "model.eot_id": _whole(-1),
    "model.mean": _tuple_of(THREE + OF_255, SHARE.fits, 3),
    "model.std": _tuple_of(f"{THREE}, above 0{OF_255}", lambda v: SHARE.fits(v) and v > 0, 3),
    "model.init_scale": _number(
        ", 1 or more: what cosines are multiplied with, 1 / temperature, such as 14.3 for 0.07",
        lambda v: v >= 1,
    ),
    "model.logit_bias": SWITCH,
    "model.own_scale": _tuple_of("a tuple of pairs, such as ('img_ir',)", TEXT.fits),
    "model.ir_tower": _one_of(*clip.IR_TOWERS),
    "model.ir_wavelength": _number(
        " of micrometres up to 100, 0.85 for near infrared, 10 for thermal; 0: off",
        lambda v: 0 <= v <= 100,
    ),
    "model.dtype": DTYPE,
    "model.attention": _one_of(*attention.CHOICES),
    "model.scan": SWITCH,
    "model.remat": _one_of("auto", *blocks.REMAT_POLICIES),
    "model.stretch": _one_of("kps", "interpolate", "none"),
    "model.keep": ANY_COUNT,
    "model.ratio": _number(", 1 or more", lambda v: v >= 1),
    "model.peft.method": _one_of(*peft.METHODS),
    "model.peft.targets": Kind("a regular expression", _is_pattern),
    "model.peft.rank": COUNT,
    "model.peft.alpha": POSITIVE,
    "model.peft.reduction": COUNT,
    "model.peft.prefix": ANY_COUNT,
    "model.peft.hidden": COUNT,
    "model.peft.folded": SWITCH,
    "loss_pairs": Kind(
        "(name, name, weight) of each pair, such as (('img', 'txt', 1.0),)",
        lambda v: isinstance(v, tuple | list),
    ),
    "loss.kind": _one_of(*contrastive.KINDS),
    "loss.normalize": SWITCH,
    "loss.mean": _one_of(*pairs.MEANS),
    "loss.label_smoothing": DECAY,
    "loss.mask_same_text": SWITCH,
    "loss.pcm_dim": ANY_COUNT,
    "loss.stop_gradient_gather": SWITCH,
    "loss.impl": _one_of(*contrastive.IMPLS),
    "loss.chunk": ANY_COUNT,
    "loss.curriculum": Kind(
        "(weights at first, weights at last, start, end), or ()",
        lambda v: isinstance(v, tuple | list),
    ),
    "loss.max_scale": NOT_NEGATIVE,
}

TRANSLATOR_FIELDS: dict[str, Kind] = {
    "model.variant": _one_of(*translator.VARIANTS),
    "model.width": COUNT,
    "model.depth": COUNT,
    "model.image_size": COUNT,
    "model.noise": NOT_NEGATIVE,
    "model.steps": COUNT,
    "model.dtype": DTYPE,
    "loss_pairs": Kind("(), for a translator compares no embeddings", lambda v: not v),
}

# What fields hold unless their unit was mistaken: outside of it a run is told (`training.traps`).
USUAL: dict[str, Kind] = {
    "lr": _number(" up to 0.01", lambda v: v <= 0.01),
    "wd": _number(" up to 1, a rate and no percentage", lambda v: v <= 1),
    "b1": _number(" up to 0.99, the share of the mean that each step keeps", lambda v: v <= 0.99),
    "b2": _number(
        ", 0.9 or more, the share of the mean square that each step keeps", lambda v: v >= 0.9
    ),
    "eps": _number(" up to 0.001", lambda v: v <= 1e-3),
    "ema_decay": _number(
        ", 0 (off) or 0.5 and more, the share of the average that each step keeps",
        lambda v: v == 0 or v >= 0.5,
    ),
    "loss.label_smoothing": _number(" up to 0.5", lambda v: v <= 0.5),
    "loss.max_scale": _number(
        ", 0 (off) or 10 and more, of the scale itself and not of its logarithm",
        lambda v: v == 0 or v >= 10,
    ),
    "model.init_scale": _number(
        ", 5 or more, the scale itself and not its logarithm", lambda v: v >= 5
    ),
    "model.layer_norm_eps": _number(" up to 0.001", lambda v: v <= 1e-3),
    "model.noise": _number(" up to 2, the range of infrared levels", lambda v: v <= 2),
}

# What a trained model is run by, beside config.model.
RUN_BY = ("tokenizer", "ema_decay", "input.data_dir", "input.lengths", "evals")
SECTION = Kind("a dictionary", _is_dictionary)
_MISSING = object()
TASKS = {
    "clip": (FIELDS | CLIP_FIELDS, "configs/defaults.py"),
    "translation": (FIELDS | TRANSLATOR_FIELDS, "configs/translator.py"),
}


def check(config: ConfigDict) -> None:
    """Refuse a config with a field that is missing, or that holds what it cannot.

    Fields that nobody knows may hold anything that WORKDIR/config.json can.

    Raises:
      ValueError: names the first such field, what it holds and what is expected.
    """
    task = config.get("task", "clip")
    _refuse_unless(_one_of(*kinds.KINDS), "task", task)
    known, file = TASKS[task]
    values = {name: _value_of(config, name) for name in known}
    if missing := [name for name, value in values.items() if value is _MISSING]:
        raise ValueError(
            f"config.{missing[0]} is missing, which config.task={task!r} needs: begin with the "
            f"config of {file}"
        )
    for name, value in values.items():
        _refuse_unless(known[name], name, value)
    for name, value in flat(config).items():
        _refuse_unless(_STORED, name, value)


def check_model(config: ConfigDict) -> None:
    """Refuse a value that a field of config.model cannot hold; fields may be missing.

    Raises:
      ValueError: see `check`.
    """
    _refuse_unless(SECTION, "model", config.model)
    known, _ = TASKS[config.get("task", "clip")]
    for name, value in flat(config.model, "model.").items():
        if name in known:
            _refuse_unless(known[name], name, value)


def check_stored(config: ConfigDict) -> None:
    """Refuse the config of a run that its model cannot be run by.

    Raises:
      ValueError: see `check`.
    """
    task = config.get("task", "clip")
    _refuse_unless(_one_of(*kinds.KINDS), "task", task)
    for name in RUN_BY:
        if (value := _value_of(config, name)) is _MISSING:
            raise ValueError(f"config.{name} is missing")
        _refuse_unless(TASKS[task][0][name], name, value)
    check_model(config)


def unusual(config: ConfigDict) -> Iterator[str]:
    """Yield a line for each field of a checked config with a value whose unit may be another."""
    for name, kind in USUAL.items():
        if (value := _value_of(config, name)) is not _MISSING and not kind.fits(value):
            yield f"config.{name}={value!r} is unusual: expected {kind.expected}"


def check_lengths(config: ConfigDict) -> None:
    """Refuse texts of more tokens than the model has positions, or of too few.

    Raises:
      ValueError: names the length and what is expected.
    """
    for name, length in config.input.lengths.items():
        if not 2 <= length <= config.model.context_length:
            raise ValueError(
                f"config.input.lengths.{name}={length}: expected 2 to "
                f"config.model.context_length={config.model.context_length}"
            )


def _value_of(config: ConfigDict, name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        value = value.get(key, _MISSING) if isinstance(value, ConfigDict) else _MISSING
    return value


def _refuse_unless(kind: Kind, name: str, value: Any) -> None:
    if not kind.fits(value):
        shown = value.to_dict() if isinstance(value, ConfigDict) else value
        raise ValueError(f"config.{name}={shown!r}: expected {kind.expected}")


def _can_be_stored(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False


_STORED = Kind("numbers, strings and tuples of them, which config.json can hold", _can_be_stored)
