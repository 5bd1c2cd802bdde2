"""What the field calls the splits: each has one name here, so that `train` is all of it."""

from collections.abc import Mapping

# `restval` is Karpathy's: of the validation images those that everybody trains on.
SPELLINGS = {
    "train": ("train", "training", "trainset", "restval"),
    "val": ("val", "valid", "validation", "valset", "dev"),
    "test": ("test", "testing", "testset"),
}
_USUAL = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


def is_split(name: str) -> bool:
    """Tell whether this is a usual name of a split, in capitals or not."""
    return name.lower() in _USUAL


def usual_name(name: str, given: Mapping[str, str] | None = None) -> str:
    """Return the name under which a split's records are stored.

    Args:
      given: name -> name wanted by the user, which goes first; other names stay as they are.
    """
    if given and name in given:
        return given[name]
    return _USUAL.get(name.lower(), name)


def held_out(name: str) -> int:
    """Return how much a stored split is held out: 2 of `test`, 1 of `val`, 0 of others."""
    return {"test": 2, "val": 1}.get(name, 0)
