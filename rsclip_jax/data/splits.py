"""What the field calls the splits: each has one name here, so that `train` is all of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsclip_jax.data.sources import some

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


def of_files(paths: Sequence[Path], notes: list[str]) -> dict[Path, str]:
    """Return the splits that files, or else their folders, are called like; add a note.

    There are none if all were `train`, which is what names no split anyway. A single split of all
    folders does not count: anybody may try things in one called `test`.
    """
    for kind, names in (
        # Numbers at the end do not count: train-0001-of-0008.
        ("file", [re.sub(r"[-_.\d]+(of[-_.\d]+)?$", "", path.stem) for path in paths]),
        ("folder", [path.absolute().parent.name for path in paths]),
    ):
        splits = {
            p: split for p, name in zip(paths, names, strict=True) if (split := of_name(name))
        }
        stored = {usual_name(name) for name in splits.values()}
        if len(stored) > 1 or (kind == "file" and stored - {"train"}):
            others = [path.name for path in paths if path not in splits]
            notes.append(
                f"what names no split itself has that of its {kind}'s name: "
                + some(sorted(set(splits.values())))
                + (f"; not so {some(others)}" if others else "")
                + " (--split decides for all)"
            )
            return splits
    return {}


def of_name(name: str) -> str:
    """Return the split that one word of a name is, as it is spelt: `test` of `rsicd_test`.

    It is "" if none is, or words of several splits are there (`train_val`).
    """
    found = [word for word in re.split(r"[-_. ]", name) if is_split(word)]
    return found[0] if len(set(map(usual_name, found))) == 1 else ""


def drawn(shares: Mapping[str, float], key: int) -> str:
    """Return the split of `shares` that a key of 64 bits falls to, or "" for none.

    The same key always falls to the same split, and so does a copy of the same image.

    Args:
      shares: split -> share of all keys, their sum below 1.
    """
    place = key / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return ""


def held_out(name: str) -> int:
    """Return how much a stored split is held out: 2 of `test`, 1 of `val`, 0 of others."""
    return {"test": 2, "val": 1}.get(name, 0)


def _usual(name: str) -> str | None:
    match = _AROUND.fullmatch(name.lower())
    return _USUAL.get(match[1]) if match else None
