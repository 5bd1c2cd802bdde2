"""Prompt templates of zero-shot classification (prompts.json); "{}" stands for the class name."""

import json
from collections.abc import Sequence
from pathlib import Path

# Name -> {"templates", "normalize_each": before they are averaged?, "source"}.
PROTOCOLS = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates of the protocol `choice`, or `choice` itself where it is a list of them.

    Raises:
      ValueError: unknown name, or a template without "{}".
    """
    if isinstance(choice, str):
        if choice not in PROTOCOLS:
            raise ValueError(
                f"prompts {choice!r}: expected one of {', '.join(PROTOCOLS)}, or own templates, "
                'such as ("an aerial photo of {}.",)'
            )
        return tuple(PROTOCOLS[choice]["templates"])
    if not choice or any("{}" not in template for template in choice):
        raise ValueError(f'templates={choice!r}: every template needs "{{}}", for the class name')
    return tuple(choice)
