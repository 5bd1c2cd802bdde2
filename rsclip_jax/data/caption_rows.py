"""Tables with one caption a row: the rows of an image become one sample with all its captions."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from rsclip_jax.data.seen import Repeats, text_key
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
    repeats = Repeats(text_key(sample.id) for sample in read() if not sample.problem)
    held: dict[int, list[Sample]] = {}  # first the merged one, then those that do not agree
    for sample in read():
        key = text_key(sample.id)
        to_come = -1 if sample.problem else repeats.take(key)
        if to_come < 0:
            yield sample
            continue
        captions = getattr(sample, role)
        if key not in held:
            if len(captions) > 1:
                repeats.drop(key)
                yield sample
                continue
            held[key] = [sample]
        else:
            merged = held[key][0]
            if len(captions) <= 1 and _without(sample, role) == _without(merged, role):
                getattr(merged, role).extend(captions)
                merged.position = sample.position
            else:
                held[key].append(sample)
        if not to_come:
            yield from held.pop(key)
    for samples in held.values():  # The file became shorter since it was counted.
        yield from samples


def _without(sample: Sample, role: str) -> Sample:
    """Leave of a sample what its rows must agree in."""
    cleared: dict[str, Any] = {"where": "", "position": 0, role: []}
    return dataclasses.replace(sample, **cleared)
