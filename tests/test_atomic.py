"""Files that appear whole or not at all."""

import errno
import os
from concurrent import futures

import pytest

from rsclip_jax import atomic, errors


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep/file.txt"
    atomic.write(path, "old \ud800")
    assert path.read_text(encoding="utf-8") == "old \\ud800"
    with pytest.raises(KeyboardInterrupt), atomic.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old \\ud800"
    assert list(path.parent.iterdir()) == [path]


def test_several_writers_of_one_file_leave_one_of_theirs(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: atomic.write(path, content), contents * 5))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_renamed_and_named(tmp_path, capsys):
    path = tmp_path / "card.json"
    path.write_text("{")
    assert atomic.set_aside(path, "no JSON") == tmp_path / "card.json.damaged"
    assert not path.exists() and "card.json is damaged (no JSON)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EDQUOT, "Disk quota exceeded"),
     ValueError('RESOURCE_EXHAUSTED: Failed to write "x": No space left on device [28]'),
     RuntimeError("write() failed: No space left on device; at byte 1; Failed to close")],
)  # fmt: skip
def test_a_full_disk_is_told_in_one_line_whoever_finds_it(error, tmp_path):
    with pytest.raises(atomic.DiskFullError) as found, atomic.writing(tmp_path):
        with atomic.replacing(tmp_path / "new/file"):
            raise error
    told = errors.told(found.value)
    assert told.startswith("the disk is full") and len(told.splitlines()) == 1
    assert f"{tmp_path}/new/file could not be written" in told and "MB are free" in told
    assert not list((tmp_path / "new").iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), atomic.writing(tmp_path):
        raise KeyError("disk")


def test_a_file_too_large_for_the_disk_is_not_begun(tmp_path):
    atomic.check_space(tmp_path / "new", 1)
    with pytest.raises(atomic.DiskFullError, match=r"new needs 1,000,000,000,000\.0 MB more"):
        atomic.check_space(tmp_path / "new", 10**18)
