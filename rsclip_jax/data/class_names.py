"""Class names: labels as words, and the order of labels."""

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(\d+)(?:\.0+)?")  # "7", and "7.0", as tables with gaps write it


def words(label: str) -> str:
    """Turn a folder or label name into lower-case words: "AnnualCrop" becomes "annual crop".

    Words are told apart by "_", "/" and white space, and, in a label without white space, by "-"
    and by capitals: "storage-tanks", "SeaLake", "Storage_Tanks/old". Capitals in a row are one
    word: "UAVs", "RSImage" become "uavs", "rs image". Numbers stay as they are.
    """
    if number(label) is not None:
        return label
    text = re.sub(r"[_/\\]", " ", label)
    if len(label.split()) == 1:  # else it is written in words already
        text = "".join(f" {c}" if _begins(text, at) else c for at, c in enumerate(text))
        text = re.sub(r"(?<=\w)-(?=\w)", " ", text)
    return " ".join(text.lower().split())


def _begins(text: str, at: int) -> bool:
    """Tell whether a capital begins a word within a word."""
    if not at or not text[at].isupper():
        return False
    before, after = text[at - 1], text[at + 1 :]
    if before.islower():
        return True
    # The last of several capitals, but not in a plural such as "UAVs"; and "3DModel".
    plural = after[:1] == "s" and not after[1:2].isalpha()
    return before.isupper() and after[:1].islower() and not plural


def number(label: str) -> int | None:
    """Return the number that a label is, None for a label of words."""
    match = _NUMBER.fullmatch(label.strip())
    return int(match[1]) if match else None


def in_order(labels: Iterable[str]) -> list[str]:
    """Sort the distinct labels: as numbers where all of them are numbers, else as text."""
    distinct = set(labels)
    numbers = {label: number(label) for label in distinct}
    if None in numbers.values():
        return sorted(distinct)
    return sorted(distinct, key=lambda label: (numbers[label], label))


def other_order(labels: Iterable[str]) -> list[str]:
    """Sort the distinct labels as many programs do: "a2" before "a10", "b" before "C"."""

    def natural(label: str) -> list:
        parts = re.split(r"(\d+)", label.casefold())
        return [int(part) if part.isdecimal() else part for part in parts]

    return sorted(set(labels), key=lambda label: (natural(label), label))
