"""Which texts were met before, in 8 bytes each: ids by the million, captions by the ten million."""

import hashlib
from collections.abc import Iterable

import numpy as np


def text_key(text: str) -> int:
    """Hash a text to 64 bits: 8 bytes in an array, where the text itself would take a hundred."""
    # A text may hold lone surrogates: what becomes of them is decided later.
    return bytes_key(text.encode(errors="surrogatepass"))


def bytes_key(data: bytes) -> int:
    """Hash the content of a file to 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class SeenKeys:
    """A set of 64-bit keys. Two of ten million texts share one with a chance of 1 in 400,000."""

    RECENT = 2**18

    def __init__(self):
        self._recent: set[int] = set()
        self._older = np.empty(0, np.uint64)  # sorted

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def __contains__(self, key: int) -> bool:
        if key in self._recent:
            return True
        place = np.searchsorted(self._older, np.uint64(key))
        return bool(place < len(self._older) and self._older[place] == key)

    def add(self, key: int) -> bool:
        """Remember a key; return whether it is new."""
        if key in self:
            return False
        self._recent.add(key)
        if len(self._recent) >= self.RECENT:
            self._older = np.sort(np.concatenate([self._older, self._array()]))
            self._recent.clear()
        return True

    def update(self, other: "SeenKeys") -> None:
        """Remember all keys of another set too."""
        parts = [self._older, self._array(), other._older, other._array()]
        self._older = np.unique(np.concatenate(parts))
        self._recent.clear()

    def _array(self) -> np.ndarray:
        return np.fromiter(self._recent, np.uint64, len(self._recent))


class FirstSplits:
    """Which split had a key first."""

    def __init__(self):
        self._seen: dict[str, SeenKeys] = {}

    def meet(self, key: int, split: str) -> str | None:
        """Return the split that has the key already; None if it is new, and now is of `split`."""
        for first, keys in self._seen.items():
            if key in keys:
                return first
        self._seen.setdefault(split, SeenKeys()).add(key)
        return None


class Repeats:
    """Keys that come more than once, and how often each is still to come.

    Args:
      keys: all of them, in any order.
    """

    def __init__(self, keys: Iterable[int]):
        unique, counts = np.unique(np.fromiter(keys, np.uint64), return_counts=True)
        self._keys = unique[counts > 1]
        self._left = counts[counts > 1]

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, key: int) -> int:
        """Return how often a key comes after this time, -1 if it comes once."""
        place = self._place(key)
        if place < 0 or not self._left[place]:
            return -1
        self._left[place] -= 1
        return int(self._left[place])

    def _place(self, key: int) -> int:
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return place if place < len(self._keys) and self._keys[place] == np.uint64(key) else -1
