"""The things that stand in synthetic scenes: trees, houses, ships, aeroplanes, cars."""

import numpy as np

from rsclip_jax.data.scenes.canvas import NEUTRAL, Canvas
from rsclip_jax.data.scenes.palette import MAIN


def box(x: float, y: float, width: float, height: float, angle: float = 0.0) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)
    return corners @ np.array([(cos, sin), (-sin, cos)]) + (x, y)


def blob(
    x: float, y: float, rx: float, ry: float, rng: np.random.Generator, wobble: float = 0.1
) -> np.ndarray:
    """Return a smooth closed outline; `wobble` is the depth of its bays relative to the radius."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    for waves in (2, 3, 5):
        radius += wobble / waves * 1.6 * np.sin(waves * angle + rng.uniform(0, 2 * np.pi))
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], -1)


def vary(rng: np.random.Generator, spread: int = 14) -> int:
    return NEUTRAL + int(rng.integers(-spread, spread + 1))


def tree(canvas: Canvas, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    light = vary(rng)
    canvas.disc(x, y, radius, "tree", light=light - 18, height=radius * 0.9)
    canvas.glint(x, y, radius, light + 40)


def dashes(canvas: Canvas, start: tuple, end: tuple, number: int, width: float = 0.008) -> None:
    first, last = np.array(start), np.array(end)
    for i in range(number):
        part = [first + (last - first) * (i + at) / number for at in (0.2, 0.75)]
        canvas.line(part, width, "marking")


def house(canvas: Canvas, x: float, y: float, width: float, depth: float, angle: float, rng):
    """Draw a gabled roof, its ridge along the width, one half in the light."""
    light = vary(rng, 10)
    canvas.polygon(box(x, y, width, depth, angle), MAIN, light=light + 16, height=0.035)
    shift = np.array([-np.sin(angle), np.cos(angle)]) * depth / 4
    canvas.polygon(box(x + shift[0], y + shift[1], width, depth / 2, angle), None, light=light - 16)


def ship(canvas: Canvas, x: float, y: float, length: float, angle: float, rng) -> None:
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    hull = np.array([(-0.5, -0.14), (0.25, -0.15), (0.5, 0), (0.25, 0.15), (-0.5, 0.14)]) * length
    canvas.polygon(hull @ turn + (x, y), MAIN, height=0.025)
    inner = np.array([(-0.2, -0.09), (0.2, -0.09), (0.2, 0.09), (-0.2, 0.09)]) * length
    canvas.polygon(inner @ turn + (x, y), None, light=116)
    cabin = np.array([(-0.42, -0.09), (-0.28, -0.09), (-0.28, 0.09), (-0.42, 0.09)]) * length
    canvas.polygon(cabin @ turn + (x, y), "paving", light=138, height=0.012)


def plane(canvas: Canvas, x: float, y: float, size: float) -> None:
    """Draw an aeroplane, nose up, as one closed outline."""
    half = [
        (0, -0.5),
        (0.06, -0.40),
        (0.06, -0.14),
        (0.5, 0.12),
        (0.5, 0.21),
        (0.06, 0.10),
        (0.05, 0.32),
        (0.19, 0.43),
        (0.19, 0.5),
        (0, 0.45),
    ]
    outline = half + [(-a, b) for a, b in half[::-1]]
    points = np.array(outline) * size + (x, y)
    canvas.polygon(points, MAIN, height=0.02)


def truck(
    canvas: Canvas, x: float, y: float, angle: float, length: float = 0.14, width: float = 0.06
) -> None:
    """Draw a truck (or a car) lying along `angle`."""
    canvas.polygon(box(x, y, length, width, angle), MAIN, height=0.014)
    way = np.array((np.cos(angle), np.sin(angle)))
    cab = way * length * 0.27 + (x, y)
    canvas.polygon(box(cab[0], cab[1], length * 0.13, width * 0.8, angle), None, light=72)


def parasol(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Draw an open parasol seen from above."""
    canvas.disc(x, y, radius, MAIN, height=0.03)
    angles = np.arange(9) * np.pi / 4
    rim = np.stack([x + radius * 0.94 * np.cos(angles), y + radius * 0.94 * np.sin(angles)], -1)
    for i in range(0, 8, 2):
        canvas.polygon([(x, y), rim[i], rim[i + 1]], None, light=116)
