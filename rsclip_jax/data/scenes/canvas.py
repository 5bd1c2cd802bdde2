"""A canvas of materials and light, and how it turns into a colour or an infrared image.

Painters write which material lies where and how much light it gets; both images are looked up from
that one pair of maps, so they are aligned to the pixel.
"""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from rsclip_jax.data.scenes import palette
from rsclip_jax.data.scenes.description import Scene

SIDE = 384  # pixels of the maps: 3 x 3 for one pixel of a 128 pixel image
NEUTRAL = 128  # light that leaves a material as the palette has it
SHADOW = 62
_SHIFT = 4  # OpenCV's sub-pixel bits
_ONE = 2**_SHIFT
_NOISE_SIDE = 1024
_DOWN = {"right": 1.0, "left": -1.0, "upper": -1.0, "lower": 1.0}

Points = Sequence[tuple[float, float]] | np.ndarray


class Canvas:
    """Materials and light of one scene.

    Coordinates are x to the right and y down, 0 to 1 across the picture; the whole drawing is
    turned by a slight `tilt`, so things at the border should reach beyond it. `turn(k)` makes what
    is drawn afterwards appear rotated by k quarter turns clockwise about the centre.

    Attributes:
      material: uint8 [SIDE, SIDE], numbers of `palette.IDS`.
      light: uint8 [SIDE, SIDE], `NEUTRAL` where nothing shades or lights.
    """

    def __init__(self, tilt: float, sun: str):
        self.material = np.full((SIDE, SIDE), palette.IDS[palette.GROUND], np.uint8)
        self.light: np.ndarray = np.full((SIDE, SIDE), NEUTRAL, np.uint8)
        self._tilt = tilt
        vertical, horizontal = sun.split()
        self._sun = 0.7 * _DOWN[horizontal], 0.7 * _DOWN[vertical]
        self.turn(0)

    def turn(self, quarters: int) -> None:
        """Rotate everything drawn from now on by quarter turns clockwise (0: back to upright)."""
        angle = self._tilt + quarters * np.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        self._rows = ((cos, sin), (-sin, cos))
        self._matrix = np.array(self._rows)

    def pixels(self, points: Points) -> np.ndarray:
        """Map points [N, 2] to pixel positions of the maps, float64 [N, 2]."""
        return ((np.asarray(points, float) - 0.5) @ self._matrix + 0.5) * SIDE - 0.5

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        (a, b), (c, d) = self._rows
        x, y = x - 0.5, y - 0.5
        return (x * a + y * c + 0.5) * SIDE - 0.5, (x * b + y * d + 0.5) * SIDE - 0.5

    def polygon(
        self, points: Points, material: str | None, *, light: int = NEUTRAL, height: float = 0.0
    ) -> None:
        """Fill a polygon; None as material only changes the light, a `height` casts a shadow."""
        corners = self.pixels(points)
        if height:
            for part in (0.5, 1.0):
                shadow = [_fixed(corners + np.multiply(self._sun, height * part * SIDE))]
                cv2.fillPoly(self.light, shadow, SHADOW, cv2.LINE_8, _SHIFT)
        fixed = [_fixed(corners)]
        if material is not None:
            cv2.fillPoly(self.material, fixed, palette.IDS[material], cv2.LINE_8, _SHIFT)
        cv2.fillPoly(self.light, fixed, int(light), cv2.LINE_8, _SHIFT)

    def disc(
        self,
        x: float,
        y: float,
        radius: float,
        material: str | None,
        *,
        light: int = NEUTRAL,
        height: float = 0.0,
    ) -> None:
        """Fill a circle; see `polygon`."""
        column, row = self._pixel(x, y)
        if height:
            for part in (0.5, 1.0):
                reach = height * part * SIDE
                spot = column + self._sun[0] * reach, row + self._sun[1] * reach
                self._circle(self.light, *spot, radius, SHADOW)
        if material is not None:
            self._circle(self.material, column, row, radius, palette.IDS[material])
        self._circle(self.light, column, row, radius, light)

    def glint(self, x: float, y: float, radius: float, light: int) -> None:
        """Lighten the sunny side of a round thing."""
        column, row = self._pixel(x, y)
        reach = 0.35 * radius * SIDE
        spot = column - self._sun[0] * reach, row - self._sun[1] * reach
        self._circle(self.light, *spot, radius * 0.62, light)

    def _circle(self, layer: np.ndarray, column: float, row: float, radius: float, value: int):
        centre = round(column * _ONE), round(row * _ONE)
        size = round(radius * SIDE * _ONE)
        cv2.circle(layer, centre, size, int(value), -1, cv2.LINE_8, _SHIFT)

    def line(
        self, points: Points, width: float, material: str | None, *, light: int | None = NEUTRAL
    ) -> None:
        """Draw an open line, `width` wide; None leaves the material or the light as it is."""
        fixed = [_fixed(self.pixels(points))]
        thickness = max(1, round(width * SIDE))
        if material is not None:
            number = palette.IDS[material]
            cv2.polylines(self.material, fixed, False, number, thickness, cv2.LINE_8, _SHIFT)
        if light is not None:
            cv2.polylines(self.light, fixed, False, int(light), thickness, cv2.LINE_8, _SHIFT)

    def is_only(self, material: str, x: float, y: float, radius: float) -> bool:
        """Tell whether a square about a point lies inside the picture and holds one material."""
        (column, row), reach = self._pixel(x, y), radius * SIDE
        low, high = min(column, row) - reach, max(column, row) + reach
        if low < 0 or high >= SIDE:
            return False
        area = self.material[
            int(row - reach) : int(row + reach) + 1, int(column - reach) : int(column + reach) + 1
        ]
        return bool((area == palette.IDS[material]).all())

    def ripple(self, angle: float, waves: float, depth: float, rng: np.random.Generator) -> None:
        """Shade the ground in long wavy ridges (dunes, swell) running along `angle`."""
        coarse = 96
        y, x = np.mgrid[0:coarse, 0:coarse] / coarse
        across = x * np.sin(angle) + y * np.cos(angle)
        along = x * np.cos(angle) - y * np.sin(angle)
        phase = rng.uniform(0, 2 * np.pi, 3)
        bend = 0.030 * np.sin(9 * along + phase[0]) + 0.018 * np.sin(21 * along + phase[1])
        wave = np.sin(2 * np.pi * waves * (across + bend) + phase[2])
        # A sharp crest: slowly lit on one side, steep and dark on the other.
        shape = (wave + 0.35 * np.sin(4 * np.pi * waves * (across + bend) + 2 * phase[2])) * depth
        shade = cv2.resize(
            (shape * NEUTRAL).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR
        )
        self.light = cv2.add(self.light, shade, dtype=cv2.CV_8U)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * _ONE).astype(np.int32)


