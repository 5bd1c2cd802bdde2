import json
from importlib import resources

import pytest

from rsclip_jax.evaluators import class_lists

COUNTS = {
    "aid": 30,
    "eurosat": 10,
    "fmow": 62,
    "millionaid": 51,
    "mlrsnet": 46,
    "optimal31": 31,
    "patternnet": 38,
    "resisc45": 45,
    "rs_c11": 11,
    "rsi_cb128": 45,
    "rsi_cb256": 35,
    "rsscn7": 7,
    "siri_whu": 12,
    "uc_merced": 21,
    "whu_rs19": 19,
}


def test_there_is_a_list_for_every_data_set():
    assert class_lists.NAMES == tuple(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_list_is_complete_and_says_where_it_comes_from(name):
    file = resources.files(class_lists) / f"{name}.json"
    entry = json.loads(file.read_text(encoding="utf-8"))
    assert list(entry) == ["title", "classes", "source", "get"]
    assert all(entry[field].strip() for field in ("title", "source", "get"))
    assert len(entry["classes"]) == COUNTS[name]
    assert list(entry["classes"]) == sorted(entry["classes"])
    assert class_lists.load(name) == entry["classes"]


@pytest.mark.parametrize("name", COUNTS)
def test_words_read_like_words(name):
    for words in class_lists.load(name).values():
        assert words == words.lower() == " ".join(words.replace("_", " ").split()) != ""


@pytest.mark.parametrize("name", COUNTS)
def test_no_two_classes_share_a_spelling(name):
    owner = {}
    for folder, words in class_lists.load(name).items():
        for text in (folder, words):
            assert owner.setdefault(class_lists.key(text), folder) == folder


@pytest.mark.parametrize(
    "spelling", ["BareLand", "Bare Land", "bare_land", "bareland", "BARE-LAND"]
)
def test_a_label_matches_however_it_is_spelled(spelling):
    words, indices = class_lists.match("aid", ["Viaduct", spelling, "airport"])
    assert indices == [29, 1, 0]
    assert [words[i] for i in indices] == ["viaduct", "bare land", "airport"]
    assert len(words) == 30


@pytest.mark.parametrize("name", COUNTS)
def test_folders_and_words_match_in_the_order_of_the_list(name):
    classes = class_lists.load(name)
    expected = (list(classes.values()), list(range(len(classes))))
    assert class_lists.match(name, list(classes)) == expected
    assert class_lists.match(name, list(classes.values())) == expected


def test_words_that_differ_from_the_folder_match_too():
    words, indices = class_lists.match("eurosat", ["lake or sea", "HerbaceousVegetation"])
    assert [words[i] for i in indices] == ["lake or sea", "brushland or shrubland"]
    assert class_lists.match("mlrsnet", ["swimming_pool"])[1] == [39]


def test_labels_of_no_class_are_named_with_the_folders_of_the_list():
    with pytest.raises(ValueError, match=r"'eurosat'.*'moon', 'mars'; .*AnnualCrop.*SeaLake"):
        class_lists.match("eurosat", ["River", "moon", "mars"])


@pytest.mark.parametrize("call", [class_lists.load, lambda name: class_lists.match(name, [])])
def test_an_unknown_list_is_answered_with_the_nearest(call):
    with pytest.raises(ValueError, match=r"'RESISC-45': .*aid, .*did you mean 'resisc45'\?"):
        call("RESISC-45")
