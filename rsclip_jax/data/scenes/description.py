"""What a synthetic overhead scene holds: one description, drawn from (seed, index) alone.

The pictures (drawing.py) and every caption (captions.py) follow from a `Scene`.
"""

from dataclasses import dataclass

import numpy as np

from rsclip_jax.data.scenes import palette

SIDES = ("top", "bottom", "left", "right")
OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
PLACES = ("upper left", "upper right", "lower left", "lower right")
AXES = ("horizontal", "vertical")
ARRANGED = ("row", "column", "scattered", "group")
LAND = ("green", "dry", "brown", "snowy")
STRIPS = ("road", "canal", "hedge", "dirt track")
SPOTS = ("pond", "grove", "bare patch")
# Smallest RGB distance at which two neighbouring surfaces can be told apart at 64 pixels.
LEGIBLE = 62.0
# Smallest difference, of 255, of main objects and what they lie on in either infrared image.
CONTRAST = 30


@dataclass(frozen=True)
class Kind:
    """The choices a scene type leaves open, one tuple for each attribute of `Scene`."""

    noun: str  # one main object
    counts: tuple[int, ...]
    colours: tuple[str, ...]
    layouts: tuple[str, ...]
    tones: tuple[str, ...] = LAND
    waters: tuple[str, ...] = ()
    edges: tuple[str, ...] = STRIPS
    corners: tuple[str, ...] = SPOTS
    trees: bool = True
    backdrop: str = palette.GROUND  # what lies under the main objects


KINDS: dict[str, Kind] = {
    "farmland": Kind(
        "field",
        (1, 2, 3, 4),
        ("yellow", "brown", "purple", "beige"),
        AXES,
        ("green", "dry"),
        trees=False,
    ),
    "dense residential": Kind(
        "house",
        (2, 3, 4),
        ("red", "grey", "brown", "white", "orange", "blue"),
        AXES,
        trees=False,
    ),
    "sparse residential": Kind(
        "house", (1, 2, 3, 4, 5), ("red", "grey", "brown", "white", "orange", "blue"), ARRANGED
    ),
    "storage tanks": Kind(
        "tank",
        (1, 2, 3, 4, 5, 6),
        ("white", "grey", "green", "brown", "blue"),
        ARRANGED,
        backdrop="concrete",
    ),
    "industrial": Kind(
        "warehouse",
        (1, 2, 3, 4, 5),
        ("blue", "red", "white", "green", "brown"),
        ARRANGED,
        trees=False,
        backdrop="concrete",
    ),
    "harbour": Kind(
        "ship",
        (1, 2, 3, 4, 5, 6),
        ("white", "red", "yellow", "black", "orange"),
        AXES,
        tones=("green",),
        waters=("blue", "green", "brown"),
        edges=("quay",),
        corners=("islet", "sandbank"),
        trees=False,
        backdrop=palette.WATER,
    ),
    "airport": Kind(
        "plane",
        (1, 2, 3, 4, 5),
        ("white", "red", "blue", "yellow"),
        AXES,
        trees=False,
        backdrop="asphalt",
    ),
    "bridge": Kind(
        "bridge",
        (1, 2, 3),
        ("white", "red", "yellow", "grey"),
        AXES,
        waters=("blue", "green", "brown"),
        edges=("road", "hedge", "dirt track"),
        backdrop=palette.WATER,
    ),
    "lake": Kind(
        "island",
        (1, 2, 3, 4),
        ("green", "yellow", "grey"),
        ("round", *AXES),
        waters=("blue", "green", "brown"),
        edges=("road", "hedge", "dirt track"),
        corners=("grove", "bare patch"),
        backdrop=palette.WATER,
    ),
    "forest": Kind(
        "clearing",
        (1, 2, 3, 4, 5),
        ("green", "yellow", "brown"),
        ARRANGED,
        tones=("dark green forest", "light green forest", "orange autumn forest"),
        edges=("road", "canal", "dirt track"),
        corners=("pond", "bare patch"),
        trees=False,
    ),
    "beach": Kind(
        "parasol",
        (1, 2, 3, 4, 5, 6),
        ("red", "blue", "white", "green", "orange"),
        SIDES,
        tones=("pale sand", "golden sand"),
        waters=("blue", "green"),
        edges=("road", "hedge"),
        corners=("grove", "pond"),
        trees=False,
    ),
    "junction": Kind(
        "truck",
        (1, 2, 3, 4),
        ("white", "red", "blue", "yellow", "orange"),
        ("crossroads", "T-junction", "roundabout"),
        edges=("canal", "hedge"),
        backdrop="asphalt",
    ),
    "parking lot": Kind(
        "car",
        (1, 2, 3),
        ("white", "red", "blue", "yellow", "black"),
        AXES,
        trees=False,
        backdrop="asphalt",
    ),
    "stadium": Kind("running track", (1,), ("red", "blue", "orange", "grey"), AXES),
    "desert": Kind(
        "rock",
        (1, 2, 3, 4, 5),
        ("black", "brown", "grey"),
        (*AXES, "diagonal"),
        tones=("pale sand", "golden sand", "reddish sand"),
        edges=("road", "hedge"),
        corners=("grove", "pond"),
        trees=False,
    ),
    "solar farm": Kind("panel", (1, 2, 3, 4, 5, 6), ("blue", "black"), ARRANGED),
}


