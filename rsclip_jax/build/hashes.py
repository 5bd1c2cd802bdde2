"""Which 64-bit hashes differ in few bits: by bands, without comparing all with all.

Two hashes that differ in at most r bits agree in at least one of r + 1 bands of bits (the
pigeonhole principle), so only those that agree in a band are compared.
"""

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
import numpy as np

from rsclip_jax.build.components import Components, star_edges

BITS = 64
_FEW = 1024  # so many are compared all with all,
_MANY = 16_384  # a block of so few with so many at a time


def near_pairs(hashes: np.ndarray, radius: int) -> np.ndarray:
    """Return the pairs of hashes that differ in at most `radius` bits.

    Args:
      hashes: uint64 [N], different ones.

    Returns:
      int64 [M, 2], indices i < j, sorted.
    """
    blocks = list(_blocks(hashes, np.arange(len(hashes)), radius, list(range(BITS))))
    pairs = np.concatenate([np.empty((0, 2), np.int64), *blocks])
    return np.unique(pairs, axis=0)


def _blocks(
    hashes: np.ndarray, index: np.ndarray, radius: int, free: list[int]
) -> Iterator[np.ndarray]:
    """Yield pairs among hashes[index], which agree in all bits that are not `free`; some twice."""
    groups: list[tuple[np.ndarray, list[int]]] = []
    parted = len(index) > _FEW and len(free) > radius
    if parted:
        for band in bands(radius, free):
            values = hashes[index] & mask(band)
            order = np.argsort(values, kind="stable")
            cuts = np.flatnonzero(np.diff(values[order])) + 1
            rest = [bit for bit in free if bit not in set(band)]
            groups += [(index[group], rest) for group in np.split(order, cuts) if len(group) > 1]
    # Where nearly all are alike, bands part nothing.
    if not parted or 2 * sum(len(group) ** 2 for group, _ in groups) > len(index) ** 2:
        yield from _all_with_all(hashes, index, radius)
        return
    for group, rest in groups:
        yield from _blocks(hashes, group, radius, rest)


def _all_with_all(hashes: np.ndarray, index: np.ndarray, radius: int) -> Iterator[np.ndarray]:
    index = np.sort(index)
    values = hashes[index]
    for start in range(0, len(index), _FEW):
        for other_start in range(start, len(index), _MANY):
            rows = values[start : start + _FEW, None]
            near = (
                np.bitwise_count(rows ^ values[None, other_start : other_start + _MANY]) <= radius
            )
            one, other = np.nonzero(near)
            one, other = index[start + one], index[other_start + other]
            if (later := one < other).any():
                yield np.stack([one[later], other[later]], axis=1)


def bands(radius: int, bits: list[int]) -> list[list[int]]:
    """Cut bits into radius + 1 bands."""
    return [band.tolist() for band in np.array_split(np.array(bits), radius + 1)]


def mask(bits: list[int]) -> np.uint64:
    """Return the number with these bits set."""
    return np.uint64(sum(1 << bit for bit in bits))


@dataclasses.dataclass
class HashClusters(beam.PTransform):
    """(hash, member) -> (cluster, member): hashes are linked that differ in at most `radius` bits.

    A cluster is a connected component, called by its least hash. Equal hashes are compared once;
    one worker holds all hashes that have a near one.

    Attributes:
      radius: in bits, 0 for equal hashes only.
    """

    radius: int

    def expand(self, members):
        if not self.radius:
            return members
        roots = (
            members
            | beam.Keys()
            | beam.Distinct()
            | "bands" >> beam.FlatMap(_banded, self.radius)
            | "same band" >> beam.GroupByKey()
            | "near" >> beam.FlatMap(_stars, self.radius)
            | beam.CombineGlobally(Components())
            | "roots" >> beam.FlatMap(lambda roots: roots)
        )
        return (
            {"members": members, "root": roots}
            | "by hash" >> beam.CoGroupByKey()
            | "clusters" >> beam.FlatMap(_renamed)
        )


def _banded(digits: str, radius: int) -> Iterator[tuple[str, str]]:
    value = int(digits, 16)
    for number, band in enumerate(bands(radius, list(range(BITS)))):
        yield f"{number}:{value & int(mask(band)):x}", digits


def _stars(element, radius: int) -> Iterator[tuple[str, str]]:
    digits = sorted(element[1])
    if len(digits) > 1:
        hashes = np.array([int(text, 16) for text in digits], np.uint64)
        blocks = _blocks(hashes, np.arange(len(hashes)), radius, list(range(BITS)))
        for one, other in star_edges(len(digits), blocks):
            yield digits[one], digits[other]


def _renamed(element):
    digits, found = element
    root = next(iter(found["root"]), digits)
    return ((root, member) for member in found["members"])
