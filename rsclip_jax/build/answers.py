"""What a language model is asked for, and the check that its answer is that: one JSON object."""

import json
import re
from collections.abc import Mapping
from typing import Any

# Field -> "text" (a string) or "texts" (a list of strings).
Fields = Mapping[str, str]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("a string", {"type": "string"}),
    "texts": ("a list of strings", {"type": "array", "items": {"type": "string"}}),
}
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?\s*```\Z", re.DOTALL)


class InvalidAnswer(ValueError):
    """The model's answer is not what was asked for; the message tells the model, and us, why."""


def json_schema(fields: Fields) -> dict[str, Any]:
    """Return the JSON Schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": {name: KINDS[kind][1] for name, kind in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def parse_answer(text: str, fields: Fields) -> dict[str, Any]:
    """Read the answer of a model: one JSON object with exactly the given, non-empty fields.

    A `<think>` part before it, which reasoning models write where the server does not take it out,
    and a Markdown fence around it are passed over. Nothing else is: what has to be guessed at was
    not said.

    Returns:
      The fields, white space at their ends removed.

    Raises:
      InvalidAnswer: anything else, keys that nobody asked for included.
    """
    text = _THOUGHTS.sub("", text).strip()
    if fence := _FENCE.fullmatch(text):
        text = fence[1]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidAnswer(f"a JSON object is needed, not a {type(values).__name__}")
    if missing := [name for name in fields if name not in values]:
        raise InvalidAnswer(f"key {missing[0]!r} is missing")
    if extra := sorted(set(values) - set(fields)):
        raise InvalidAnswer(f"key {extra[0][:40]!r} was not asked for")
    return {name: _value(name, kind, values[name]) for name, kind in fields.items()}


def _value(name: str, kind: str, value: Any) -> Any:
    items = value if kind == "texts" else [value]
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InvalidAnswer(f"key {name!r} must hold {KINDS[kind][0]}")
    items = [item.strip() for item in items]
    if not items or not all(items):
        raise InvalidAnswer(f"key {name!r} is empty")
    try:
        "".join(items).encode()
    except UnicodeEncodeError:  # JSON can say "\ud800", text cannot.
        raise InvalidAnswer(f"key {name!r} holds half a character (a lone surrogate)") from None
    return items if kind == "texts" else items[0]