@dataclass(frozen=True)
class Scene:
    """One overhead scene; "top" is the upper edge of the picture.

    Attributes:
      seed, index: what it was drawn from; also the source of all small irregularities.
      kind: scene type, a key of `KINDS`.
      count: number of main objects (of rows of them in a residential area or a parking lot).
      colour: of the main objects.
      layout: how they or the main shape lie, one of `KINDS[kind].layouts`.
      cells: (column, row) of each main object in a 3 x 3 grid, where they lie about freely.
      tone, water: ground and open water; `water` is "" where the type has none.
      edge: (what, side of the picture), a strip along that side, or None.
      corners: up to two (what, corner of the picture).
      trees: whether single trees stand about.
      sun: the corner the shadows fall towards.
    """

    seed: int
    index: int
    kind: str
    count: int
    colour: str
    layout: str
    cells: tuple[tuple[int, int], ...]
    tone: str
    water: str
    edge: tuple[str, str] | None
    corners: tuple[tuple[str, str], ...]
    trees: bool
    sun: str

    @property
    def noun(self) -> str:
        """Name of one main object."""
        return KINDS[self.kind].noun

    def surface(self, name: str) -> palette.Surface:
        """Return how a material of `palette.NAMES` looks in this scene."""
        if name == palette.GROUND:
            return palette.TONES[self.tone]
        if name == palette.WATER:
            return palette.WATERS[self.water or "blue"]
        if name == palette.MAIN:
            return palette.main_surface(self.noun, self.colour)
        return palette.FIXED[name]


def describe(seed: int, index: int) -> Scene:
    """Draw the description of scene number `index`.

    Args:
      seed, index: whole numbers >= 0; the same two always give the same scene.
    """
    rng = np.random.default_rng((seed, index))
    name = _pick(rng, tuple(KINDS))
    kind = KINDS[name]
    while True:
        tone = _pick(rng, kind.tones)
        water = _pick(rng, kind.waters) if kind.waters else ""
        colour = _pick(rng, kind.colours)
        ground = palette.TONES[tone]
        main = palette.main_surface(kind.noun, colour)
        if all(_tell_apart(main, under) for under in _backdrops(kind, tone, water)) and (
            not water or palette.distance(palette.WATERS[water], ground) > LEGIBLE
        ):
            break
    count = _pick(rng, kind.counts)
    layout = _pick(rng, kind.layouts)
    if layout in ARRANGED:
        # One object has no arrangement; a group is two by two; six in a row get too small.
        if count == 1:
            layout = "group"
        elif (layout == "group" and count not in (3, 4)) or count > 5:
            layout = "scattered"
    apart = layout == "scattered" or name in ("farmland", "harbour", "desert")
    # Six would fill what an edge strip leaves: no scattering.
    bare = layout == "scattered" and count > 5
    edge = None if bare else _edge(rng, name, kind, layout, ground)
    free = [(x, y) for y in range(3) for x in range(3) if not (edge and _on(edge[1], x, y))]
    spare = len(free) - count if apart else len(PLACES)
    corners = _corners(rng, name, kind, layout, edge, ground, colour)[:spare]
    cells: tuple[tuple[int, int], ...] = ()
    if apart:
        taken = corner_cells(corners)
        free = [cell for cell in free if cell not in taken]
        cells = tuple(sorted((free[int(i)] for i in rng.permutation(len(free))[:count]), key=_row))
    return Scene(
        seed=seed,
        index=index,
        kind=name,
        count=count,
        colour=colour,
        layout=layout,
        cells=cells,
        tone=tone,
        water=water,
        edge=edge,
        corners=corners,
        trees=bool(kind.trees and rng.random() < 0.5),
        sun=_pick(rng, PLACES),
    )


