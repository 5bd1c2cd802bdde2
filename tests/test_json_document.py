import json

import pytest

from rsclip_jax.data import json_document
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tables import open_table

IMAGES = [{"id": 1, "file_name": "a.jpg", "width": 8}, {"id": 2, "file_name": "b.jpg", "width": 9}]


def opened(tmp_path, document, **options):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "c.json").write_text(json.dumps(document), encoding="utf-8")
    return open_table("json", str(tmp_path / "c.json"), ignore=(), **options)


@pytest.mark.parametrize("key", ["annotations", "captions"])
def test_captions_that_lie_beside_the_images_find_their_image(tmp_path, key):
    told = [
        {"id": 7, "image_id": 2, "caption": "one"},
        {"id": 8, "image_id": 1, "caption": "two"},
        {"id": 9, "image_id": "2", "caption": "three"},
        {"id": 10, "image_id": 3, "caption": "lost"},
        "no object",
    ]
    document = {"info": {"year": 2017}, "images": IMAGES, key: told, "licenses": [{"id": 1}] * 3}
    source = opened(tmp_path, document)
    samples = list(source)
    assert [(s.id, s.captions, s.problem.split(":")[0]) for s in samples] == [
        ("a.jpg", ["two"], ""),
        ("b.jpg", ["one", "three"], ""),
        ("", [], "no image has its image_id"),
        ("", [], "no image has its image_id"),
    ]
    assert samples[-1].position == source.size
    assert source.notes == [
        "parts of the JSON document that are not used: licenses (3), info (1)",
        "columns not used (rows that fill them): id (2), width (2)",
    ]
    assert samples == list(source)


def test_an_image_without_captions_stays_and_its_own_values_go_first(tmp_path):
    told = [{"image_id": 1, "caption": "one", "width": 99, "bbox": [0, 0, 1, 1]}]
    first, second = opened(tmp_path, {"images": IMAGES, "annotations": told})
    assert (first.captions, first.extra) == (
        ["one"],
        {"bbox": [0, 0, 1, 1], "width": [8, 99], "id": 1},
    )
    assert (second.captions, second.problem) == ([], "")


def test_boxes_beside_captions_make_no_more_rows(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "captions": ["one", "two"]}]
    boxes = [{"image_id": 1, "bbox": [0, 0, n, n], "category_id": n} for n in (1, 2)]
    (sample,) = opened(tmp_path, {"images": images, "annotations": boxes})
    assert sample.captions == ["one", "two"]
    assert sample.extra["category_id"] == [1, 2]


def test_lists_that_belong_to_no_image_are_counted(tmp_path):
    images = [{"file_name": "a.jpg", "caption": "one"}]
    document = {"images": images, "annotations": [{"caption": "two"}] * 2, "dataset": "mine"}
    assert opened(tmp_path, document).notes == [
        "parts of the JSON document that are not used: annotations (2)"
    ]


def test_annotations_of_classes_alone_are_no_captions(tmp_path):
    boxes = [{"image_id": 1, "category_id": 2}]
    with pytest.raises(InputError, match=r"none of its columns .*category_id.* captions, labels"):
        opened(tmp_path, {"images": IMAGES, "annotations": boxes})


@pytest.mark.parametrize("key", ["data", "annotations", "airport"])
def test_a_single_key_with_rows_names_no_class(tmp_path, key):
    rows = [{"image": "a.jpg", "caption": "one"}]
    source = opened(tmp_path, {key: rows, "classes": ["a", "b"]})
    assert [(s.label, s.split, s.captions) for s in source] == [("", "", ["one"])]
    assert source.notes == [
        f"c.json: all rows lie under {key!r}, which is taken for no class",
        "parts of the JSON document that are not used: classes (2)",
    ]


def test_a_single_split_is_one_and_lists_without_objects_are_passed_over(tmp_path):
    rows = [{"image": "a.jpg", "caption": "one"}]
    (sample,) = opened(tmp_path, {"test": rows})
    assert (sample.label, sample.split) == ("", "test")
    source = opened(tmp_path, {"train": rows, "test": rows, "classes": ["a", "b"]})
    assert [(s.label, s.split) for s in source] == [("", "test"), ("", "train")]
    assert source.notes == ["parts of the JSON document that are not used: classes (2)"]


def test_documents_are_parsed_once(tmp_path, monkeypatch):
    parsed = []
    load = json_document._load
    monkeypatch.setattr(
        json_document, "_load", lambda path, *more: parsed.append(path) or load(path, *more)
    )
    rows = [{"image": f"{n}.jpg", "caption": "\ud800"} for n in range(250)]
    (tmp_path / "0.jpg").touch()
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    source = open_table("json", str(tmp_path), ignore=())
    assert len(list(source)) == len(list(source)) == 250
    # Two that are read by turns do not disturb one another.
    assert all(first == second for first, second in zip(source, source, strict=True))
    assert parsed == [tmp_path / "a.json", tmp_path / "b.json"]


def test_a_document_that_names_its_image_is_a_row(tmp_path):
    row = {"image": "a.jpg", "caption": "one", "objects": [{"obj_cls": "ship"}]}
    source = opened(tmp_path, row)
    assert [(s.image, s.captions) for s in source] == [("a.jpg", ["one"])]
    assert source.notes == ["columns not used (rows that fill them): objects (1)"]


def test_a_row_of_lists_within_lists_without_end_costs_no_more_than_itself(tmp_path):
    deep: list = []
    for _ in range(100):
        deep = [deep]
    rows = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "x", "more": deep}]
    (one, other) = opened(tmp_path, rows)
    assert (one.problem, other.problem.partition(":")[0]) == ("", "nested too deep")


@pytest.mark.parametrize(("own", "found"), [(None, ["b", "c"]), ("a", ["a", "b", "c"])])
def test_captions_of_an_image_and_of_its_annotations_are_all_kept(tmp_path, own, found):
    image = {"id": 1, "file_name": "a.jpg", "caption": own}
    told = [{"image_id": 1, "caption": text} for text in "bc"]
    (sample,) = opened(tmp_path, {"images": [image], "annotations": told})
    assert sample.captions == found
