"""Which 64-bit hashes differ in few bits: by bands, without comparing all with all.

Cut into r + m bands of bits, two hashes that differ in at most r bits agree in at least m of the
bands (the pigeonhole principle), so only those are compared that agree in some m bands. The more
hashes there are, the more bits they have to agree in.
"""

import array
import dataclasses
import itertools
from collections.abc import Iterator

import apache_beam as beam
import numpy as np

from rsclip_jax.build.components import star_edges
from rsclip_jax.build.shuffle import CoGroupByKey

BITS = 64
_FEW = 1024  # so many are compared all with all,
_MANY = 16_384  # a block of so few with so many at a time
_FULL = 16  # hashes that may agree in a key by chance
_MOST_BANDS = 3  # 35 keys of 27 bits for a radius of 4


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
    keys = band_keys(len(index), radius, free) if len(index) > _FEW else []
    for key in keys:
        values = hashes[index] & mask(key)
        order = np.argsort(values)
        cuts = np.flatnonzero(np.diff(values[order])) + 1
        starts = np.concatenate([[0], cuts])
        lengths = np.diff(starts, append=len(index))
        # Where nearly all are alike, bands part nothing.
        if 2 * len(keys) * (lengths.astype(float) ** 2).sum() > float(len(index)) ** 2:
            keys = []
            break
        few = np.repeat(lengths <= _FEW, lengths)
        ends = np.repeat(starts + lengths, lengths)
        yield from _within_runs(hashes, index[order], np.flatnonzero(few), ends, radius)
        rest = [bit for bit in free if bit not in set(key)]
        for start, length in zip(starts[lengths > _FEW], lengths[lengths > _FEW], strict=True):
            yield from _blocks(hashes, index[order[start : start + length]], radius, rest)
    if not keys:
        yield from _all_with_all(hashes, index, radius)


def band_keys(count: int, radius: int, free: list[int]) -> list[list[int]]:
    """Return sets of bits, one of which any two of `count` hashes agree in that are near.

    Empty if there are too few bits for that.
    """
    for agree in range(1, len(free) - radius + 1):
        bands = [band.tolist() for band in np.array_split(np.array(free), radius + agree)]
        bits = agree * len(free) // (radius + agree)
        if 2**bits * _FULL >= count or agree == _MOST_BANDS:
            return [list(itertools.chain(*of)) for of in itertools.combinations(bands, agree)]
    return []


def _within_runs(
    hashes: np.ndarray, index: np.ndarray, places: np.ndarray, ends: np.ndarray, radius: int
) -> Iterator[np.ndarray]:
    """Yield pairs of each of `places` in `index` with those after it, before its run's end."""
    values = hashes[index]
    step = 1
    while len(places := places[places + step < ends[places]]):
        near = places[np.bitwise_count(values[places] ^ values[places + step]) <= radius]
        if len(near):
            yield np.sort(np.stack([index[near], index[near + step]], axis=1), axis=1)
        step += 1


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


def mask(bits: list[int]) -> np.uint64:
    """Return the number with these bits set."""
    return np.uint64(sum(1 << bit for bit in bits))


@dataclasses.dataclass
class HashClusters(beam.PTransform):
    """(hash, member) -> (cluster, member): hashes are linked that differ in at most `radius` bits.

    A cluster is a connected component, called by its least hash. One worker holds all hashes, eight
    bytes each, and compares them.

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
            | beam.CombineGlobally(_Distinct())
            | "near" >> beam.FlatMap(_clusters, self.radius)
        )
        return (
            {"members": members, "root": roots}
            | "by hash" >> CoGroupByKey()
            | "clusters" >> beam.FlatMap(_renamed)
        )


class Gathered(beam.CombineFn):
    """Gather numbers below 2^64, eight bytes each; `extract_output` tells what they come to."""

    def create_accumulator(self):
        return array.array("Q")

    def add_input(self, held, number):
        held.append(number)
        return held

    def merge_accumulators(self, accumulators):
        total = self.create_accumulator()
        for held in accumulators:
            total.extend(held)
        return total


class _Distinct(Gathered):
    """Combine hexadecimal hashes into the different ones of them, as bytes of uint64."""

    def add_input(self, held, digits):
        return super().add_input(held, int(digits, 16))

    def extract_output(self, held):
        return np.unique(np.array(held, np.uint64)).tobytes()


def _clusters(distinct: bytes, radius: int) -> Iterator[tuple[str, str]]:
    """Yield (hash, least hash of its cluster) of the hashes that are not alone."""
    hashes = np.frombuffer(distinct, np.uint64)
    blocks = _blocks(hashes, np.arange(len(hashes)), radius, list(range(BITS)))
    for root, other in star_edges(len(hashes), blocks):
        yield f"{hashes[other]:016x}", f"{hashes[root]:016x}"


def _renamed(element):
    digits, found = element
    root = next(iter(found["root"]), digits)
    return ((root, member) for member in found["members"])
