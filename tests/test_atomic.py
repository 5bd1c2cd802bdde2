"""Files that appear whole or not at all."""

from concurrent import futures

import pytest

from rsclip_jax import atomic


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
