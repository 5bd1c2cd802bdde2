"""Evaluators: made from `config.evals`, run during training and by `rsclip_jax.evaluate`."""

import difflib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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

    Some also draw, `picture(path)`, and tell a report how the numbers came about, `details()`;
    both of the latest run.
    """

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield (metric name, value)."""


def build(config: Any, encoder: Any) -> dict[str, Evaluator]:
    """Make the evaluators of `config.evals`: {name: {"type": ..., field: value, ...}}.

    Data sets are opened and checked here, so that a mistake shows before the training.

    Args:
      encoder: what they use the model by: an `Encoder`, a `Translation` for a translator.

    Raises:
      ValueError: unknown type or field, a required field missing, and whatever the evaluator itself
        finds wrong. FileNotFoundError: no such data set.
    """
    evaluators = {}
    for name, given in config.get("evals", {}).items():
        where = f"config.evals.{name}"
        fields = dict(given)
        kind = fields.pop("type", None)
        if kind not in TYPES:
            raise ValueError(f"{where}.type={kind!r}: {_expected(kind, list(TYPES))}")
        if (kind == "translation") != isinstance(encoder, Translation):
            raise ValueError(f"{where}.type={kind!r} is not for what this config trains")
        known = fields_of(kind)
        for field in fields:
            if field not in known:
                raise ValueError(f"{where}.{field}: no such field; {_expected(field, list(known))}")
        fields = {**known, **fields}
        for field, default in known.items():
            if default == "" and not fields[field]:
                raise ValueError(f"{where} needs the field {field!r}")
        try:
            evaluators[name] = TYPES[kind](config, encoder, **fields)
        except (ValueError, FileNotFoundError) as error:
            error.add_note(f"(while making the evaluator {where})")
            raise
    return evaluators


def fields_of(kind: str) -> dict[str, Any]:
    """Return the fields of one of TYPES, beside `type`, and their defaults ("" if required)."""
    parameters = inspect.signature(TYPES[kind]).parameters.values()
    return {
        p.name: "" if p.default is inspect.Parameter.empty else p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def draw(evaluators: Mapping[str, Evaluator], directory: str | os.PathLike) -> dict[str, Path]:
    """Draw the latest run of those evaluators that can, into DIRECTORY/NAME.png; name -> path."""
    paths = {}
    for name, evaluator in evaluators.items():
        if hasattr(evaluator, "picture"):
            paths[name] = Path(directory) / f"{name}.png"
            evaluator.picture(paths[name])
    return paths


def _expected(given: Any, possible: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(given), possible, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected one of {', '.join(possible)}{hint}"
