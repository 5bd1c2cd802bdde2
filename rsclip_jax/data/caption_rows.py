"""Tables with one caption a row: the rows of an image become one sample with all its captions."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from rsclip_jax.data.seen import Repeats, text_key
from rsclip_jax.data.sources import Sample
from rsclip_jax.data.splits import held_out


def merge_rows(
    read: Callable[[], Iterator[Sample]], role: str, split_of: Callable[[Sample], str]
) -> Iterator[Sample]:
    """Merge samples of the same id that have at most one caption each and agree in all else.

    Splits agree if they are stored under one name.

    The merged sample has the captions in order of appearance, repeated ones too. It comes in place
    of the last row of its id, with the samples of this id that do not agree: those of held-out
    splits first, for of one id the first is kept. Reading twice keeps the memory small: 8 bytes a
    row to learn which ids are repeated, then only the samples whose last row is still to come.

    Args:
      read: yields the samples, the same ones each time.
      role: the list field that holds the captions; "": there are none, and nothing is merged.
      split_of: the name that the split of a sample is stored under.
    """
    repeats = Repeats(text_key(sample.id) for sample in read() if not sample.problem)
    held: dict[int, list[Sample]] = {}
    merged: dict[int, dict[str, Sample]] = {}  # of those held, what rows that agree go into
    for sample in read():
        key = text_key(sample.id)
        to_come = -1 if sample.problem else repeats.take(key)
        if to_come < 0:
            yield sample
            continue
        captions = getattr(sample, role) if role else []
        told = _all_but_captions(sample, role, split_of(sample)) if role else ""
        into = merged.get(key, {}).get(told)
        if into and len(captions) <= 1:
            getattr(into, role).extend(captions)
            into.mended.extend(sample.mended)
            into.position = sample.position
        else:
            if role and not into and len(captions) <= 1:
                merged.setdefault(key, {})[told] = sample
            held.setdefault(key, []).append(sample)
        if not to_come:
            merged.pop(key, None)
            yield from _held_out_first(held.pop(key), split_of)
    for samples in held.values():  # The file became shorter since it was counted.
        yield from _held_out_first(samples, split_of)


def _held_out_first(samples: list[Sample], split_of: Callable[[Sample], str]) -> list[Sample]:
    return sorted(samples, key=lambda sample: -held_out(split_of(sample)))


def _all_but_captions(sample: Sample, role: str, split: str) -> str:
    """Write down what the rows of a sample must agree in."""
    cleared: dict[str, Any] = {"where": "", "position": 0, "mended": [], "extra": {}, role: []}
    return repr(dataclasses.replace(sample, **cleared, split=split))
