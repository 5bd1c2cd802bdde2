from pathlib import Path

import pytest

from rsclip_jax.data import splits


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train.csv valid.csv test.csv", "train valid test"),
        ("captions_train2017.json captions_val2017.json", "train val"),
        ("rsicd_train.json rsicd_test.json", "train test"),
        ("train-0001.tar train-0002.tar test-0001-of-0001.tar", "train train test"),
        ("train.csv test.csv extra.csv", "train test -"),
        ("train/a.tar val/a.tar train/b.tar", "train val train"),
        ("test/train.csv val/test.csv", "train test"),
        ("train.csv", "-"),
        ("train-1.csv train-2.csv", "- -"),
        ("train.csv port.csv", "- -"),
    ],
)
def test_files_are_of_the_splits_they_are_called_like_if_these_are_several(names, expected):
    notes = []
    paths = [Path(name) for name in names.split()]
    found = splits.of_files(paths, notes)
    assert [found.get(path, "-") for path in paths] == expected.split()
    assert len(notes) == bool(found)
    assert ("not so extra.csv (--split)" in "".join(notes)) == ("extra" in names)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("kaggle/test.csv", "test"),
        ("annotations/captions_val2017.json", "val"),
        ("shards/val-{0000..0003}.tar", "val"),
        ("folder/test/", "test"),
        ("train.csv", ""),
        ("captions.jsonl", ""),
        ("test_val.csv", ""),
        ("contest.csv", ""),
    ],
)
def test_one_file_called_like_a_held_out_split_is_noticed(path, expected):
    assert splits.of_name(path) == expected
