"""Evaluators on the command line: `--config.evals.NAME.FIELD=VALUE`."""

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from rsclip_jax import evaluators

_ARGUMENT = re.compile(r"--?(?:no)?config\.evals\.(?P<name>[^.=]+)\.(?P<field>\w+)=?(?P<value>.*)")


def add_evaluators(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Add to `config.evals` what arguments name, in their order, as far as they have a type.

    ml_collections overrides only fields that are there: all evaluators get all their fields.

    Raises:
      ValueError: an evaluator that is not there and gets no type, or an unknown type.
    """
    found = [match for argument in arguments if (match := _ARGUMENT.match(argument))]
    types = {match["name"]: match["value"] for match in found if match["field"] == "type"}
    there = evaluators.in_order(config.evals)
    for match in found:
        name = match["name"]
        if not name.isidentifier():
            raise ValueError(f"{match[0]}: an evaluator is named by letters, digits and _")
        if name in config.evals:
            continue
        if name not in types:
            raise ValueError(
                f"{match[0]}: there is no evaluator {name!r}, {evaluators.expected(name, there)}. "
                f"A new one has a type, --config.evals.{name}.type=TYPE, one of "
                f"{', '.join(evaluators.TYPES)}"
            )
        config.evals[name] = {"type": types[name]}
    for name in evaluators.in_order(config.evals):
        given = config.evals[name].to_dict()
        kind = types.get(name) or given.get("type")
        evaluators.check_type(f"config.evals.{name}.type", kind)
        config.evals[name] = {**evaluators.fields_of(kind), **given}