def corner_cells(corners: tuple[tuple[str, str], ...]) -> set[tuple[int, int]]:
    """Return the (column, row) in a 3 x 3 grid that corner elements take."""
    return {(2 * ("right" in place), 2 * ("lower" in place)) for _, place in corners}


def _on(side: str, column: int, row: int) -> bool:
    """Tell whether a cell of the 3 x 3 grid lies along a side of the picture."""
    return {"left": column == 0, "right": column == 2, "top": row == 0, "bottom": row == 2}[side]


def _backdrops(kind: Kind, tone: str, water: str) -> tuple[palette.Surface, ...]:
    """Return what the main objects lie on."""
    if kind.noun == "field":
        crops = ("crop dark", "crop light") if tone == "green" else ("stubble", "stubble dark")
        return palette.TONES[tone], *(palette.FIXED[crop] for crop in crops)
    if kind.backdrop == palette.GROUND:
        return (palette.TONES[tone],)
    return (
        palette.WATERS[water] if kind.backdrop == palette.WATER else palette.FIXED[kind.backdrop],
    )


def _tell_apart(one: palette.Surface, other: palette.Surface) -> bool:
    return palette.distance(one, other) > LEGIBLE and all(
        palette.contrast(one, other, infrared) >= CONTRAST for infrared in palette.INFRARED
    )


def _row(cell: tuple[int, int]) -> tuple[int, int]:
    return cell[1], cell[0]


def _pick(rng: np.random.Generator, choices: tuple):
    return choices[int(rng.integers(len(choices)))]


def _legible(choices: tuple[str, ...], ground: palette.Surface) -> tuple[str, ...]:
    """Leave out what would melt into the ground."""
    looks = {"road": "asphalt", "dirt track": "dirt", "grove": "tree", "quay": "concrete"}
    return tuple(
        choice
        for choice in choices
        if palette.distance(palette.FIXED[looks.get(choice, choice)], ground) > LEGIBLE
    )


def _edge(rng, name: str, kind: Kind, layout: str, ground: palette.Surface):
    choices = kind.edges if name == "harbour" else _legible(kind.edges, ground)
    if not choices or (name != "harbour" and rng.random() < 0.35):
        return None
    # Behind a beach there is only one side where anything can lie.
    side = OPPOSITE[layout] if name == "beach" else _pick(rng, SIDES)
    return _pick(rng, choices), side


def _corners(rng, name: str, kind: Kind, layout: str, edge, ground: palette.Surface, colour: str):
    choices = kind.corners if name == "harbour" else _legible(kind.corners, ground)
    # Nothing in a corner may pass for one more of the main objects.
    choices = _legible(choices, palette.main_surface(kind.noun, colour))
    places = list(PLACES)
    if name in ("harbour", "beach"):  # in the water, or on the land
        side = OPPOSITE[edge[1]] if name == "harbour" else OPPOSITE[layout]
        word = {"top": "upper", "bottom": "lower"}.get(side, side)
        places = [place for place in PLACES if word in place.split()]
    if edge:  # under the strip there is no room for more
        word = {"top": "upper", "bottom": "lower"}.get(edge[1], edge[1])
        places = [place for place in places if word not in place.split()]
    number = min(int(rng.choice(3, p=(0.25, 0.5, 0.25))), len(choices), len(places))
    # Two corners never hold the same thing: each can be named without ambiguity.
    things = rng.permutation(len(choices))[:number]
    where = rng.permutation(len(places))[:number]
    return tuple((choices[int(i)], places[int(j)]) for i, j in zip(things, where, strict=True))
