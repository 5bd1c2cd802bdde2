"""Prompt templates of zero-shot classification; "{}" stands for the class name."""

from collections.abc import Sequence

NOUNS = ("remote sensing image", "aerial image", "satellite image")
ADJECTIVES = (
    "low resolution",
    "bad",
    "cropped",
    "bright",
    "dark",
    "close-up",
    "black and white",
    "jpeg corrupted",
    "blurry",
    "good",
)
QUALITIES = ("large", "nice", "small", "weird", "cool")


def georsclip() -> tuple[str, ...]:
    """Return the 105 prompts of GeoRSCLIP (arXiv 2306.11300): 3 nouns times 35 patterns."""
    prompts = []
    for noun in NOUNS:
        thing = f"an {noun}" if noun.startswith("a") else f"a {noun}"
        prompts += [f"{thing} of many {{}}.", f"{thing} of a {{}}.", f"{thing} of the {{}}."]
        prompts += [f"{thing} of {article} hard to see {{}}." for article in ("the", "a")]
        for adjective in ADJECTIVES:
            prompts += [f"a {adjective} {noun} of {article} {{}}." for article in ("the", "a")]
        for quality in QUALITIES:
            prompts += [f"{thing} of {article} {quality} {{}}." for article in ("the", "a")]
    return tuple(prompts)


TEMPLATES = {
    "georsclip": georsclip(),
    # SkyScript and FarSLIP; the second has no full stop in their code either.
    "skyscript": ("a satellite photo of {}.", "a satellite image of {}"),
    "plain": ("a photo of a {}.",),
}


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates called `choice`, or `choice` itself where it is a list of templates.

    Raises:
      ValueError: unknown name, or a template without "{}".
    """
    if isinstance(choice, str):
        if choice not in TEMPLATES:
            raise ValueError(
                f"templates={choice!r}: expected one of {', '.join(TEMPLATES)}, or a tuple of "
                'templates such as ("an aerial photo of {}.",)'
            )
        return TEMPLATES[choice]
    if not choice or any("{}" not in template for template in choice):
        raise ValueError(f'templates={choice!r}: every template needs "{{}}", for the class name')
    return tuple(choice)


def readable(label: str) -> str:
    """Turn a folder or label name into words: "Storage_Tanks/old" becomes "storage tanks old"."""
    return label.replace("_", " ").replace("/", " ").lower()
