"""Damaged inputs, drawn from a seed: what a bad disk or bad intent makes of good ones."""

import random
import re

_NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"99999999999999999999", b"4294967296", b"null", b"[]")
_EXTREMES = (b"\x00", b"\x7f", b"\x80", b"\xff")


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Damage one of the inputs at one to four places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_WAYS)(rng, data, seeds)
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, _: list[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _fill(rng: random.Random, data: bytearray, _: list[bytes]) -> None:
    """Put an extreme number of 1 to 8 bytes somewhere: sizes and offsets of binary files."""
    width = rng.choice((1, 2, 4, 8))
    start = rng.randrange(len(data) + 1)
    data[start : start + width] = rng.choice(_EXTREMES) * min(width, len(data) - start)


def _cut(rng: random.Random, data: bytearray, _: list[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(rng: random.Random, data: bytearray, _: list[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randrange(1, 32)]


def _repeat(rng: random.Random, data: bytearray, _: list[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    piece = bytes(data[start : start + rng.randrange(1, 32)])
    data[start:start] = piece * rng.choice((1, 2, 1000))


def _splice(rng: random.Random, data: bytearray, seeds: list[bytes]) -> None:
    other = rng.choice(seeds)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _number(rng: random.Random, data: bytearray, _: list[bytes]) -> None:
    """Change a number that is written in digits."""
    if found := list(re.finditer(rb"\d+", data)):
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(_NUMBERS)


_WAYS = (_flip, _flip, _fill, _fill, _cut, _remove, _repeat, _splice, _number)
