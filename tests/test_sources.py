import os

import pytest

from rsclip_jax.data import sources
from rsclip_jax.data.sources import InputError, expand_input, open_folder, read_file


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
    assert [label for _, label, _, _ in listing(tmp_path)] == ["train", "train_station", "val"]


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


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/hostname", "link", "deep/x"])
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    touch(tmp_path, "root/inside", "secret", "rootling/x")
    os.symlink("../secret", tmp_path / "root/link")
    os.symlink(tmp_path / "rootling", tmp_path / "root/deep")
    root = os.path.realpath(tmp_path / "root")
    with pytest.raises(ValueError, match="path leaves the image root"):
        read_file(root, path)


def test_paths_that_stay_inside_are_read_however_they_are_written(tmp_path):
    touch(tmp_path, "root/a/inside")
    os.symlink("a/inside", tmp_path / "root/link")
    root = os.path.realpath(tmp_path / "root")
    for path in ("a/inside", "a/../a/inside", f"{root}/a/inside", "link"):
        assert read_file(root, path) == b"root/a/inside"


def test_files_that_cannot_be_read_are_told_why(tmp_path, monkeypatch):
    root = os.path.realpath(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # Opening it would wait for ever.
    touch(tmp_path, "large")
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 4)
    for path, reason in {
        "absent": "missing file: 'absent'",
        "pipe": "not a regular file: 'pipe'",
        ".": "not a regular file",
        "large": "file too large: 5 bytes",
        "nul\0": "null byte",
    }.items():
        with pytest.raises(ValueError, match=reason):
            read_file(root, path)


def test_input_may_be_file_directory_glob_or_braces(tmp_path):
    touch(tmp_path, "p-0008.tar", "p-0009.tar", "p-0010.tar", "q-a.tar", "notes.txt")

    def names(pattern):
        return [path.name for path in expand_input(str(tmp_path / pattern), (".tar",))]

    assert names("notes.txt") == ["notes.txt"]
    assert names("") == ["p-0008.tar", "p-0009.tar", "p-0010.tar", "q-a.tar"]
    assert names("p-00*.tar") == ["p-0008.tar", "p-0009.tar", "p-0010.tar"]
    assert names("p-{0009..0010}.tar") == ["p-0009.tar", "p-0010.tar"]
    assert names("{q-a,p-0008}.tar") == ["q-a.tar", "p-0008.tar"]
    assert names("{p-000{8..9},q-?}.tar") == ["p-0008.tar", "q-a.tar", "p-0009.tar"]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("p-{0000..0002}.tar", "p-0001.tar does not exist"),
        ("absent.tar", "does not exist"),
        ("p-{2..0}.tar", "counts down"),
        ("*.zip", "does not exist"),
        ("empty", "holds no file ending in .tar"),
    ],
)
def test_input_that_is_not_there_is_named(tmp_path, pattern, message):
    touch(tmp_path, "p-0000.tar", "p-0002.tar", "empty/notes.txt")
    with pytest.raises(InputError, match=message):
        expand_input(str(tmp_path / pattern), (".tar",))


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
    assert source.notes == ["folders without images are not used: __MACOSX, annotations"]


def test_split_folders_taken_for_classes_are_noted(tmp_path):
    touch(tmp_path, "train/port/a.jpg", "port/b.jpg")
    (note,) = open_folder(str(tmp_path)).notes
    assert note.startswith("folders train are taken for classes")


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_captions_beside_the_images_of_class_folders_are_refused(tmp_path, suffix):
    touch(tmp_path, "00000/000000000.jpg", f"00000/000000000.{suffix}")
    with pytest.raises(InputError, match=f"webdataset.*--ignore={suffix}$"):
        open_folder(str(tmp_path), ignore=())
    assert len(list(open_folder(str(tmp_path), ignore=(suffix,)))) == 1


def test_links_that_lead_outside_are_followed_if_asked(tmp_path):
    touch(tmp_path, "blobs/a", "root/b.jpg")
    root = str((tmp_path / "root").resolve())
    os.symlink("../blobs/a", f"{root}/link.jpg")
    with pytest.raises(ValueError, match="--follow_links"):
        read_file(root, "link.jpg")
    assert read_file(root, "link.jpg", follow_links=True) == b"blobs/a"
    with pytest.raises(ValueError, match="path leaves the image root"):
        read_file(root, "../blobs/a", follow_links=True)
