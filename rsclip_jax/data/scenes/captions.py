"""Captions of a synthetic scene: every statement is read off its description.

Colour and infrared captions share their templates; only the words filled in differ: colours for
one, brightness for near infrared (no colour, no heat: the image shows neither), warmth for thermal.
"""

from typing import NamedTuple

import numpy as np

from rsclip_jax.data.scenes import palette
from rsclip_jax.data.scenes.description import KINDS, Scene


class _Words(NamedTuple):
    place: str
    one: str
    many: str
    layout: str
    detail: str


_WORDS: dict[str, _Words] = {
    "farmland": _Words(
        "farmland",
        "one {colour} field",
        "{number} {colour} fields",
        "with crop rows running {along}",
        "The other plots hold {ground}, and the crop rows of all plots run {along}.",
    ),
    "dense residential": _Words(
        "a dense residential area",
        "one {axis} row of houses with {colour} roofs",
        "{number} {axis} rows of houses with {colour} roofs",
        "along {axis} streets",
        "The houses stand close together, and a straight {axis} street runs past each row.",
    ),
    "sparse residential": _Words(
        "a sparse residential area",
        "one house with a {colour} roof",
        "{number} houses with {colour} roofs",
        "{arranged}",
        "Pitched roofs and short paved drives can be made out on {ground}.",
    ),
    "storage tanks": _Words(
        "a tank farm",
        "one round {colour} storage tank",
        "{number} round {colour} storage tanks",
        "{arranged}",
        "Every tank stands on a ring of concrete, on {ground}.",
    ),
    "industrial": _Words(
        "an industrial area",
        "one large {colour} warehouse",
        "{number} large {colour} warehouses",
        "{arranged}",
        "The ribbed roofs rise above a wide concrete yard where a few small vehicles are parked.",
    ),
    "harbour": _Words(
        "a harbour",
        "one {colour} ship",
        "{number} {colour} ships",
        "lying {along} in the {water} water",
        "The surface of the {water} water is slightly rippled.",
    ),
    "airport": _Words(
        "an airport",
        "one {colour} plane",
        "{number} {colour} planes",
        "beside a {axis} runway",
        "The {axis} runway has a dashed centre line; next to it lie the apron and a terminal.",
    ),
    "bridge": _Words(
        "a river",
        "one {colour} bridge",
        "{number} parallel {colour} bridges",
        "across a {water} river flowing {along}",
        "The {water} river runs through the middle, and can be crossed by road from bank to bank.",
    ),
    "lake": _Words(
        "a lake",
        "one {colour} island",
        "{number} {colour} islands",
        "in a {shape} {water} lake",
        "A narrow sandy shore surrounds the {water} water of the {shape} lake.",
    ),
    "forest": _Words(
        "a {ground}",
        "one {colour} clearing",
        "{number} {colour} clearings",
        "{arranged}",
        "All around, the crowns of the {ground} form a closed canopy.",
    ),
    "beach": _Words(
        "a beach",
        "one {colour} parasol",
        "{number} {colour} parasols",
        "on {ground} with {water} sea {at_side}",
        "The {water} sea lies {at_side}, and lines of foam follow the shore.",
    ),
    "junction": _Words(
        "a road junction",
        "one {colour} truck",
        "{number} {colour} trucks",
        "at a {shape}",
        "Wide roads with dashed centre lines meet at the {shape}.",
    ),
    "parking lot": _Words(
        "a parking lot",
        "one {axis} row of {colour} cars",
        "{number} {axis} rows of {colour} cars",
        "on {asphalt} asphalt",
        "The cars stand side by side between marking lines.",
    ),
    "stadium": _Words(
        "a stadium",
        "one {colour} running track",
        "{number} {colour} running tracks",
        "around a {axis} sports pitch",
        "The oval encloses a {pitch} pitch with marking lines, and a grandstand flanks each long "
        "side.",
    ),
    "desert": _Words(
        "a desert",
        "one {colour} rock",
        "{number} {colour} rocks",
        "between dunes running {along}",
        "The wind has shaped the {ground} into long ridges that run {along}.",
    ),
    "solar farm": _Words(
        "a solar farm",
        "one block of {colour} solar panels",
        "{number} blocks of {colour} solar panels",
        "{arranged}",
        "In every block the panels form parallel strips above {ground}.",
    ),
}

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_GROUNDS = {
    "green": "green grass",
    "dry": "dry yellowish grass",
    "brown": "bare brown soil",
    "snowy": "snow-covered ground",
}
_CROPS = {"green": "green crops", "dry": "dry stubble"}
_AT = {
    "top": "at the top",
    "bottom": "at the bottom",
    "left": "on the left",
    "right": "on the right",
}
_ALONG = {
    "horizontal": ("horizontally", "from left to right"),
    "vertical": ("vertically", "from top to bottom"),
    "diagonal": ("diagonally", "from the lower left to the upper right"),
}
_ARRANGED = {
    "row": ("in a horizontal row", "side by side from left to right"),
    "column": ("in a vertical row", "one below the other from top to bottom"),
    "scattered": ("scattered around", "spread irregularly"),
    "group": ("in a compact group", "close together in the middle"),
}
_SHAPES = {"horizontal": "wide", "vertical": "tall"}
_STRIPS = {"road": "road", "canal": "canal", "hedge": "row of trees", "dirt track": "dirt track"}
_SPOTS = {"grove": "grove of trees", "bare patch": "patch of bare soil"}
_EDGE_LOOKS = {
    "road": "A straight grey road with a dashed centre line runs along",
    "canal": "A canal with dark blue water and paved banks follows",
    "hedge": "A dense row of dark green trees lines",
    "dirt track": "A light brown dirt track runs along",
    "quay": "A concrete quay with grey sheds takes up",
}
_CORNER_LOOKS = {
    "pond": "a dark blue pond with a pale shore",
    "grove": "a small grove of dark green trees",
    "bare patch": "a square patch of bare reddish brown soil",
    "islet": "a green islet with a few trees",
    "sandbank": "a pale sandbank in shallow water",
}
# Where nothing tall stands there are no shadows to tell of.
_FLAT = ("farmland", "forest")
# Where the ground is named anyway, or none is to be seen.
_NO_GROUND = ("forest", "harbour", "beach")
_INFRARED_MATERIALS = {
    "road": "asphalt",
    "dirt track": "dirt",
    "quay": "concrete",
    "grove": "tree",
}
_INFRARED_SHOWS = {
    "near": ("A grayscale infrared image of", "A single-band infrared view of"),
    "thermal": ("A thermal infrared image of", "A thermal view of"),
}


