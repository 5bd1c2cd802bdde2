"""What the field calls the splits: each has one name here, so that `train` is all of it."""

import re
from collections.abc import Mapping

# `restval` is Karpathy's: of the validation images those that everybody trains on.
SPELLINGS = {
    "train": ("train", "training", "trainval", "restval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# What may stand around them: `training_set`, `train2017`, `test_images`, `images-val`.
_WORD = r"(?:set|split|data|images?|imgs?)"
_AROUND = re.compile(rf"(?:{_WORD}[ _-]?)?(.+?)(?:[ _-]?(?:{_WORD}|(?:19|20)\d\d))*")
_USUAL = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


def is_split(name: str) -> bool:
    """Tell whether this is a usual name of a split, in capitals or not."""
    return _usual(name) is not None


def usual_name(name: str, given: Mapping[str, str] | None = None) -> str:
    """Return the name under which a split's records are stored.

    Args:
      given: name -> name wanted by the user, which goes first; other names stay as they are.
    """
    if given and name in given:
        return given[name]
    return _usual(name) or name


def held_out(name: str) -> int:
    """Return how much a stored split is held out: 2 of `test`, 1 of `val`, 0 of others."""
    return {"test": 2, "val": 1}.get(name, 0)


def _usual(name: str) -> str | None:
    match = _AROUND.fullmatch(name.lower())
    return _USUAL.get(match[1]) if match else None
