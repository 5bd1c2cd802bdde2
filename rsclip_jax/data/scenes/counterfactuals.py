"""Pairs of captions of a synthetic scene: a true one, and one with a single fact changed.

The facts are read off the description, and what they are changed to is certainly false of it.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rsclip_jax.data.scenes.captions import (
    located,
    long_caption,
    main_words,
    statement,
    where_words,
)
from rsclip_jax.data.scenes.description import KINDS, Scene

# What is changed -> what the two captions of a pair differ in.
CHANGES = {
    "left_right": "left and right swapped",
    "upper_lower": "top and bottom, upper and lower swapped",
    "count": "another number of main objects",
    "colour": "another colour of the main objects",
    "relation": "two things swapped: above, below, left of, right of each other",
    "long": "another thing at a place, told at the end of a long caption, behind token 77",
}
_MIRROR = {
    "left_right": {"left": "right", "right": "left"},
    "upper_lower": {"top": "bottom", "bottom": "top", "upper": "lower", "lower": "upper"},
}
# Where roads run anyway, one along the edge is no fact to tell apart.
_WITH_ROADS = ("dense residential", "bridge")


class Pair(NamedTuple):
    """A caption that is true of a scene, and one that differs in one fact and is false."""

    true: str
    false: str


class _Thing(NamedTuple):
    """What something is called, and the thirds of the picture it takes: first and last."""

    words: str
    columns: tuple[int, int]
    rows: tuple[int, int]


def pair(scene: Scene, change: str) -> Pair | None:
    """Return a pair of captions with one of `CHANGES`, the same for the same scene.

    None where the scene has no such fact: nothing to its left or right, one possible number.
    """
    number = list(CHANGES).index(change)
    rng = np.random.default_rng((scene.seed, scene.index, 8, number))
    pairs = list(_pairs(scene, change))
    return pairs[int(rng.integers(len(pairs)))] if pairs else None


def _pairs(scene: Scene, change: str) -> Iterator[Pair]:
    """Yield all pairs that a scene offers."""
    kind = KINDS[scene.kind]
    if change in _MIRROR:
        for words, where in _places(scene):
            mirrored = " ".join(_MIRROR[change].get(word, word) for word in where.split())
            if mirrored != where:
                yield Pair(*(statement(scene, f"{words} {at}") for at in (where, mirrored)))
    elif change == "count":
        for count in kind.counts:
            if count != scene.count:
                yield Pair(statement(scene), statement(dataclasses.replace(scene, count=count)))
    elif change == "colour":
        for colour in kind.colours:
            if colour != scene.colour:
                yield Pair(statement(scene), statement(dataclasses.replace(scene, colour=colour)))
    elif change == "relation":
        for one, other, relation in _relations(scene):
            yield Pair(
                f"An aerial image with {one} {relation} {other}.",
                f"An aerial image with {other} {relation} {one}.",
            )
    else:
        for false, where in _replaced(scene):
            yield Pair(long_caption(scene, where), long_caption(false, where))


def _places(scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield (words that lead to it, place) of all that has one to itself."""
    for _, words, where in _told(scene):
        yield f" and {words}", where_words(where)
    if scene.count == 1 and scene.cells:
        ((column, row),) = scene.cells
        if (column, row) != (1, 1):
            place = f"{('upper', 'middle', 'lower')[row]} {('left', 'middle', 'right')[column]}"
            yield "", f"in the {place} of the picture"


def _told(scene: Scene) -> list[tuple[str, str, str]]:
    return [
        (thing, words, where)
        for thing, words, where in located(scene)
        if not (thing == "road" and scene.kind in _WITH_ROADS)
    ]


def _relations(scene: Scene) -> Iterator[tuple[str, str, str]]:
    """Yield (words, words, relation) of things of which one lies wholly beyond the other."""
    thirds = {"left": (0, 0), "right": (2, 2), "top": (0, 0), "bottom": (2, 2)}
    things = []
    for _, words, where in _told(scene):
        at = where.replace("upper", "top").replace("lower", "bottom").split()
        across = [thirds[word] for word in at if word in ("left", "right")]
        down = [thirds[word] for word in at if word in ("top", "bottom")]
        things.append(_Thing(words, *(across or [(0, 2)]), *(down or [(0, 2)])))
    cells = scene.cells or ((1, 1),) * (scene.layout == "group")
    if cells:
        columns, rows = zip(*cells, strict=True)
        spans = (min(columns), max(columns)), (min(rows), max(rows))
        things.append(_Thing(main_words(scene), *spans))
    for one in things:
        for other in things:
            if one.columns[1] < other.columns[0]:
                yield one.words, other.words, "to the left of"
                yield other.words, one.words, "to the right of"
            if one.rows[1] < other.rows[0]:
                yield one.words, other.words, "above"
                yield other.words, one.words, "below"


def _replaced(scene: Scene) -> Iterator[tuple[Scene, str]]:
    """Yield scenes with another thing along the edge or in a corner, and where that is."""
    kind = KINDS[scene.kind]
    if scene.edge:
        thing, side = scene.edge
        for other in kind.edges:
            if other != thing and not (other == "road" and scene.kind in _WITH_ROADS):
                yield dataclasses.replace(scene, edge=(other, side)), side
    there = {thing for thing, _ in scene.corners}
    for number, (_, where) in enumerate(scene.corners):
        for other in kind.corners:
            if other not in there:
                corners = list(scene.corners)
                corners[number] = (other, where)
                yield dataclasses.replace(scene, corners=tuple(corners)), where
