"""From a description to the picture's materials and light: strip, scene type, corners, trees."""

import numpy as np

from rsclip_jax.data.scenes.canvas import Canvas
from rsclip_jax.data.scenes.description import Scene
from rsclip_jax.data.scenes.layout import QUARTERS, corner_centre, main_area
from rsclip_jax.data.scenes.painters import PAINTERS
from rsclip_jax.data.scenes.palette import GROUND
from rsclip_jax.data.scenes.shapes import blob, box, dashes, tree, vary


def paint(scene: Scene) -> Canvas:
    """Draw a scene; the same description always gives the same canvas."""
    rng = np.random.default_rng((scene.seed, scene.index, 1))
    canvas = Canvas(np.deg2rad(rng.uniform(-4, 4)), scene.sun)
    area = main_area(scene)
    painter = PAINTERS[scene.kind]
    if scene.edge:
        _paint_edge(canvas, *scene.edge, rng)
    painter(canvas, scene, area, rng)
    for thing, place in scene.corners:
        _paint_corner(canvas, thing, *corner_centre(place), rng)
    if scene.trees:
        _scatter_trees(canvas, rng)
    return canvas


def _paint_edge(canvas: Canvas, thing: str, side: str, rng: np.random.Generator) -> None:
    canvas.turn(QUARTERS[side])
    middle = 0.095
    ends = ((-0.1, middle), (1.1, middle))
    if thing == "road":
        canvas.line(ends, 0.115, "asphalt", light=vary(rng, 8))
        dashes(canvas, *ends, 14)
        for x in rng.uniform(0.1, 0.9, 3):
            canvas.polygon(box(x, middle + 0.027, 0.045, 0.022), "car", height=0.01)
    elif thing == "canal":
        canvas.line(ends, 0.145, "paving")
        canvas.line(ends, 0.115, "canal")
    elif thing == "dirt track":
        canvas.line(ends, 0.10, "dirt", light=vary(rng, 8))
        canvas.line(ends, 0.018, None, light=108)
    elif thing == "hedge":
        for x in np.arange(-0.05, 1.06, 0.062):
            tree(canvas, x, middle + rng.uniform(-0.008, 0.008), rng.uniform(0.038, 0.048), rng)
    elif thing == "quay":
        canvas.material[:] = 0  # the quay lies in the water: `_harbour` draws it
    canvas.turn(0)


def _paint_corner(canvas: Canvas, thing: str, x: float, y: float, rng) -> None:
    if thing == "grove":
        canvas.disc(x, y, 0.095, "tree", light=92)
        for _ in range(26):
            angle, reach = rng.uniform(0, 2 * np.pi), 0.105 * rng.uniform(0, 1) ** 0.5
            at = x + reach * np.cos(angle), y + reach * np.sin(angle)
            tree(canvas, *at, rng.uniform(0.022, 0.032), rng)
    elif thing == "pond":
        shore = blob(0, 0, 0.114, 0.108, rng, 0.11)
        canvas.polygon(shore * 1.13 + (x, y), "sandbank", light=108)
        canvas.polygon(shore + (x, y), "pond")
    elif thing == "bare patch":
        shape = box(x, y, 0.22, 0.20, rng.uniform(-0.1, 0.1))
        canvas.polygon(shape, "bare patch", light=vary(rng, 8))
        for offset in (-0.05, 0.0, 0.05):
            canvas.line(((x - 0.09, y + offset), (x + 0.09, y + offset)), 0.008, None, light=108)
    else:  # islet, sandbank
        outline = blob(x, y, 0.115, 0.105, rng, 0.14)
        canvas.polygon((outline - (x, y)) * 1.14 + (x, y), "shallows")
        canvas.polygon(outline, thing)
        if thing == "islet":
            for dx, dy in rng.uniform(-0.06, 0.06, (7, 2)):
                tree(canvas, x + dx, y + dy, 0.02, rng)


def _scatter_trees(canvas: Canvas, rng: np.random.Generator) -> None:
    for x, y in rng.uniform(0.03, 0.97, (36, 2)):
        radius = rng.uniform(0.015, 0.026)
        if canvas.is_only(GROUND, x, y, radius * 1.5):
            tree(canvas, x, y, radius, rng)
