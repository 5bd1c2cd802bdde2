"""Which texts were met before, in 8 bytes each: ids by the million, captions by the ten million."""

import hashlib

import numpy as np


def text_key(text: str) -> int:
    """Hash a text to 64 bits: 8 bytes in an array, where the text itself would take a hundred."""
    # A text may hold lone surrogates: what becomes of them is decided later.
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


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