def captions(scene: Scene) -> list[str]:
    """Return three short captions in different words: scene type and two or more attributes."""
    rng = np.random.default_rng((scene.seed, scene.index, 4))
    fill = _colour_words(scene, rng)
    words = _WORDS[scene.kind]
    place, main, layout = (
        part.format(**fill) for part in (words.place, _main(scene), words.layout)
    )
    facts = [f"{words} {where_words(where)}" for _, words, where in located(scene)]
    facts = [facts[int(i)] for i in rng.permutation(len(facts))]
    if scene.kind not in _NO_GROUND:
        facts.append(f"{fill['ground']} around")
    if not facts:
        facts.append("nothing else around")
    first, second = facts[0], facts[min(1, len(facts) - 1)]
    verb = "is" if scene.count == 1 else "are"
    shown = ("an overhead view of", "an aerial image of", "a picture from above of")
    return [
        _sentence(f"{main} {layout}, with {first}"),
        _sentence(f"{_pick(rng, shown)} {place} with {main} and {first}"),
        _sentence(f"in this view of {place} there {verb} {main} {layout}, and {second}"),
    ]


def statement(scene: Scene, fact: str = "") -> str:
    """Return one short sentence: scene type, number and colour of main objects, and a fact."""
    fill = _colour_words(scene, np.random.default_rng((scene.seed, scene.index, 7)))
    place, main = (part.format(**fill) for part in (_WORDS[scene.kind].place, _main(scene)))
    return _sentence(f"an aerial image of {place} with {main}{fact}")


def main_words(scene: Scene) -> str:
    """Return number, colour and name of the main objects: "two white ships"."""
    return _main(scene).format(**_colour_words(scene, np.random.default_rng(0)))


def located(scene: Scene) -> list[tuple[str, str, str]]:
    """Return (thing, its words, where) of the strip and what lies in corners.

    Where is a side ("top") or a corner ("upper left") of the picture.
    """
    found = [(thing, _STRIPS.get(thing, thing), side) for thing, side in filter(None, [scene.edge])]
    found += [(thing, _SPOTS.get(thing, thing), corner) for thing, corner in scene.corners]
    return [
        (thing, f"{'an' if thing == 'islet' else 'a'} {name}", where)
        for thing, name, where in found
    ]


def where_words(where: str) -> str:
    """Return "at the top" for the side "top", "in the upper left corner" for a corner."""
    return _AT.get(where) or f"in the {where} corner"


