"""Captions from boxes by rules, the infrared filter, and the checks of captions."""

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from rsclip_jax.build import boxes as box_rules
from rsclip_jax.build.boxes import Box
from rsclip_jax.build.caption_checks import (
    Limits,
    check_boxes,
    check_clip_score,
    check_distinct,
    check_label,
    check_length,
    check_repetition,
    check_speculation,
    check_talk,
    find_problem,
)
from rsclip_jax.build.ir_filter import filter_captions, rejection
from rsclip_jax.data.text import ClipTokenizer


def box(label, x, y, half=0.05):
    return Box(label, x - half, y - half, x + half, y + half)


def test_the_first_two_captions_tell_the_centre_from_the_rest():
    given = [box("ship", 0.5, 0.5), box("ship", 0.34, 0.66), box("ship", 0.3, 0.5)]
    given += [box("oil tank", 0.9, 0.9), box("oil tank", 0.5, 0.7)]
    captions = box_rules.box_captions(given)
    assert captions[0] == "Two ships in the centre of the image."
    assert captions[1] == "A ship and two oil tanks away from the centre of the image."
    assert box_rules.box_captions([given[0]])[0] == "A ship in the centre of the image."
    assert "away" in box_rules.box_captions([given[3]])[0] and not box_rules.box_captions([])


def test_three_random_captions_have_the_counts_in_words_and_many_above_ten():
    given = [box("ship", 0.9, 0.9)] * 11 + [box("bridge", 0.1, 0.1)] * 10 + [box("airport", 0, 0)]
    seen = set()
    for seed in range(60):
        captions = box_rules.box_captions(given, seed)
        assert captions == box_rules.box_captions(given, seed) and len(captions) <= 4  # no centre
        for caption in captions[1:]:
            seen |= set(caption.split(" of ", 1)[1].rstrip(".").replace(" and ", ", ").split(", "))
    assert seen == {"many ships", "ten bridges", "an airport"}


def test_plurals():
    singular = "ship|church|bus|ferry|highway|ground track field|person|buildings|aircraft"
    plural = "ships|churches|buses|ferries|highways|ground track fields|people|buildings|aircraft"
    assert [box_rules.plural(word) for word in singular.split("|")] == plural.split("|")


def test_the_same_box_from_voc_yolo_and_coco():
    voc = """<annotation><size><width>200</width><height>100</height></size><object><name>Oil-Tank
    </name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>50</ymax></bndbox></object>
    </annotation>"""
    expected = Box("oil tank", 0.1, 0.1, 0.3, 0.5)
    yolo = box_rules.boxes_from_yolo("1 0.2 0.3 0.2 0.4\n\n", ["ship", "oil_tank"])
    annotation = {"category_id": 7, "bbox": [20, 10, 40, 40]}
    coco = box_rules.boxes_from_coco([annotation], {7: "oil tank"}, 200, 100)
    for (found,) in (box_rules.boxes_from_voc(voc), yolo, coco):
        assert found.label == expected.label
        np.testing.assert_allclose(
            [found.left, found.top, found.right, found.bottom], [0.1, 0.1, 0.3, 0.5], atol=1e-9
        )
    assert box_rules.boxes_from_meta(box_rules.boxes_to_meta([expected])) == [expected]
    assert box_rules.boxes_from_meta({}) == []
    raw = {"boxes": [["Oil_Tank", 0.1, 0.1, 0.3, 0.5]]}
    assert box_rules.boxes_from_meta(raw) == [expected]
    for label in ("", " ", "_"):
        with pytest.raises(ValueError, match="boxes in meta: expected"):
            box_rules.boxes_from_meta({"boxes": [[label, 0.4, 0.4, 0.6, 0.6]]})
    with pytest.raises(ValueError, match="no part in an image of 200 x 100"):
        box_rules.boxes_from_pixels(["a"], [(250, 0, 300, 10)], 200, 100)


def test_masks_become_the_boxes_of_their_connected_parts():
    rng = np.random.default_rng(0)
    mask = (ndimage.gaussian_filter(rng.normal(size=(64, 96)), 2) > 0.03).astype(np.uint8) * 5
    mask[:20, :20] = 0
    mask[2:18, 2:18] = 5
    mask[4:16, 4:16] = 0
    mask[8:12, 8:12] = 5  # a yard with a house in it
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = ndimage.sum_labels(np.ones_like(mask), parts, range(1, count + 1))
    extents = [
        (x.start / 96, y.start / 64, x.stop / 96, y.stop / 64)
        for (y, x), size in zip(ndimage.find_objects(parts), sizes, strict=True)
        if size >= 16
    ]
    found = box_rules.mask_to_boxes(mask, {5: "roof", 3: "road"})
    assert count > len(found) > 5 and {b.label for b in found} == {"roof"}
    np.testing.assert_allclose(
        sorted((b.left, b.top, b.right, b.bottom) for b in found), sorted(extents), atol=1e-12
    )


REJECTED = {
    "temperature": "a hot roof|warmer water|a heated hall|thermal signature|temperatures|cool",
    "emissivity": "high emissivity|radiance of roads|it emits light|strong radiation",
    "reflectivity": "reflective roofs|light reflected by water|high reflectance",
    "material": "metallic roofs|a material|metal|conductive|insulated pipes",
    "colour": "green fields|a Red roof|turquoise water|brownish soil|coloured areas|orange",
}


