import collections
from pathlib import Path

import numpy as np
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
        ("captions_val2017.json instances_val2017.json captions_train2017.json", "val val train"),
        ("test.csv", "test"),
        ("rsicd_test-1.csv rsicd_test-2.csv", "test test"),
        ("train.csv port.csv", "- -"),  # what names no split is in train anyway
        ("test/a.csv", "-"),
        ("train_val.csv", "-"),
        ("contest.csv", "-"),
        ("training_notes.csv", "-"),
    ],
)
def test_files_are_of_the_splits_they_are_called_like(names, expected):
    notes = []
    paths = [Path(name) for name in names.split()]
    found = splits.of_files(paths, notes)
    assert [found.get(path, "-") for path in paths] == expected.split()
    assert len(notes) == bool(found)
    assert ("not so extra.csv (--split" in "".join(notes)) == ("extra" in names)


def test_shares_are_drawn_by_the_key():
    keys = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64).tolist()
    found = collections.Counter(splits.drawn({"val": 0.1, "test": 0.2}, key) for key in keys)
    assert found["val"] == pytest.approx(2000, abs=150)
    assert found["test"] == pytest.approx(4000, abs=200)
    assert found[""] == 20_000 - found["val"] - found["test"]
