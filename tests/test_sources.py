import os

import pytest

from rsclip_jax.data import sources
from rsclip_jax.data.sources import InputError, expand_input, read_file


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


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


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "p.csv")
    (tmp_path / "q.csv").mkdir()
    for name in ("p.csv", "q*"):
        with pytest.raises(InputError, match=r"[pq]\.csv is no regular file: .* to a file first"):
            expand_input(str(tmp_path / name), (".csv",))


def test_links_that_lead_outside_are_followed_if_asked(tmp_path):
    touch(tmp_path, "blobs/a", "root/b.jpg")
    root = str((tmp_path / "root").resolve())
    os.symlink("../blobs/a", f"{root}/link.jpg")
    with pytest.raises(ValueError, match="--follow_links"):
        read_file(root, "link.jpg")
    assert read_file(root, "link.jpg", follow_links=True) == b"blobs/a"
    with pytest.raises(ValueError, match="path leaves the image root"):
        read_file(root, "../blobs/a", follow_links=True)