def long_caption(scene: Scene, last: str = "") -> str:
    """Return a caption of four to eight sentences: objects, counts, colours, layout, positions.

    Args:
      last: where the strip or corner lies that the last sentence is to tell of ("top",
        "upper left"); otherwise it stands anywhere among its like.
    """
    rng = np.random.default_rng((scene.seed, scene.index, 5))
    fill = _colour_words(scene, rng)
    words = _WORDS[scene.kind]
    place, main, layout, detail = (
        part.format(**fill) for part in (words.place, _main(scene), words.layout, words.detail)
    )
    shows = _pick(rng, ("This overhead image shows", "The picture shows", "Seen from above is"))
    if scene.kind in _NO_GROUND:
        sentences = [f"{shows} {place}."]
    else:
        link = _pick(rng, ("surrounded by", "set in")) if scene.kind != "farmland" else "with"
        sentences = [f"{shows} {place} {link} {fill['ground']}."]
    verb = "is" if scene.count == 1 else "are"
    sentences += [
        _pick(
            rng,
            (
                f"There {verb} {main} {layout}.",
                f"{main[0].upper()}{main[1:]} can be seen {layout}.",
            ),
        ),
        *_positions(scene),
        detail,
    ]
    around = {}
    if scene.edge:
        thing, side = scene.edge
        around[side] = f"{_EDGE_LOOKS[thing]} the {side} edge of the picture."
    for thing, where in scene.corners:
        start = _pick(rng, (f"In the {where} corner there is", f"The {where} corner holds"))
        around[where] = f"{start} {_CORNER_LOOKS[thing]}."
    order = [list(around)[int(i)] for i in rng.permutation(len(around))]
    sentences += [around[where] for where in order if where != last]
    if scene.trees:
        sentences.append("A few single trees stand scattered over the open ground.")
    elif not around:
        sentences.append("Nothing else can be seen near the edges of the picture.")
    if scene.kind not in _FLAT:
        sentences.append(f"The shadows fall towards the {scene.sun}.")
    if rng.random() < 0.5:
        sentences.append(
            _pick(
                rng,
                (
                    f"Overall, the scene is {place} with {main}.",
                    f"Most striking {verb} {main}.",
                    f"All in all, it is a view of {place} with {main}.",
                ),
            )
        )
    return " ".join([*sentences, *filter(None, [around.get(last)])])


def ir_caption(scene: Scene, infrared: str = "near") -> str:
    """Return the caption of the "near" or "thermal" image: intensities, contrast and outlines."""
    rng = np.random.default_rng((scene.seed, scene.index, 6))
    fill = _infrared_words(scene, infrared, rng)
    words = _WORDS[scene.kind]
    place, main, layout = (
        part.format(**fill) for part in (words.place, _main(scene), words.layout)
    )
    backdrop = scene.surface(KINDS[scene.kind].backdrop)
    difference = palette.contrast(scene.surface(palette.MAIN), backdrop, infrared)
    contrast = "strong" if difference > 70 else "moderate" if difference > 35 else "low"
    behind = "canopy" if scene.kind == "forest" else "background"
    shows = _pick(rng, _INFRARED_SHOWS[infrared])
    sentences = [
        f"{shows} {place}: {main} {layout}.",
        f"{'Its outline has' if scene.count == 1 else 'Their outlines have'} {contrast} contrast "
        f"against the {palette.infrared_word(backdrop, infrared)} {behind}.",
    ]
    if scene.count < 4:
        sentences += _positions(scene)

    def tone(thing: str) -> str:
        surface = palette.FIXED[_INFRARED_MATERIALS.get(thing, thing)]
        return palette.infrared_word(surface, infrared)

    if scene.edge:
        thing, side = scene.edge
        strip = (
            f"{tone(thing)} quay lies"
            if thing == "quay"
            else f"{tone(thing)} strip, a {_STRIPS[thing]}, runs"
        )
        sentences.append(f"A {strip} along the {side} edge.")
    for thing, where in scene.corners:
        sentences.append(f"A {tone(thing)} {_SPOTS.get(thing, thing)} lies in the {where} corner.")
    return " ".join(sentences)


def _main(scene: Scene) -> str:
    words = _WORDS[scene.kind]
    return words.one if scene.count == 1 else words.many


def _colour_words(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    ground = _CROPS if scene.kind == "farmland" else _GROUNDS
    return _shared_words(scene, rng) | {
        "colour": scene.colour,
        "water": scene.water,
        "ground": ground.get(scene.tone, scene.tone),
        "asphalt": "grey",
        "pitch": "green",
    }


def _infrared_words(scene: Scene, infrared: str, rng: np.random.Generator) -> dict[str, str]:
    ground = palette.infrared_word(scene.surface(palette.GROUND), infrared)
    return _shared_words(scene, rng) | {
        "colour": palette.infrared_word(scene.surface(palette.MAIN), infrared),
        "water": {"near": "very dark", "thermal": "cold"}[infrared],
        "ground": f"{ground} forest" if scene.kind == "forest" else f"{ground} ground",
        "asphalt": palette.infrared_word(palette.FIXED["asphalt"], infrared),
    }


def _shared_words(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    arranged = _pick(rng, _ARRANGED.get(scene.layout, ("",)))
    return {
        "number": _NUMBERS[scene.count],
        "axis": scene.layout,
        "along": _pick(rng, _ALONG.get(scene.layout, ("",))),
        "at_side": _AT.get(scene.layout, ""),
        "shape": _SHAPES.get(scene.layout, scene.layout),
        "arranged": "in the middle" if scene.count == 1 else arranged,
    }


def _positions(scene: Scene) -> list[str]:
    """Say where the main objects lie, if they lie about freely."""
    if not scene.cells:
        return []
    names = [
        "the centre"
        if (column, row) == (1, 1)
        else f"the {('upper', 'middle', 'lower')[row]} {('left', 'middle', 'right')[column]}"
        for column, row in scene.cells
    ]
    listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    return [f"{'It lies' if scene.count == 1 else 'They lie'} in {listed} of the picture."]


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
