import json

import pytest

from rsclip_jax.data.tables import open_table


def opened(tmp_path, *rows, **options):
    (tmp_path / "a.jpg").touch()
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return open_table("jsonl", str(path), ignore=(), **options)


def only(source):
    (sample,) = source
    return sample


@pytest.mark.parametrize("number", [3, "3", "", [3]])
@pytest.mark.parametrize("name", ["ClassName", "class_label", "label_name"])
def test_names_of_classes_go_before_their_numbers(tmp_path, number, name):
    row = {"image": "a.jpg", "Label": number, name: "Forest"}
    source = opened(tmp_path, row)
    assert only(source).label == "Forest"
    assert source.notes[0].startswith(f"labels are those of {name!r}: 'Label' holds no names")
    assert only(opened(tmp_path, row, given={"label": (name,)})).label == "Forest"


def test_a_label_that_is_a_name_goes_first(tmp_path):
    row = {"image": "a.jpg", "class_name": "woods", "label": "Forest"}
    source = opened(tmp_path, row)
    assert only(source).label == "Forest"
    assert source.notes == ["columns not used (rows that fill them): class_name (1)"]
