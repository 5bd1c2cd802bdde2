"""Words that name a direction: found, left alone where they are none, turned with the image."""

import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image
from test_pipeline import Bytes, config, read, record

from rsclip_jax.data import images, pipeline
from rsclip_jax.data.directions import has_direction, turned

SIZE = 16
GEOMETRIES = [
    images.Geometry(None, 1.0, 0.0, *bits) for bits in itertools.product((False, True), repeat=3)
]
QUARTER = images.Geometry(None, 1.0, 0.0, True, False, True)  # clockwise: left becomes top
LEFT, RIGHT, UP, DOWN = (-1, 0), (1, 0), (0, -1), (0, 1)
MEANING = {
    "left": LEFT, "leftmost": LEFT, "right": RIGHT, "upper": UP, "lower": DOWN, "top": UP,
    "bottom": DOWN, "north": UP, "northern": UP, "south": DOWN, "east": RIGHT, "eastern": RIGHT,
    "west": LEFT, "westwards": LEFT, "above": UP, "below": DOWN, "to the left of": LEFT,
    "to the right of": RIGHT, "topmost": UP, "bottommost": DOWN, "rightmost": RIGHT,
    "uppermost": UP, "lowermost": DOWN, "southern": DOWN, "western": LEFT, "eastwards": RIGHT,
    "northwards": UP, "southwards": DOWN,
}  # fmt: skip


def meaning(phrase: str) -> tuple[int, int]:
    """Return the direction of a phrase, one word or the two of a corner."""
    if phrase in MEANING:
        return MEANING[phrase]
    one, two = re.fullmatch(r"(\w+?)[ -]?(left|right|east|west)(?:ern)?", phrase).groups()
    return MEANING[two][0], MEANING[one][1]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_turned_phrase_names_the_turned_direction(geometry):
    corners = [f"{y}{gap}{x}" for y, x, gap in itertools.product(("upper", "bottom"),
               ("left", "right"), (" ", "-"))]  # fmt: skip
    corners += [y + x for y, x in itertools.product(("north", "south"), ("east", "west"))]
    for phrase in [*MEANING, *corners, "southwestern"]:
        new = turned(phrase, geometry.move)
        assert meaning(new) == geometry.move(meaning(phrase)), (phrase, new)


def test_sentences_after_a_quarter_turn():
    for before, after in (
        ("Left of the road, a house.", "Top of the road, a house."),
        ("a house to the left of a road", "a house above a road"),
        ("a house above a road", "a house to the right of a road"),
        ("in the UPPER-LEFT corner", "in the UPPER-RIGHT corner"),
        ("the left-hand side; the top side", "the top side; the right side"),
        ("A road runs horizontally", "A road runs vertically"),
        ("a vertical road", "a horizontal road"),
        ("in the Northwest", "in the Northeast"),
    ):
        assert turned(before, QUARTER.move) == after
        assert has_direction(before)


@pytest.mark.parametrize(
    "text",
    ["a bright city seen from above", "a road at right angles, right next to a river",
     "little green is left in winter", "North Carolina, South Korea and northern Ireland",
     "trees on top of the hill", "a topical leftover copyright westerner", "a top-down view"],
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


def batches(augment_text: str, **changes):
    """Return the texts of 32 samples, and where the bright spot of each is: signs of (x, y)."""
    places = {"upper left": (0, 0), "lower right": (3, 3), "upper right": (0, 3)}
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


@pytest.mark.parametrize("augment_text", ["leave", "turn"])
def test_the_texts_of_a_batch_are_true_of_its_images(augment_text):
    texts, signs = batches(augment_text, rotate=20.0)
    meant = [meaning(text.removesuffix(" spot")) for text in texts]
    np.testing.assert_array_equal(signs, meant)
    assert len(set(texts)) == (3 if augment_text == "leave" else 4)  # "lower left" only by turning


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
        images.Augmentation(augment_text="yes")
