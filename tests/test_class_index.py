"""Labels stand for the class that is meant, or are refused."""

import numpy as np
import pytest

from rsclip_jax.data.captions import TextChoice
from rsclip_jax.data.class_names import in_order, words
from rsclip_jax.evaluators.class_index import class_index


def test_class_names_come_from_the_labels_or_match_them():
    labels = ["Storage_Tanks", "Bare_Land", "Bare_Land"]
    names, index = class_index(labels)
    assert (names, index.tolist()) == (["bare land", "storage tanks"], [1, 0, 0])
    # By name, in any order, with a class that this split does not have.
    names, index = class_index(labels, ("Storage Tanks", "harbour", "bare land"))
    assert (names, index.tolist()) == (["Storage Tanks", "harbour", "bare land"], [0, 2, 2])
    # By place: other words for the sorted labels.
    names, index = class_index(labels, ("desert", "oil tanks"))
    assert (names, index.tolist()) == (["desert", "oil tanks"], [1, 0, 0])
    with pytest.raises(ValueError, match=r"3 names for 2 labels, .* Bare_Land, Storage_Tanks"):
        class_index(labels, ("desert", "oil tanks", "sea"))
    with pytest.raises(ValueError, match="same name"):
        class_index(["a_b", "a b"])
    # One misspelt name does not shift the others.
    with pytest.raises(ValueError, match="none for harbor"):
        class_index(["harbor", "road", "forest"], ("harbour", "road", "forest"))
    names, index = class_index(["b", "a"], ("a", "bee"))  # "a" stands in its own place
    assert (names, index.tolist()) == (["a", "bee"], [1, 0])


def test_class_names_come_from_a_published_list_whatever_the_folders_are_called():
    names, index = class_index(["Bare Land", "storagetanks", "BareLand"], "aid")
    assert len(names) == 30
    assert [names[k] for k in index] == ["bare land", "storage tanks", "bare land"]
    with pytest.raises(ValueError, match="no class for the labels 'Sea'"):
        class_index(["Sea"], "aid")
    with pytest.raises(ValueError, match="did you mean 'eurosat'"):
        class_index(["Sea"], "eurosatt")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("AnnualCrop", "annual crop"),
        ("HerbaceousVegetation", "herbaceous vegetation"),
        ("Storage_Tanks/old", "storage tanks old"),
        ("storage-tanks", "storage tanks"),
        ("Ground_Track-Field", "ground track field"),
        ("railwayStation", "railway station"),
        ("ANNUAL_CROP", "annual crop"),
        ("UAVs", "uavs"),
        ("RSImage", "rs image"),
        ("3DModel", "3d model"),
        ("ÄckerLand", "äcker land"),
        ("semi-arid LandUse", "semi-arid landuse"),  # white space: these are words already
        ("7", "7"),
        ("7.0", "7.0"),
    ],
)
def test_labels_become_words(label, expected):
    assert words(label) == expected


def test_captions_and_prompts_have_the_same_words_unless_told_otherwise():
    record = {"captions": [], "long_captions": [], "ir_captions": [], "label": "SeaLake", "ir": b""}
    draws = (0.0, 0.0, 0.0)
    assert TextChoice().choose(record, "text", draws) == "a remote sensing image of sea lake"
    assert TextChoice().choose(record, "text_long", draws) == "a remote sensing image of sea lake."
    kept = TextChoice(label_words=False).choose(record, "text", draws)
    assert kept == "a remote sensing image of SeaLake"
    assert class_index(["SeaLake"])[0] == ["sea lake"]
    assert class_index(["SeaLake"], label_words=False)[0] == ["SeaLake"]


def test_numbers_are_ordered_as_numbers():
    assert in_order(["10", "2", "2"]) == ["2", "10"]
    assert in_order(["10.0", "2.0"]) == ["2.0", "10.0"]
    assert in_order(["b10", "b2", "C"]) == ["C", "b10", "b2"]


@pytest.mark.parametrize("form", ["{}", "{:02d}", "{}.0"])
def test_numbers_as_labels_are_places_in_a_list(form):
    names = [f"name {k}" for k in range(16)]
    labels = [form.format(k) for k in range(16)]
    assert class_index(labels[::-1], names)[1].tolist() == list(range(15, -1, -1))
    assert class_index([labels[k] for k in (0, 3, 12)], names)[1].tolist() == [0, 3, 12]
    ones = [form.format(k) for k in (16, 1, 10)]
    assert class_index(ones, names)[1].tolist() == [15, 0, 9]
    assert class_index([labels[k] for k in (3, 12)], names[:2])[1].tolist() == [0, 1]
    with pytest.raises(ValueError, match="which is whose is not certain"):
        class_index([labels[k] for k in (3, 12)], names)


def test_numbers_are_no_words_for_prompts():
    with pytest.raises(ValueError, match="are numbers, which say nothing in a prompt"):
        class_index(["0", "1"])
    assert class_index(["1", "0"], label_words=False) == (["0", "1"], pytest.approx([1, 0]))
    with pytest.raises(ValueError, match="which is whose is not certain"):
        class_index(["1", "01"], ["a", "b"])


@pytest.mark.parametrize("labels", [["band2", "band10"], ["beach", "Airport", "Zoo"]])
def test_labels_with_two_orders_want_to_be_told_which_name_is_whose(labels):
    names = ("one", "two", "three")[: len(labels)]
    with pytest.raises(ValueError, match="have two orders"):
        class_index(labels, names)
    pairs = [f"{label}={name}" for label, name in zip(labels, names, strict=True)]
    assert class_index(labels[::-1], pairs)[0] == list(names)
    np.testing.assert_array_equal(class_index(labels[::-1], pairs)[1], range(len(labels))[::-1])
    with pytest.raises(ValueError, match=f"none for {labels[0]}"):
        class_index(labels, pairs[1:])


def test_names_are_found_however_they_are_spelled():
    names = ("parking lot", "Base-ball Diamond")
    assert class_index(["ParkingLot", "baseballdiamond"], names)[1].tolist() == [0, 1]
    with pytest.raises(ValueError, match="'AnnualCrop' and 'annual_crop'"):
        class_index(["AnnualCrop", "annual_crop"])
