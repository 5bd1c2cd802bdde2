import json

import pytest

from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tables import open_table


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_tables_called_like_splits_are_those_where_a_row_names_none(tmp_path, form):
    for name in ("train", "valid"):
        rows = [{"image": f"{name}.jpg", "caption": "x"}]
        rows += [{"image": "a.jpg", "caption": name, "split": "dev"}] * (name == "train")
        lines = {
            "csv": f"image,caption,split\n{name}.jpg,x,\n",
            "jsonl": "\n".join(map(json.dumps, rows)),
            "json": json.dumps(rows),
        }
        (tmp_path / f"{name}.{form}").write_text(lines[form], encoding="utf-8")
        (tmp_path / f"{name}.jpg").touch()
    source = open_table(form, str(tmp_path), ignore=())
    found = {s.id: s.split for s in source}
    assert (found.pop("train.jpg"), found.pop("valid.jpg")) == ("train", "valid")
    assert found in ({}, {"a.jpg": "dev"})
    assert "of its file's name: train, valid (--split" in source.notes[0]
    source = open_table(form, str(tmp_path / f"valid.{form}"), ignore=())
    assert [s.split for s in source] == ["valid"]
    (sample,) = open_table(form, str(tmp_path / f"valid.{form}"), ignore=(), file_splits=False)
    assert sample.split == ""


def rows(tmp_path, *rows):
    (tmp_path / "a.JPG").touch()
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return open_table("jsonl", str(tmp_path / "c.jsonl"), ignore=())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://x.org/a.JPG", "img2dataset .* --format=webdataset"),
        ("a.jpg", "there is 'a.JPG': write names with the suffixes"),
        ("b.jpg", "give their directory with --images"),
        ("c.jpg", "there is 'x/y/c.jpg': give the directory that paths go on from with --images"),
    ],
)
def test_images_that_are_not_there_are_told_with_a_hint(tmp_path, name, message):
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "x/y/c.jpg").touch()
    with pytest.raises(InputError, match=message):
        rows(tmp_path, {"image_name": name, "caption": "one"})


def test_paths_in_objects_are_read(tmp_path):
    image = {"path": "a.JPG", "bytes": None}
    (sample,) = rows(tmp_path, {"image": image, "caption": "one", "ir": image})
    assert (sample.image, sample.ir) == ("a.JPG", "a.JPG")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": {"bytes": "xyz", "path": "a.JPG"}, "caption": "one"}, "not a text in column"),
        ({"image": "", "caption": "one"}, "no image: column 'image' is empty"),
        ({"image": "a.JPG", "caption": None, "label": ""}, r"captions and labels \(caption, label"),
    ],
)
def test_rows_none_of_which_can_be_used_are_told_before_the_work(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        rows(tmp_path, *[row] * 3)
    *_, last = rows(tmp_path, row, {"image": "a.JPG", "caption": "one"})
    assert last.captions == ["one"]
