"""Where things go in a synthetic scene: what the edge strip leaves, corners, arrangements."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rsclip_jax.data.scenes.description import Scene

STRIP = 0.17  # what an edge strip takes of the picture
QUARTERS = {"horizontal": 0, "vertical": 1, "top": 0, "right": 1, "bottom": 2, "left": 3}


class Rect(NamedTuple):
    """A rectangle in the canvas's coordinates."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Extent in x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent in y."""
        return self.bottom - self.top

    @property
    def middle(self) -> tuple[float, float]:
        """Centre (x, y)."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def turned(self, quarters: int) -> "Rect":
        """Return the rectangle that appears as this one once the canvas is turned."""
        rect = self
        for _ in range(quarters):
            rect = Rect(rect.top, 1 - rect.right, rect.bottom, 1 - rect.left)
        return rect


def main_area(scene: Scene) -> Rect:
    """Return the part of the picture the edge strip leaves."""
    left, top, right, bottom = 0.02, 0.02, 0.98, 0.98
    if scene.edge:
        side = scene.edge[1]
        left += STRIP * (side == "left")
        top += STRIP * (side == "top")
        right -= STRIP * (side == "right")
        bottom -= STRIP * (side == "bottom")
    return Rect(left, top, right, bottom)


def corner_centre(place: str) -> tuple[float, float]:
    """Return (x, y) of what lies in a corner of the picture, such as "upper left"."""
    return (1 if "left" in place else 5) / 6, (1 if "upper" in place else 5) / 6


def scattered(scene: Scene, wobble: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the (x, y) of the cells of main objects, each moved by up to `wobble`.

    The cells are thirds of the picture, whatever lies along its edge: captions name them so. What
    is at most 0.11 in radius stays in its own, even where the drawing is tilted.
    """
    middles = (np.array(scene.cells) + 0.5) / 3
    return [tuple(spot) for spot in middles + rng.uniform(-wobble, wobble, middles.shape)]


def slots(scene: Scene, area: Rect, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Return (x, y, room) for each main object, arranged as the scene says."""
    x, y = area.middle
    places = np.arange(scene.count) - (scene.count - 1) / 2
    if scene.layout == "row":
        step = area.width / max(scene.count, 3)
        return [(x + place * step, 0.5, step) for place in places]
    if scene.layout == "column":
        step = area.height / max(scene.count, 3)
        return [(0.5, y + place * step, step) for place in places]
    if scene.layout == "group":
        if scene.count == 1:
            return [(0.5, 0.5, 0.27)]
        # Two by two; the lower of three stands in the middle. All within the middle third.
        step = 0.16
        lower = (0.0,) if scene.count == 3 else (-0.5, 0.5)
        offsets = [(-0.5, -0.5), (0.5, -0.5), *((place, 0.5) for place in lower)]
        return [(0.5 + dx * step, 0.5 + dy * step, step) for dx, dy in offsets]
    return [(*spot, 0.27) for spot in scattered(scene, 0.018, rng)]


def rows(area: Rect, number: int) -> Iterator[tuple[float, float]]:
    """Yield (middle, height) of each of the horizontal rows that share the area."""
    height = area.height / number
    for row in range(number):
        yield area.top + (row + 0.5) * height, height


def in_corner(scene: Scene, x: float, y: float, quarters: int) -> bool:
    """Tell whether a corner element takes the place of a thing drawn on a turned canvas."""
    for _ in range(quarters):
        x, y = 1 - y, x
    centres = (corner_centre(place) for _, place in scene.corners)
    return any(abs(x - at_x) < 0.19 and abs(y - at_y) < 0.19 for at_x, at_y in centres)