@functools.cache
def _textures() -> tuple[np.ndarray, np.ndarray]:
    """Return the rough and the tree crown texture, float32 with mean 0 and deviation 1."""
    rng = np.random.default_rng(20240229)
    shape = (_NOISE_SIDE, _NOISE_SIDE)
    rough = np.zeros(shape, np.float32)
    for sigma, weight in ((1.6, 1.0), (6.0, 0.55), (14.0, 0.55), (30.0, 0.6)):
        layer = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), sigma)
        rough += weight * layer / layer.std()
    crowns = np.full(shape, 70, np.uint8)
    for x, y in rng.integers(0, _NOISE_SIDE, (9000, 2)):
        radius = int(rng.integers(8, 14))
        tone = int(rng.integers(90, 130))
        cv2.circle(crowns, (int(x), int(y)), radius, tone, -1)
        cv2.circle(crowns, (int(x) - 2, int(y) - 2), radius * 6 // 10, tone + 45, -1)
    canopy = cv2.GaussianBlur(crowns.astype(np.float32), (0, 0), 1.2)
    return tuple((layer - layer.mean()) / layer.std() for layer in (rough, canopy))


def _relief(
    canvas: Canvas, surfaces: list[palette.Surface], size: int, rng: np.random.Generator
) -> np.ndarray:
    """Return light times texture, float32 [size, size], 1 where nothing shades or lights."""
    factor = canvas.light.astype(np.float32)
    factor *= 1 / NEUTRAL
    table = np.zeros(256, np.float32)
    for texture, field in zip(_textures(), ("rough", "canopy"), strict=True):
        x, y = rng.integers(0, _NOISE_SIDE - SIDE, 2)
        table[: len(surfaces)] = [getattr(surface, field) for surface in surfaces]
        if table.any():
            amount = cv2.LUT(canvas.material, table)
            amount *= texture[y : y + SIDE, x : x + SIDE]
            amount += 1
            factor *= amount
    return cv2.resize(factor, (size, size), interpolation=cv2.INTER_AREA)


def develop(
    canvas: Canvas, scene: Scene, size: int, infrared: str = "near"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour image, uint8 [size, size, 3], and the infrared one, uint8 [size, size].

    Args:
      infrared: "near" or "thermal"; the colour image is the same with both.
    """
    rng = np.random.default_rng((scene.seed, scene.index, 2))
    surfaces = [scene.surface(name) for name in palette.NAMES]
    table = np.zeros((256, 4))
    table[: len(surfaces)] = [
        (*surface.rgb, palette.infrared_value(surface, infrared)) for surface in surfaces
    ]
    # Another camera, another day: brightness, tint, and every surface a little off.
    table[:, :3] *= rng.uniform(0.92, 1.06) * rng.uniform(0.98, 1.02, 3)
    table[:, :3] *= rng.uniform(0.96, 1.04, (256, 1))
    table[:, 3] *= rng.uniform(0.95, 1.05)
    # Through haze colours fade.
    table[:, :3] = 0.9 * table[:, :3] + 0.1 * table[:, :3].mean(1, keepdims=True)
    # Four bytes looked up as one number: twice as fast as four channels.
    packed = np.clip(table, 0, 255).astype(np.uint8).view(np.int32)
    channels = cv2.LUT(canvas.material, packed).view(np.uint8).reshape(SIDE, SIDE, 4)
    small = cv2.resize(channels, (size, size), interpolation=cv2.INTER_AREA)
    relief = _relief(canvas, surfaces, size, rng)
    lit = cv2.multiply(small, cv2.merge([relief] * 4), dtype=cv2.CV_32F)
    return _colour(lit[..., :3], relief), _infrared(lit[..., 3], rng)


def _colour(lit: np.ndarray, relief: np.ndarray) -> np.ndarray:
    # The sky lights shadows, with its blue.
    shade = cv2.max(1 - relief, 0.0)  # type: ignore[call-overload]
    sky = shade[..., None] * np.array((8, 12, 24), np.float32)
    return cv2.convertScaleAbs(lit + sky, alpha=0.93, beta=10)


def _infrared(lit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # This sensor is a little softer and noisier than the colour camera.
    image: np.ndarray = cv2.GaussianBlur(lit, (0, 0), 0.5 * len(lit) / 128)
    image += 2.0 * rng.standard_normal(lit.shape, np.float32)
    return cv2.convertScaleAbs(cv2.max(image, 0.0))  # type: ignore[call-overload]
