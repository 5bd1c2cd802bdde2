import json

import pytest

from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tables import open_table


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def opened(root, *rows, **options):
    lines = [json.dumps({"caption": "one", **row}) for row in rows]
    (root / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return open_table("jsonl", str(root / "c.jsonl"), ignore=(), **options)


def test_images_of_coco_are_found_in_the_folders_of_their_splits(tmp_path):
    touch(tmp_path, "images/train2017/1.jpg", "images/val2017/1.jpg", "images/val2017/2.jpg")
    (tmp_path / "annotations").mkdir()
    for split, names in (("train", ["1.jpg", "2.jpg"]), ("val", ["1.jpg", "2.jpg"])):
        images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
        for kind, told in (("captions", {"caption": split}), ("instances", {"bbox": [0, 0, 1, 1]})):
            annotations = [{"image_id": n, **told} for n in range(2)]
            text = json.dumps({"images": images, "annotations": annotations})
            (tmp_path / f"annotations/{kind}_{split}2017.json").write_text(text, encoding="utf-8")
    given = ("json", str(tmp_path / "annotations"), str(tmp_path / "images"))
    source = open_table(*given, ignore=())
    found = [(s.image, s.split, s.captions) for s in source]
    assert found == [
        ("train2017/1.jpg", "train", ["train"]),
        ("train2017/2.jpg", "train", ["train"]),  # missing: that of val is another image
        ("val2017/1.jpg", "val", ["val"]),
        ("val2017/2.jpg", "val", ["val"]),
    ]
    assert source.notes[:1] == [
        "not used: instances_train2017.json, instances_val2017.json, none of whose 4 images has a "
        "caption or label",
    ]
    assert source.notes[2].endswith("each is taken from the folder called like its split")
    assert source.notes[3:] == ["columns not used (rows that fill them): id (4)"]
    assert [s.image for s in open_table(*given, ignore=(), file_splits=False)] == [
        image for image, *_ in found
    ]


def test_folders_may_be_named_by_another_column(tmp_path):
    touch(tmp_path, "train2014/1.jpg", "val2014/1.jpg", "val2014/2.jpg")
    rows = [("1.jpg", "train2014"), ("1.jpg", "val2014"), ("2.jpg", "val2014")]
    source = opened(tmp_path, *({"filename": n, "filepath": f, "split": "train"} for n, f in rows))
    assert [s.image for s in source] == ["train2014/1.jpg", "val2014/1.jpg", "val2014/2.jpg"]
    assert source.notes[0].endswith("from the folder that column 'filepath' names")
    assert len(source.notes) == 1


def test_an_image_that_one_folder_has_is_found_and_of_several_none_is_chosen(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    first, second, third = opened(tmp_path, *({"image": f"{n}.jpg"} for n in (1, 2, 3)))
    assert first.problem == "image name in several folders: a/1.jpg, b/1.jpg"
    assert (second.image, third.image) == ("b/2.jpg", "3.jpg")


def test_images_in_no_folder_are_refused(tmp_path):
    touch(tmp_path, "a/b/1.jpg")
    with pytest.raises(InputError, match="none of the first 1 images of column 'image' is in"):
        opened(tmp_path, {"image": "1.jpg"})


def test_names_without_suffixes_get_that_of_the_first_image(tmp_path):
    touch(tmp_path, "s2/a.png")
    source = opened(tmp_path, {"image": "a"}, {"image": "b"}, images=str(tmp_path / "s2"))
    assert [s.image for s in source] == ["a.png", "b.png"]
    assert source.notes == ["names of images have no suffix and are read with .png"]


def test_tables_in_several_folders_need_an_image_root(tmp_path):
    touch(tmp_path, "train/1.png", "test/1.png")
    for split in ("train", "test"):
        row = json.dumps({"file_name": "1.png", "text": split})
        (tmp_path / split / "metadata.jsonl").write_text(row, encoding="utf-8")
    given = ("jsonl", str(tmp_path / "*/metadata.jsonl"))
    with pytest.raises(InputError, match=r"tables lie in several folders; .*--images"):
        open_table(*given)
    source = open_table(*given, str(tmp_path))
    assert [(s.image, s.captions) for s in source] == [
        ("test/1.png", ["test"]),
        ("train/1.png", ["train"]),
    ]


def test_infrared_images_are_found_as_the_others_are_and_folders_by_their_words(tmp_path):
    touch(tmp_path, "port/0.jpg", "port/0_ir.jpg", "baseball_diamond/1.jpg")
    rows = [
        {"image": "0.jpg", "ir": "0_ir.jpg", "class": "port"},
        {"image": "1.jpg", "class": "Baseball diamond"},
        {"image": "0.jpg", "id": "2", "class": "Baseball diamond"},  # of port is another
    ]
    found = [(s.image, s.ir) for s in opened(tmp_path, *rows)]
    assert found[:2] == [("port/0.jpg", "port/0_ir.jpg"), ("baseball_diamond/1.jpg", "")]
    assert found[2][0] == "baseball_diamond/0.jpg"
    touch(tmp_path, "rgb.jpg", "nir/0.jpg")
    (sample,) = opened(tmp_path, {"image": "rgb.jpg", "ir": r"nir\0.jpg"})
    assert sample.ir == "nir/0.jpg"
