import os

import pytest

from rsclip_jax.data.folders import open_folder
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.splits import usual_name


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def listing(folder):
    return [(s.id, s.label, s.split, s.problem) for s in open_folder(str(folder))]


def test_class_folders_give_label_and_id_in_the_order_of_names(tmp_path):
    touch(tmp_path, "port/b.jpg", "port/a.PNG", "farm land/农田.tif", "port/readme.txt", ".x/c.jpg")
    touch(tmp_path, "port/.hidden.jpg", "port/deep/er/d.webp")
    assert listing(tmp_path) == [
        ("farm land/农田.tif", "farm land", "", ""),
        ("port/a.PNG", "port", "", ""),
        ("port/b.jpg", "port", "", ""),
        ("port/deep/er/d.webp", "port", "", ""),
    ]


def test_split_folders_are_taken_for_splits_if_there_is_nothing_else(tmp_path):
    touch(tmp_path, "train/port/a.jpg", "val/farm/b.jpg")
    assert listing(tmp_path) == [
        ("train/port/a.jpg", "port", "train", ""),
        ("val/farm/b.jpg", "farm", "val", ""),
    ]
    touch(tmp_path, "train_station/c.jpg")
    with pytest.raises(InputError, match=r"train, val seem to be splits, but train_station lie"):
        listing(tmp_path)


def test_links_to_directories_are_not_followed(tmp_path):
    touch(tmp_path, "root/port/a.jpg", "outside/b.jpg")
    os.symlink(tmp_path / "outside", tmp_path / "root/farm")
    os.symlink(tmp_path / "root", tmp_path / "root/port/circle")
    problems = {name: problem for name, _, _, problem in listing(tmp_path / "root")}
    assert problems == {
        "farm": "link to a directory: not followed",
        "port/a.jpg": "",
        "port/circle": "link to a directory: not followed",
    }


def test_progress_reaches_the_size_of_the_source(tmp_path):
    touch(tmp_path, "port/a.jpg", "port/b.jpg", "farm/c.jpg")
    source = open_folder(str(tmp_path))
    assert [sample.position for sample in source] == [1, 2, 3]
    assert source.size == 3


def test_folders_without_classes_are_refused(tmp_path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="no class folders"):
        open_folder(str(tmp_path))
    with pytest.raises(InputError, match="no such directory"):
        open_folder(str(tmp_path / "nowhere"))


def test_nested_folders_can_name_the_class_by_the_last(tmp_path):
    for name in ("transport/runway/a.jpg", "water/river/b.jpg", "town/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    assert [s.label for s in open_folder(str(tmp_path))] == ["town", "transport", "water"]
    assert [s.label for s in open_folder(str(tmp_path), "last")] == ["town", "runway", "river"]


def test_split_folders_are_found_beside_folders_without_images(tmp_path):
    touch(tmp_path, "Train/port/a.jpg", "test/port/b.jpg", "__MACOSX/x.txt", "annotations/y.txt")
    source = open_folder(str(tmp_path), ignore=())
    assert [(s.label, s.split) for s in source] == [("port", "Train"), ("port", "test")]
    assert source.notes == [
        "files that are no images are not used: 2 .txt",
        "folders without images are not used: __MACOSX, annotations",
    ]


def test_split_folders_taken_for_classes_are_noted(tmp_path):
    touch(tmp_path, "train/a.jpg", "port/b.jpg")
    (note,) = open_folder(str(tmp_path), ignore=()).notes
    assert note.startswith("folders train are not taken for splits, because port lie beside them")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("train2017", "test2017"),
        ("train_images", "Test Images"),
        ("images_train", "images-test"),
        ("trainset", "testing"),
    ],
)
@pytest.mark.parametrize("form", ["{split}/port/a.jpg", "port/{split}/a.jpg"])
def test_splits_are_found_however_they_are_called_above_and_below_the_classes(
    tmp_path, train, test, form
):
    touch(tmp_path, form.format(split=train), form.format(split=test))
    samples = list(open_folder(str(tmp_path), ignore=()))
    assert {s.label for s in samples} == {"port"}
    assert sorted(usual_name(s.split) for s in samples) == ["test", "train"]


@pytest.mark.parametrize("name", ["train_station", "valley", "test_field", "device", "set", "2017"])
def test_names_that_only_begin_like_a_split_are_none(tmp_path, name):
    touch(tmp_path, f"{name}/a.jpg", "port/b.jpg")
    assert {label for _, label, _, _ in listing(tmp_path)} == {name, "port"}


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.jpg", "test/a/1.jpg", "port/1.jpg"),
        ("a/train/1.jpg", "a/val/1.jpg", "b/1.jpg"),
        ("train/a/1.jpg", "train/b/1.jpg", "extra/b/1.jpg"),
        ("a/train/x/1.jpg", "b/x/1.jpg"),
    ],
)
def test_splits_beside_other_folders_are_refused(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=r"seem to be splits, but .*--ignore=.*--split_names="):
        open_folder(str(tmp_path), ignore=())


