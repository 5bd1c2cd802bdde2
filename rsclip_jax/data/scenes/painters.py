"""How the main objects of each scene type are drawn: one painter a type."""

import itertools

import numpy as np

from rsclip_jax.data.scenes.canvas import NEUTRAL, Canvas
from rsclip_jax.data.scenes.description import Scene
from rsclip_jax.data.scenes.layout import (
    QUARTERS,
    Rect,
    in_corner,
    rows,
    scattered,
    slots,
)
from rsclip_jax.data.scenes.palette import GROUND, MAIN, WATER
from rsclip_jax.data.scenes.shapes import (
    blob,
    box,
    dashes,
    house,
    parasol,
    plane,
    ship,
    tree,
    truck,
    vary,
)


def _farmland(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    # Each field keeps to its third of the picture, or runs on beyond the picture's border.
    crops = ("crop dark", "crop light") if scene.tone == "green" else ("stubble", "stubble dark")
    for column, row in itertools.product(range(3), repeat=2):
        inset = rng.uniform(0.014, 0.035, 4)
        left = max(area.left, column / 3) + inset[0] if column or area.left > 0.1 else -0.1
        top = max(area.top, row / 3) + inset[1] if row or area.top > 0.1 else -0.1
        right = min(area.right, (column + 1) / 3) - inset[2]
        bottom = min(area.bottom, (row + 1) / 3) - inset[3]
        right = 1.1 if column == 2 and area.right > 0.9 else right
        bottom = 1.1 if row == 2 and area.bottom > 0.9 else bottom
        crop = MAIN if (column, row) in scene.cells else crops[int(rng.integers(2))]
        light = vary(rng, 5)
        field = [(left, top), (right, top), (right, bottom), (left, bottom)]
        canvas.polygon(field, crop, light=light)
        across = scene.layout == "horizontal"
        low, high = (top, bottom) if across else (left, right)
        for at in np.arange(low + 0.012, high - 0.008, 0.03):
            ends = ((left, at), (right, at)) if across else ((at, top), (at, bottom))
            canvas.line(ends, 0.011, None, light=light - 26)


def _dense_residential(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    quarters = QUARTERS[scene.layout]
    canvas.turn(quarters)
    block = area.turned(quarters)
    step = block.width / 6
    for middle, height in rows(block, scene.count):
        canvas.line(((-0.1, middle + height / 2), (1.1, middle + height / 2)), 0.05, "asphalt")
        depth = min(0.15, height * 0.58)
        for i in range(6):
            x, y = block.left + (i + 0.5) * step, middle - 0.012
            if not in_corner(scene, x, y, quarters):
                width = step * rng.uniform(0.74, 0.84)
                house(canvas, x, y, width, depth * rng.uniform(0.9, 1), 0.0, rng)
    canvas.turn(0)


def _sparse_residential(canvas: Canvas, scene: Scene, area: Rect, rng) -> None:
    for x, y, room in slots(scene, area, rng):
        width = min(0.17, room * 0.74)
        canvas.polygon(box(x + width * 0.2, y + width * 0.42, 0.035, width * 0.5), "paving")
        house(canvas, x, y, width, width * 0.74, rng.uniform(-0.2, 0.2), rng)


def _storage_tanks(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    tanks = [(x, y, min(0.105, room * 0.39)) for x, y, room in slots(scene, area, rng)]
    for x, y, radius in tanks:
        canvas.disc(x, y, radius * 1.35, "concrete", light=112)
    for x, y, radius in tanks:
        canvas.disc(x, y, radius, MAIN, light=110, height=0.04)
        canvas.disc(x, y, radius * 0.86, None, light=NEUTRAL)
        canvas.glint(x, y, radius * 0.8, 142)


def _industrial(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    canvas.polygon(box(*area.middle, area.width - 0.06, area.height - 0.06), "concrete")
    for dx, dy in rng.uniform(-0.40, 0.40, (14, 2)):
        x, y = area.middle[0] + dx * area.width, area.middle[1] + dy * area.height
        canvas.polygon(box(x, y, 0.045, 0.018), "car" if rng.random() < 0.5 else "roof")
    for x, y, room in slots(scene, area, rng):
        side = min(0.21, room * 0.84)
        canvas.polygon(box(x, y, side, side * 0.88), MAIN, height=0.045)
        for at in np.linspace(-0.4, 0.4, 5) * side:
            canvas.line(
                ((x + at, y - side * 0.44), (x + at, y + side * 0.44)), 0.01, None, light=112
            )


def _harbour(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    canvas.polygon(box(0.5, 0.5, 2, 2), WATER)
    canvas.ripple(rng.uniform(0, 3.1), 17, 0.05, rng)
    assert scene.edge is not None  # every harbour has a quay
    canvas.turn(QUARTERS[scene.edge[1]])
    canvas.polygon(box(0.5, -0.03, 1.6, 0.32), "concrete", height=0.02)
    for x in np.arange(0.02, 1.0, 0.16):
        canvas.polygon(box(x, 0.045, 0.12, 0.07), "roof", light=vary(rng, 20), height=0.02)
    canvas.turn(0)
    angle = 0.0 if scene.layout == "horizontal" else np.pi / 2
    for x, y in scattered(scene, 0.015, rng):
        ship(canvas, x, y, 0.21, angle + np.pi * int(rng.integers(2)), rng)


def _airport(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    quarters = QUARTERS[scene.layout]
    canvas.turn(quarters)
    field = area.turned(quarters)
    # Runway and apron share the middle third: the corners stay free.
    runway = field.top + field.height / 3 + 0.045
    canvas.line(((-0.1, runway), (1.1, runway)), 0.10, "asphalt", light=112)
    dashes(canvas, (field.left, runway), (field.right, runway), 9, 0.012)
    x, apron = field.middle[0], runway + 0.155
    canvas.polygon(box(x, apron, field.width - 0.02, 0.19), "asphalt", light=140)
    step = field.width / max(scene.count, 4)
    for place in np.arange(scene.count) - (scene.count - 1) / 2:
        plane(canvas, x + place * step, apron, min(0.195, step * 0.88))
    terminal = box(x, apron + 0.19, field.width / 3, 0.09)
    canvas.polygon(terminal, "roof", light=150, height=0.03)
    canvas.turn(0)


def _bridge(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    quarters = QUARTERS[scene.layout]
    canvas.turn(quarters)
    x, y = area.turned(quarters).middle[0], 0.5  # the river keeps to the middle third
    along = np.linspace(-0.15, 1.15, 40)
    course = np.stack([along, y + 0.022 * np.sin(7 * along + rng.uniform(0, 6))], -1)
    canvas.line(course, 0.29, "dirt", light=118)
    canvas.line(course, 0.25, WATER)
    for place in np.arange(scene.count) - (scene.count - 1) / 2:
        at = x + place * 0.16
        canvas.line(((at, -0.2), (at, 1.2)), 0.055, "asphalt")
        canvas.polygon(box(at, y, 0.075, 0.34), MAIN, height=0.035)
        canvas.line(((at, y - 0.17), (at, y + 0.17)), 0.010, None, light=96)
    canvas.turn(0)


def _lake(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    x, y = area.middle
    size = min(area.width, area.height)
    rx, ry = {
        "round": (0.37, 0.37),
        "horizontal": (0.46, 0.24),
        "vertical": (0.24, 0.46),
    }[scene.layout]
    rx, ry = rx * size, ry * size
    shore = blob(0, 0, rx, ry, rng, 0.09)
    canvas.polygon(shore * 1.08 + (x, y), "sandbank", light=112)
    canvas.polygon(shore + (x, y), WATER)
    start = rng.uniform(0, 2 * np.pi) if scene.layout == "round" else 0.0
    for i in range(scene.count):
        angle = start + 2 * np.pi * i / scene.count
        dx, dy = rx * 0.56 * np.cos(angle), ry * 0.56 * np.sin(angle)
        if scene.layout != "round":  # along the lake's long axis
            along = (i - (scene.count - 1) / 2) * size * 0.19
            dx, dy = (along, 0.0) if scene.layout == "horizontal" else (0.0, along)
        elif scene.count == 1:
            dx = dy = 0.0
        # So small that four in line do not touch.
        island = blob(x + dx, y + dy, 0.068 * size, 0.064 * size, rng, 0.07)
        canvas.polygon(island, MAIN, height=0.008)


def _forest(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    for x, y, room in slots(scene, area, rng):
        radius = min(0.1, room * 0.40)
        outline = blob(x, y, radius, radius, rng, 0.08)
        canvas.polygon((outline - (x, y)) * 1.05 + (x, y), None, light=66)
        canvas.polygon(outline, MAIN)


def _beach(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    quarters = QUARTERS[scene.layout]
    canvas.turn(quarters)
    land = area.turned(quarters)
    x = np.linspace(-0.15, 1.15, 60)
    phase = rng.uniform(0, 6, 3)
    shore = 0.29 + 0.018 * np.sin(8 * x + phase[0]) + 0.01 * np.sin(19 * x + phase[1])
    for shift, material, light in (
        (0.020, None, 100),  # wet sand
        (0.0, "foam", NEUTRAL),
        (-0.014, "shallows", NEUTRAL),
        (-0.075, "foam", 116),
        (-0.082, "shallows", 118),
        (-0.12, WATER, NEUTRAL),
    ):
        edge = np.stack([x, shore + shift], -1)
        canvas.polygon([(1.15, -0.3), (-0.15, -0.3), *edge], material, light=light)
    step = (land.width - 0.06) / 6
    for i in rng.permutation(6)[: scene.count]:
        at = land.left + 0.03 + (int(i) + 0.5) * step
        # Between the wet sand and what lies in the inland corners.
        parasol(canvas, at, 0.455 + rng.uniform(-0.02, 0.02), 0.056)
    canvas.turn(0)


def _junction(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    x, y = area.middle
    arms = [0, 1, 2, 3]  # quarter turns from the right, clockwise
    if scene.layout == "T-junction":
        arms.remove(int(rng.integers(4)))
    ways = {k: np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][k]) for k in arms}
    for way in ways.values():
        canvas.line(((x, y), (x + way[0] * 1.3, y + way[1] * 1.3)), 0.19, "asphalt")
    if scene.layout == "roundabout":
        canvas.disc(x, y, 0.235, "asphalt")
        canvas.disc(x, y, 0.12, "paving", light=118)
        canvas.disc(x, y, 0.108, "grass")
        tree(canvas, x, y, 0.045, rng)
    inner = 0.25 if scene.layout == "roundabout" else 0.11
    for way in ways.values():
        dashes(canvas, (x + way[0] * inner, y + way[1] * inner), (x + way[0], y + way[1]), 10)
    places = [(k, lane) for k in arms for lane in (-1, 1)]
    for i in rng.permutation(len(places))[: scene.count]:
        arm, lane = places[int(i)]
        way, across = ways[arm], np.array((-ways[arm][1], ways[arm][0]))
        reach = (0.34 if scene.layout == "roundabout" else 0.24) + rng.uniform(0, 0.03)
        at = np.array((x, y)) + way * reach + across * lane * 0.05
        truck(canvas, at[0], at[1], np.arctan2(way[1], way[0]))


def _parking_lot(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    quarters = QUARTERS[scene.layout]
    canvas.turn(quarters)
    lot = area.turned(quarters)
    canvas.polygon(box(*lot.middle, lot.width - 0.13, lot.height - 0.13), "asphalt")
    columns = 8
    step = (lot.width - 0.18) / columns
    for middle, height in rows(lot, scene.count):
        length = min(0.16, height * 0.5)
        for i in range(columns + 1):
            at = lot.left + 0.09 + i * step
            ends = ((at, middle - length * 0.6), (at, middle + length * 0.6))
            canvas.line(ends, 0.007, "marking")
        for i in range(columns):
            at = lot.left + 0.09 + (i + 0.5) * step
            if not in_corner(scene, at, middle, quarters):
                truck(canvas, at, middle, np.pi / 2, length, step * 0.66)
    canvas.turn(0)


def _stadium(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    quarters = QUARTERS[scene.layout]
    canvas.turn(quarters)
    x, y = area.turned(quarters).middle
    half, radius = 0.155, 0.185

    def oval(grow: float) -> np.ndarray:
        angle = np.linspace(-np.pi / 2, np.pi / 2, 20)
        cap = np.stack(
            [half + (radius + grow) * np.cos(angle), (radius + grow) * np.sin(angle)], -1
        )
        return np.concatenate([cap, -cap]) + (x, y)

    for sign in (-1, 1):
        stand = box(x, y + sign * (radius + 0.055), 2 * half + 0.06, 0.065)
        canvas.polygon(stand, "paving", height=0.03)
        for at in (0.04, 0.055, 0.07):
            level = y + sign * (radius + at)
            canvas.line(((x - half, level), (x + half, level)), 0.006, None, light=100)
    canvas.polygon(oval(0.012), "concrete")
    canvas.polygon(oval(0.0), MAIN)
    for grow in (-0.02, -0.04):
        ring = oval(grow)
        canvas.line([*ring, ring[0]], 0.005, None, light=150)
    canvas.polygon(oval(-0.062), "marking")
    canvas.polygon(oval(-0.068), "crop dark")
    for i in range(0, 8, 2):
        width = 2 * half / 8
        stripe = box(x - half + (i + 0.5) * width, y, width, 2 * (radius - 0.085))
        canvas.polygon(stripe, "crop dark", light=148)
    pitch = box(x, y, 2 * half, 2 * (radius - 0.085))
    canvas.line([*pitch, pitch[0]], 0.006, "marking")
    canvas.line(((x, y - radius + 0.085), (x, y + radius - 0.085)), 0.006, "marking")
    canvas.turn(0)


def _desert(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    angle = {"horizontal": 0.0, "vertical": np.pi / 2, "diagonal": np.pi / 4}[scene.layout]
    before = canvas.light.copy()
    canvas.ripple(angle, rng.uniform(7, 9), 0.16, rng)
    other = canvas.material != 0  # no dunes on the road
    canvas.light[other] = before[other]
    for x, y in scattered(scene, 0.025, rng):
        angles = np.sort(rng.uniform(0, 2 * np.pi / 9, 9) + np.arange(9) * 2 * np.pi / 9)
        radius = rng.uniform(0.07, 0.1, 9)
        outline = np.stack([radius * np.cos(angles), radius * np.sin(angles)], -1)
        canvas.polygon(outline + (x, y), MAIN, light=116, height=0.03)
        canvas.polygon(outline * 0.6 + (x, y) + rng.uniform(-0.015, 0.015, 2), None, light=150)


def _solar_farm(canvas: Canvas, scene: Scene, area: Rect, rng: np.random.Generator) -> None:
    for x, y, room in slots(scene, area, rng):
        side = min(0.22, room * 0.86)
        height = side * 0.86
        canvas.polygon(box(x, y, side * 1.12, height * 1.12), GROUND, light=112)
        canvas.polygon(box(x, y, side, height), MAIN, height=0.012)
        for at in np.linspace(-0.5, 0.5, 6)[1:-1]:
            canvas.line(
                ((x - side / 2, y + at * height), (x + side / 2, y + at * height)),
                0.009,
                None,
                light=235,
            )


PAINTERS = {
    "farmland": _farmland,
    "dense residential": _dense_residential,
    "sparse residential": _sparse_residential,
    "storage tanks": _storage_tanks,
    "industrial": _industrial,
    "harbour": _harbour,
    "airport": _airport,
    "bridge": _bridge,
    "lake": _lake,
    "forest": _forest,
    "beach": _beach,
    "junction": _junction,
    "parking lot": _parking_lot,
    "stadium": _stadium,
    "desert": _desert,
    "solar farm": _solar_farm,
}
