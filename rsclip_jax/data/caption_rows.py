"""Tables with one caption a row: the rows of an image become one sample with all its captions."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from rsclip_jax.data.seen import text_key
from rsclip_jax.data.sources import Sample


def merge_rows(read: Callable[[], Iterator[Sample]], role: str) -> Iterator[Sample]:
    """Merge samples of the same id that have at most one caption each and agree in all else.

    The merged sample has the captions in order of appearance, repeated ones too, and comes in place
    of its last row. Samples of the same id that do not agree follow it as they are; so do all of
    them if the first has several captions. Reading twice keeps the memory small: 8 bytes a row to
    learn which ids are repeated, then only the samples whose last row is still to come.

    Args:
      read: yields the samples, the same ones each time.
      role: the list field that holds the captions.
    """
    repeated, left = _repeated_ids(read())
    held: dict[int, list[Sample]] = {}  # first the merged one, then those that do not agree
    for sample in read():
        place = _find(repeated, sample)
        if place < 0 or not left[place]:
            yield sample
            continue
        left[place] -= 1
        captions = getattr(sample, role)
        if place not in held:
            if len(captions) > 1:
                left[place] = 0
                yield sample
                continue
            held[place] = [sample]
        else:
            merged = held[place][0]
            if len(captions) <= 1 and _without(sample, role) == _without(merged, role):
                getattr(merged, role).extend(captions)
                merged.position = sample.position
            else:
                held[place].append(sample)
        if not left[place]:
            yield from held.pop(place)
    for samples in held.values():  # The file became shorter since it was counted.
        yield from samples


def _repeated_ids(samples: Iterable[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted keys of the ids that several samples have, and how many have each."""
    keys = (text_key(sample.id) for sample in samples if not sample.problem)
    unique, counts = np.unique(np.fromiter(keys, np.uint64), return_counts=True)
    return unique[counts > 1], counts[counts > 1]


def _find(repeated: np.ndarray, sample: Sample) -> int:
    """Return where in `repeated` the sample's id is, or -1."""
    if sample.problem or not len(repeated):
        return -1
    key = np.uint64(text_key(sample.id))
    place = int(np.searchsorted(repeated, key))
    return place if place < len(repeated) and repeated[place] == key else -1


def _without(sample: Sample, role: str) -> Sample:
    """Leave of a sample what its rows must agree in."""
    cleared: dict[str, Any] = {"where": "", "position": 0, role: []}
    return dataclasses.replace(sample, **cleared)
