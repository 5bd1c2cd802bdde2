import json
import os

import pytest

from rsclip_jax.data.likely import check_values, is_sentence
from rsclip_jax.data.sources import InputError, Sample
from rsclip_jax.data.tables import open_table

SHIPS = ("ferries", "tugs", "barges", "yachts", "tankers", "rafts")


def check(values, captions="", ignore=(), images=None):
    rows = [{"odd": value} for value in values]
    names = images or range(len(rows))
    samples = [Sample("", 0, image=f"{name}.jpg", captions=[captions]) for name in names]
    check_values(rows, ["odd"], ignore, "t.csv", samples)


@pytest.mark.parametrize(
    "text",
    [
        "a pier with many {} beside it",
        "Many {} lie here, near the old pier.",
        ["there are {} at the pier", "a pier and {} in grey water"],
        "many white {} in the harbour; two are 30 m long",
        "港口里停着许多白色的船和{}",
    ],
)
def test_sentences_are_refused_by_their_values(text):
    values = [json.loads(json.dumps(text).replace("{}", ship)) for ship in SHIPS]
    with pytest.raises(InputError, match=r"column 'odd' looks like captions .*--ignore=odd$"):
        check(values)
    check(values, ignore=["odd"])
    check(values[:2])  # too few to tell
    check([*values[:2], "", None, "", ""])
    check(values[:1] * 6)


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        "a1b2-{}",
        "https://example.org/an image of {} here.jpg",
        "images/{}.jpg",
        "Mon Jan 01 10:{}:00 2020",
        "2020-01-01 10:00:00 {}",
        "{} storage tanks",
        "ship, harbor, water, pier, {}",
        "12 Main Street, Springfield, Illinois, United States {}",
        "Photo by {} Smith via Flickr",
        '{{"satellite": "the one of {}"}}',
        "POLYGON ((1.{} 2.5, 3.1 4.2, 5.5 6.1))",
        [["a"], "{}"],
        ["a", "pier", "with", "{}"],
    ],
)
def test_what_is_no_caption_is_left_alone(value):
    values = [json.loads(json.dumps(value).replace("{}", f"{n}")) for n in range(6)]
    check(values)
    names = [json.loads(json.dumps(value).replace("{}", ship.title())) for ship in SHIPS]
    check(names)


def test_the_same_sentence_everywhere_is_a_licence_or_a_prompt():
    check(["this image may be used for research only"] * 6)
    check([f"is there a {kind} in the image" for kind in ("river", "road")] * 6)


def test_captions_repeated_in_another_column_are_no_news():
    check(["a pier with many white boats"] * 5 + ["a"], captions="a pier with many white boats")


def test_texts_of_an_image_may_be_in_each_of_its_rows():
    values = [f"a pier with many {ship} beside it" for ship in SHIPS for _ in range(5)]
    with pytest.raises(InputError, match="looks like captions"):
        check(values, images=[n // 5 for n in range(len(values))])


def test_sentences_are_of_several_plain_words():
    assert is_sentence("a river runs through it")
    assert not is_sentence("a river here")
    assert not is_sentence("River Through The City")


def table(tmp_path, column, used=("filename", "caption")):
    for number in range(6):
        (tmp_path / f"{number}.jpg").touch()
        (tmp_path / f"{number}_hot.png").touch()
    with open(tmp_path / "t.jsonl", "w", encoding="utf-8") as file:
        for number in range(6):
            row = {"filename": f"{number}.jpg", "caption": "one", column: f"{number}_hot.png"}
            row |= {"copy": f"./{number}.jpg", "original": f"raw/{number}.tif"}
            file.write(json.dumps(row) + "\n")
    return str(tmp_path / "t.jsonl")


def test_columns_of_images_that_are_there_are_refused(tmp_path):
    path = table(tmp_path, "lwir8")
    with pytest.raises(InputError, match=r"'lwir8' holds paths of images .*--ir_column=lwir8 or"):
        open_table("jsonl", path, ignore=())
    for source in (
        open_table("jsonl", path, ignore=("lwir8",)),
        open_table("jsonl", path, given={"ir": ("lwir8",)}, ignore=()),
        open_table("jsonl", path),
    ):
        assert len(list(source)) == 6
    for number in range(6):
        os.remove(tmp_path / f"{number}_hot.png")
    assert "lwir8" in open_table("jsonl", path, ignore=()).notes[0]  # nothing to be used


@pytest.mark.parametrize("names", ["train test", "Training Val Testing", "TEST"])
def test_splits_are_refused_by_their_values(names):
    values = [name for name in names.split() for _ in range(5)]
    with pytest.raises(InputError, match=r"column 'odd' holds splits \(.*--split_column=odd"):
        check(values)
    check(values, ignore=["odd"])
    check([*values, *(["port", "beach"] * 5)])


def test_what_says_no_more_than_the_split_column_is_left_alone():
    rows = [{"odd": name} for name in ("train", "TRAINING", "Test", "val")]
    samples = [Sample("", 0, split=name) for name in ("train", "train", "test", "validation")]
    check_values(rows, ["odd"], (), "t.csv", samples)
    samples[0].split = "val"
    with pytest.raises(InputError, match="holds splits"):
        check_values(rows, ["odd"], (), "t.csv", samples)