@pytest.mark.parametrize("category", REJECTED)
def test_the_infrared_filter_names_the_category(category):
    for text in REJECTED[category].split("|"):
        assert rejection(f"Dark rows beside {text}.")[0] == category, text
    assert rejection("HOT Spots")[1] == "hot"


def test_the_infrared_filter_lets_observations_pass():
    passing = [
        "Bright roofs stand out against dark, smooth water with high contrast.",
        "A greenhouse and a blueberry farm in black and white, grey roads, redwood trees.",
        "A cooling tower of a thermal power station on a heath with heather.",
        "Sharp outlines of a stadium; low texture in the wheat fields.",
    ]
    assert filter_captions(passing)[0] == passing
    kept, counts = filter_captions([*passing, "warm red roofs", "red roofs", "blue"])
    assert kept == passing
    assert counts == {
        "temperature": 1,
        "emissivity": 0,
        "reflectivity": 0,
        "material": 0,
        "colour": 2,
    }


def test_length_in_words_and_tokens():
    assert check_length("a ship", 3, 9).startswith("too short: 2 words")
    assert check_length("a b c d", 1, 3).startswith("too long: 4 words")
    caption = "a harbour with two well-kept ships"
    tokens = int(ClipTokenizer().lengths([caption])[0])
    assert check_length(caption, 6, 6, tokens) == ""
    assert "CLIP tokens" in check_length(caption, 6, 6, tokens - 1)


def test_repetition():
    assert check_repetition("A ship. Two roads. A ship.").startswith("repetition: the sentence")
    loop = "next to the road a house next to the road a tree next to the road a car"
    assert "next to the road" in check_repetition(loop)
    assert check_repetition("a very very very long road")
    assert check_repetition(" ".join(["trees and roads", "roads and trees"] * 2 + ["and"] * 9))
    assert check_repetition("A pixel has 0.34 m, 1.34 m, or 2.34 m.") == ""
    fine = "Two ships lie at a pier, two more at the next, and a road follows the shore to a town."
    assert check_repetition(fine) == ""


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot describe this",
        "As an AI language model, ships",
        "The image shows a ship",
        "this photo depicts two ships",
        "Here is a caption: two ships",
        "Details cannot be determined",
        "It is impossible to tell what it is",
    ],
)
def test_talk_is_found(text):
    assert check_talk(text).startswith("talk")


@pytest.mark.parametrize(
    "text", ["Highway I 95 crosses a river", "a photo studio in a park", "ships in a row"]
)
def test_plain_captions_are_no_talk_and_no_speculation(text):
    assert not check_talk(text) and not check_speculation(text)


def test_speculation():
    for word in ("probably", "appears to be", "might be", "likely", "suggesting", "possibly"):
        assert check_speculation(f"a hall that {word} a store").startswith("speculation")
    assert check_speculation("trees bloom in May beside an unlikelyville") == ""


def test_a_caption_of_another_class():
    classes = ["baseball_diamond", "Airport", "dense residential", "church"]
    assert "'airport'" in check_label("two airports by the sea", "church", classes)
    assert check_label("an airport and two churches", "church", classes) == ""
    assert check_label("a field with planes", "church", classes) == ""
    assert check_label("a diamond near an airport", "baseball_diamond", classes) == ""


def test_objects_and_counts_against_boxes():
    boxes = [box("ship", 0, 0)] * 3 + [box("storage_tank", 0, 0)] * 10
    known = ["ship", "storage tank", "tank", "plane"]
    assert check_boxes("three ships and 12 white storage tanks", boxes, known) == ""
    assert check_boxes("two ships, some cars", boxes, known) == ""
    assert check_boxes("a storage tank and ships", boxes, known) == ""
    told = "too many: 4 x 'ship', where there are 3"
    assert check_boxes("four large grey ships", boxes, known) == told
    assert check_boxes("thirteen or 13 storage tanks", boxes, known).startswith("too many: 13")
    assert check_boxes("four roads and ships", boxes, known) == ""
    assert check_boxes("ships and a plane", boxes, known) == "object not there: 'plane'"
    assert check_boxes("ships and a plane", boxes) == ""
    assert check_boxes("five ships", boxes).startswith("too many")
    assert check_boxes("a ship", [], known) == "object not there: 'ship'"


def test_clip_score_and_distinctness():
    assert check_clip_score(0.25, 0.25) == "" and check_clip_score(0.2, 0.25)
    short = "two ships in a harbor"
    assert check_distinct("In the harbor two ships.", short)
    assert check_distinct("harbor ships", "a wide grey harbor with ships and cranes")
    # {ships, harbor, long, pier} and {ships, harbor}: half of the words are common.
    longer = "ships in a harbor at a long pier"
    assert check_distinct(longer, short, 0.49) and not check_distinct(longer, short, 0.51)


def test_the_first_problem_is_returned():
    limits = Limits(min_words=2, max_overlap=0.6)
    assert find_problem("ship", limits).startswith("too short")
    assert find_problem("probably ships", limits).startswith("speculation")
    assert find_problem("two ships", limits, short=["ships at sea", "ships"]).startswith("not dist")
    assert find_problem("an airport", limits, label="farm", classes=["airport", "farm"])
    assert find_problem("an airport", limits, label="farm") == ""
    assert find_problem("nine ships", limits, boxes=[box("ship", 0, 0)]).startswith("too many")
    assert find_problem("nine ships", limits) == ""


def test_every_class_is_counted_once_in_a_phrase():
    assert box_rules.phrase(Counter(a=1, b=2, c=11, d=0)) == "an a, two bs and many cs"
