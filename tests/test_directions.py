"""Words that name a direction: found, left alone where they are none, turned with the image."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from test_pipeline import Bytes, config, read, record

from rsclip_jax.data import pipeline, views
from rsclip_jax.data.directions import has_direction, turned

SIZE = 16
GEOMETRIES = [
    views.Geometry(None, 1.0, 0.0, *bits) for bits in itertools.product((False, True), repeat=3)
]
QUARTER = views.Geometry(None, 1.0, 0.0, True, False, True)  # clockwise: left becomes top
LEFT, RIGHT, UP, DOWN = (-1, 0), (1, 0), (0, -1), (0, 1)
# Phrases whose words turn by flips and right angles, and what a quarter to the right makes of them.
QUARTERS = {
    "a house on the left": "a house towards the top",
    "On the right is a lake.": "Towards the bottom is a lake.",
    "a tree on the right next to a lake": "a tree towards the bottom next to a lake",
    "the left of the picture": "the top of the picture",
    "at the top of this aerial view": "at the right of this aerial view",
    "on the bottom of the image": "on the left of the image",
    "in the upper part": "in the right part",
    "on the left side of a road": "on the upper side of a road",
    "trees on the left and right sides": "trees on the top and bottom sides",
    "the leftmost of three ponds": "the topmost of three ponds",
    "in the UPPER-LEFT corner": "in the UPPER-RIGHT corner",
    "in the top left, near a road": "in the top right, near a road",
    "in the left lower corner": "in the left upper corner",
    "a tank at the center and bottom-right blocks": "a tank at the center and bottom-left blocks",
    "a dam in the top-center block": "a dam in the center-right block",
    "on the North Side": "on the East Side",
    "the Southern Part of a port": "the Western Part of a port",
    "to the north of the road": "to the east of the road",
    "in the NE of the city": "in the SE of the city",
    "the northeast corner, the NorthWest corner": "the southeast corner, the NorthEast corner",
    "the southwestern tip; a north-south road": "the northwestern tip; an east-west road",
    "from west to east": "from north to south",
    "The ROAD to the SOUTH": "The ROAD to the WEST",
    "A road runs horizontally.": "A road runs vertically.",
    "a left corner, AN UPPER SIDE": "an upper corner, A RIGHT SIDE",
    "Horizontal stripes": "Vertical stripes",
}
# Of these only flips are sure; left and right, up and down change places.
MIRRORED = {
    "to the left of a road": "to the right of a road",
    "Left of the road, a house": "Right of the road, a house",
    "the left-hand side": "the right-hand side",
    "on the lefthand side": "on the righthand side",
    "on the far left, a lake": "on the far right, a lake",
    "on the right in a yard": "on the left in a yard",
    "on the top edge": "on the bottom edge",
    "the uppermost row": "the lowermost row",
    "two roads cross vertically": "two roads cross vertically",
}
DOUBTED = [
    "a bridge above a river", "a road below it", "pools at the top", "a field on top",
    "on top of the image", "the road runs from top to bottom", "the house is left and the lake not",
    "a field is left in the corner", "the left boat", "the lower buildings", "the road turns left",
    "in west of scotland", "the south of korea", "to the north of the Thames", "the west coast",
    "a westbound lane", "to the \u017fouth", "in the \u017foutheast", "on the r\u0131ght",
    "a upper part, an left part", "a lake on the left, houses right",
    "houses right, a lake on the left",
    "several planes face left", "the plane points left", "a road curving left the whole way",
    "planes facing slightly right next to a pier", "there is a lake in the middle right",
    "Left: a harbor. Right: a forest.", "Top: a harbor. Bottom: a forest.", "few trees left",
    "houses left, a lake right", "Left a harbor, right a forest", "on the leftside, a lake",
    "left-to-right road", "runway oriented NE-SW", "a N-S road", "a road from NNW to SSE",
    "west-to-east road", "a northeast/southwest runway", "a road runs north past houses",
    "eastward road", "an easterly road", "northern houses", "facing downward", "moving upward",
    "upwards", "a leftward bend", "a plane facing up", "the road goes down", "ponds beneath it",
    "in the up-left corner", "in the downright corner", "goes up to the top of the image",
    "the bottom left and right corners", "the left upper and lower corners",
    "the upper-left/right corners", "clockwise from the left", "turning anticlockwise",
    "counter-clockwise", "the northeast and west corners", "N of the road", "in the N corner",
    "the upper-most row", "three bottom houses", "two upper houses", "a top-to-bottom road",
    "Planes Point North At The Gate", "Left To The South, Houses",
]  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("text", [*QUARTERS, *MIRRORED])
def test_a_text_is_turned_there_and_back(text, geometry):
    assert has_direction(text)
    there = turned(text, geometry.move)
    if text in MIRRORED and geometry.transpose:
        assert there is None
    else:
        undo = next(
            other
            for other in GEOMETRIES
            if all(other.move(geometry.move(way)) == way for way in (RIGHT, DOWN))
        )
        assert turned(there, undo.move) == text
        assert has_direction(there)


@pytest.mark.parametrize(("text", "after"), QUARTERS.items())
def test_words_after_right_angles(text, after):
    assert turned(text, QUARTER.move) == after
    for _ in range(4):
        text = turned(text, QUARTER.move)
    assert turned(text, QUARTER.move) == after


@pytest.mark.parametrize(("text", "after"), MIRRORED.items())
def test_words_after_a_half_turn(text, after):
    assert turned(text, lambda way: (-way[0], -way[1])) == after


@pytest.mark.parametrize("text", DOUBTED)
def test_what_may_be_a_direction_is_never_turned(text):
    assert has_direction(text)
    for geometry in GEOMETRIES:
        still = geometry.move(RIGHT) == RIGHT and geometry.move(DOWN) == DOWN
        assert turned(text, geometry.move) == (text if still else None)


@pytest.mark.parametrize(
    "text",
    ["a bright city seen from above", "hovering above Oslo", "a road at right angles, right now",
     "right of way", "a right triangle right next to a river", "all right", "right away",
     "the boat left the harbor", "a raft was left by the tide", "leftover",
     "North Carolina, South Korea and West Virginia", "in northern ireland, north american",
     "southeast asia, a western style house", "Big Town West, United States", "the Middle East",
     "trees on top of the hill", "a mountain top, a roof top", "the bottom of the sea",
     "a topical leftover copyright westerner", "a top-down view", "a top view of a hill",
     "lower density, lower than", "upper class", "below sea level",
     "trees lined up", "a close-up", "a close - up view", "made up of", "looking down on a road",
     "a bird above the sea, above the ground", "in Omaha, NE", "a vertical photo",
     "左边有一条河，top在left边", "westlich der Stra\u00dfe liegt ein See",],
)  # fmt: skip
def test_what_only_looks_like_a_direction_stays(text):
    assert not has_direction(text)
    assert turned(text, QUARTER.move) == text


def spot(row: int, column: int) -> bytes:
    image = np.zeros((32, 32, 3), np.uint8)
    image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


PLACES = {"upper left": (0, 0), "lower right": (3, 3), "upper right": (0, 3)}


def batches(augment_text: str, places=PLACES, **changes):
    """Return the texts of 32 samples, and where the bright spot of each is: signs of (x, y)."""
    records = [
        record("a", i, image=spot(*place), captions=[f"{name} spot"])
        for i, (name, place) in enumerate(places.items())
    ]
    given = config(lengths={"text": 20}, batch_size=32, crop=(), augment_text=augment_text)
    given.update(changes)
    batch = pipeline.dataset_of_sources({"a": records}, given, SIZE, {"text": Bytes(20)}, seed=0)[0]
    rows, columns = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    light = batch["image"][..., 0].astype(float)
    signs = np.stack([np.sign((light * axis).sum((1, 2))) for axis in (columns, rows)], axis=1)
    return read(batch["text"]), signs


def meaning(phrase: str) -> tuple[int, int]:
    """Return the direction of a corner."""
    row, column = phrase.split()
    return {"left": -1, "right": 1}[column], {"upper": -1, "lower": 1}[row]


@pytest.mark.parametrize("augment_text", ["leave", "turn"])
def test_the_texts_of_a_batch_are_true_of_its_images(augment_text):
    texts, signs = batches(augment_text, rotate=20.0)
    meant = [meaning(text.removesuffix(" spot")) for text in texts]
    np.testing.assert_array_equal(signs, meant)
    assert len(set(texts)) == (3 if augment_text == "leave" else 4)  # "lower left" only by turning


def test_what_cannot_be_turned_for_sure_leaves_its_image_unturned():
    places = {"above a": (0, 0), "left of a": (0, 3)}  # one never turns, one by flips only
    texts, signs = batches("turn", places, batch_size=128)
    seen = {text: {tuple(sign) for sign in signs[np.array(texts) == text]} for text in texts}
    assert seen == {
        "above a spot": {(-1, -1)},
        "left of a spot": {(1, -1), (1, 1)},
        "right of a spot": {(-1, -1), (-1, 1)},
    }


def test_without_it_flips_make_texts_wrong():
    texts, signs = batches("off")
    meant = [meaning(text.removesuffix(" spot")) for text in texts]
    assert 0.2 < (signs == meant).all(1).mean() < 0.5


def test_texts_without_a_direction_are_turned_as_ever():
    plain = [record("a", i, captions=["a spot"], image=spot(0, i)) for i in range(3)]
    made = [
        pipeline.dataset_of_sources(
            {"a": plain}, config(lengths={"text": 9}, augment_text=value), SIZE,
            {"text": Bytes(9)}, seed=0,
        )[0]
        for value in ("off", "turn")
    ]  # fmt: skip
    np.testing.assert_array_equal(made[0]["image"], made[1]["image"])


def test_another_value_is_refused():
    with pytest.raises(ValueError, match="augment_text is 'yes': expected one of off, leave, turn"):
        views.Augmentation(augment_text="yes")
