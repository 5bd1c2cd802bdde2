"""Evaluators: made from `config.evals`, run during training and by `rsclip_jax.evaluate`."""

import difflib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from ml_collections import ConfigDict

from rsclip_jax.evaluators.counterfactual import Counterfactual
from rsclip_jax.evaluators.ir_retrieval import IrRetrieval
from rsclip_jax.evaluators.probe import Probe
from rsclip_jax.evaluators.retrieval import Retrieval
from rsclip_jax.evaluators.semantic_localization import SemanticLocalization
from rsclip_jax.evaluators.translation import TranslationQuality
from rsclip_jax.evaluators.zero_shot import ZeroShot
from rsclip_jax.translation import Translation

TYPES = {
    "retrieval": Retrieval,
    "ir_retrieval": IrRetrieval,
    "zero_shot": ZeroShot,
    "probe": Probe,
    "semantic_localization": SemanticLocalization,
    "translation": TranslationQuality,
    "counterfactual": Counterfactual,
}


class Evaluator(Protocol):
    """What every evaluator can do.

    Some also draw, `picture(path)`, and tell a report more of the numbers, `details()`; both of the
    latest run.

    Attributes:
      protocol: a word or two that name the row of its main numbers.
      metrics: names that `run` yields and config.checkpoint.best may ask for.
    """

    protocol: str
    metrics: tuple[str, ...]

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield (metric name, value)."""

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""


def build(config: Any, encoder: Any) -> dict[str, Evaluator]:
    """Make the evaluators of `config.evals`: {name: {"type": ..., field: value, ...}}.

    Data sets are opened and checked here, so that a mistake shows before the training.

    Args:
      encoder: what they use the model by: an `Encoder`, a `Translation` for a translator.

    Returns:
      name -> evaluator, in the order in which they are written in the config.

    Raises:
      ValueError: see `settle`, and whatever the evaluator itself finds wrong. FileNotFoundError: no
        such data set.
    """
    evaluators = {}
    for name, fields in settle(config).items():
        kind = fields.pop("type")
        if (kind == "translation") != isinstance(encoder, Translation):
            raise ValueError(
                f"config.evals.{name}.type={kind!r} is not for what this config trains"
            )
        try:
            evaluators[name] = TYPES[kind](config, encoder, **fields)
        except (ValueError, FileNotFoundError) as error:
            error.add_note(f"(while making the evaluator config.evals.{name})")
            raise
    return evaluators


def settle(config: Any) -> dict[str, dict[str, Any]]:
    """Return all fields of the evaluators of `config.evals`, defaults included, in their order.

    Raises:
      ValueError: unknown type or field, a value of another type, a required field missing.
    """
    settled = {}
    evals = config.get("evals", {})
    for name in in_order(evals):
        where, given = f"config.evals.{name}", evals[name]
        if not hasattr(given, "items"):
            raise ValueError(
                f"{where}={given!r}: expected fields, such as {where}.type='retrieval'"
            )
        fields = dict(given)
        kind = check_type(f"{where}.type", fields.get("type"))
        known = {"type": kind, **fields_of(kind)}
        types = inspect.signature(TYPES[kind], eval_str=True).parameters
        for field, value in fields.items():
            if field not in known:
                raise ValueError(
                    f"{where}.{field}: type {kind!r} has no such field; "
                    f"{expected(field, list(known))}. If it is left of another type, give all "
                    f"fields anew: --{where}=\"{{'type': '{kind}', ...}}\""
                )
            if field != "type" and not _fits(value, types[field].annotation):
                wanted = _DESCRIBED[types[field].annotation]
                raise ValueError(f"{where}.{field}={value!r}: expected {wanted}")
        fields = known | fields
        for field, default in known.items():
            if default == "" and not fields[field]:
                raise ValueError(f"{where} needs the field {field!r}: --{where}.{field}=...")
        settled[name] = fields
    return settled


def in_order(evals: Any) -> list[str]:
    """Return the names of `config.evals` in the order in which they were given.

    A ConfigDict iterates over its keys sorted; only its JSON has them as they were set.
    """
    if isinstance(evals, ConfigDict):
        return list(json.loads(evals.to_json_best_effort()))
    return list(evals)


def check_type(where: str, kind: Any) -> str:
    """Return the type of an evaluator.

    Raises:
      ValueError: it is none of TYPES; `where` names the field.
    """
    if kind not in TYPES:
        given = f"={kind!r}" if kind else " is not given"
        raise ValueError(f"{where}{given}: {expected(kind, list(TYPES))}")
    return kind


def fields_of(kind: str) -> dict[str, Any]:
    """Return the fields of one of TYPES, beside `type`, and their defaults ("" if required)."""
    parameters = inspect.signature(TYPES[kind]).parameters.values()
    return {
        p.name: "" if p.default is inspect.Parameter.empty else p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def expected(given: Any, possible: Sequence[str]) -> str:
    """Say what was possible, and what is the nearest to what was given."""
    near = difflib.get_close_matches(str(given), possible, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected one of {', '.join(possible) or 'none'}{hint}"


_DESCRIBED: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    bool: "True or False",
    Sequence[str]: "a tuple of strings, such as ('one', 'other'), or ('one',)",
    Sequence[int]: "a tuple of whole numbers, such as (1, 4), or (1,)",
}


def _fits(value: Any, kind: Any) -> bool:
    if kind in (Sequence[str], Sequence[int]):
        (item,) = get_args(kind)
        return isinstance(value, tuple | list) and all(type(v) is item for v in value)
    return type(value) is kind  # True is no whole number


def draw(evaluators: Mapping[str, Evaluator], directory: str | os.PathLike) -> dict[str, Path]:
    """Draw the latest run of those evaluators that can, into DIRECTORY/NAME.png; name -> path."""
    paths = {}
    for name, evaluator in evaluators.items():
        if hasattr(evaluator, "picture"):
            paths[name] = Path(directory) / f"{name}.png"
            evaluator.picture(paths[name])
    return paths