def test_a_folder_is_left_out_or_made_a_split_by_name(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "test/a/1.jpg", "extra/b/1.jpg", "extra/b/2.jpg")
    source = open_folder(str(tmp_path), ignore=("extra",))
    assert [(s.label, s.split) for s in source] == [("a", "test"), ("a", "train")]
    assert source.notes == ["2 images in folders extra are left out (--ignore)"]
    assert source.size == 2
    source = open_folder(str(tmp_path), ignore=(), split_names={"extra": "train"})
    assert [s.split for s in source] == ["extra", "extra", "test", "train"]


@pytest.mark.parametrize("name", ["masks", "annotations", "gt", "labels", "Mask_images"])
def test_folders_of_masks_are_refused_or_left_out(tmp_path, name):
    touch(tmp_path, "train/images/1.jpg", f"train/{name}/1.png", "test/unmasked/1.jpg")
    with pytest.raises(InputError, match=f"{name} seem to hold masks.*--ignore={name},"):
        open_folder(str(tmp_path), ignore=())
    assert len(list(open_folder(str(tmp_path), ignore=(name,)))) == 2


@pytest.mark.parametrize(
    "name", ["ir", "nir", "infrared", "Thermal", "thermal_8_bit_images", "near_infrared"]
)
@pytest.mark.parametrize("form", ["{}/1.jpg", "port/{}/1.jpg"])
def test_folders_of_infrared_images_are_refused_or_left_out(tmp_path, name, form):
    touch(tmp_path, form.format("rgb"), form.format(name), "thermal power station/1.jpg")
    with pytest.raises(InputError, match=f"seem to hold infrared.*jsonl.*--ignore={name}$"):
        open_folder(str(tmp_path), ignore=())
    assert len(list(open_folder(str(tmp_path), ignore=(name,)))) == 2


def test_one_folder_above_all_classes_is_refused_unless_it_is_the_class(tmp_path):
    touch(tmp_path, "Images/port/1.jpg", "Images/farm/1.jpg")
    with pytest.raises(InputError, match=r"one folder 'Images', .*--class_folder=last"):
        open_folder(str(tmp_path), ignore=())
    assert [s.label for s in open_folder(str(tmp_path), "last", ())] == ["farm", "port"]
    assert [s.label for s in open_folder(str(tmp_path), "first", ())] == ["Images", "Images"]


def test_files_that_are_no_images_are_counted(tmp_path):
    touch(
        tmp_path, "port/1.jpg", "port/1.npy", "port/2.npy", "port/labels.txt", "readme", "b/1.jpg"
    )
    (note,) = open_folder(str(tmp_path), ignore=()).notes
    assert note == "files that are no images are not used: 2 .npy, 1 .txt, 1 without suffix"


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_captions_beside_the_images_of_class_folders_are_refused(tmp_path, suffix):
    touch(tmp_path, "00000/000000000.jpg", f"00000/000000000.{suffix}")
    with pytest.raises(InputError, match=f"webdataset.*--ignore={suffix}$"):
        open_folder(str(tmp_path), ignore=())
    assert len(list(open_folder(str(tmp_path), ignore=(suffix,)))) == 1


@pytest.mark.parametrize("path", ["train/images/1.png", "train/1.png", "JPEGImages/1.png"])
def test_folders_that_name_no_class_are_refused(tmp_path, path):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    with pytest.raises(InputError, match=r"names a class.* --format=jsonl"):
        open_folder(str(tmp_path), ignore=())


def test_bands_in_files_of_their_own_are_refused(tmp_path):
    touch(tmp_path, "port/S2A_1_B02.tif", "port/S2A_1_B8A.tif")
    with pytest.raises(InputError, match="single bands"):
        open_folder(str(tmp_path), ignore=())
    touch(tmp_path, "port/club_b.tif")
    assert len(list(open_folder(str(tmp_path), ignore=()))) == 3


def test_single_bands_are_refused_and_folders_without_images_are_not_taken_for_them(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("B04.tif", "T32ABC_20260101_B8A_20m.jp2", "scene_B11.TIF"):
        (tmp_path / "a" / name).touch()
        with pytest.raises(InputError, match="seem to be single bands"):
            open_folder(str(tmp_path), ignore=())
        (tmp_path / "a" / name).unlink()
    (tmp_path / "a" / "1.heic").touch()
    with pytest.raises(InputError, match=r"\.heic"):
        open_folder(str(tmp_path), ignore=())
