"""Grouping through files is grouping."""

import collections

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that

from rsclip_jax.build import shuffle
from rsclip_jax.build.runners import Runner


@pytest.mark.parametrize("held", [1, 2**20])  # written pair by pair, or at the end
def test_pairs_are_grouped_through_files(held, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "HELD", held)
    monkeypatch.setattr(shuffle, "PARTS", 3)
    ones = [(f"k{n % 7}", n) for n in range(40)]
    others = [(f"k{n % 9}", {"n": [n]}) for n in range(0, 40, 2)] + [(5, {})]
    expected: dict = collections.defaultdict(lambda: ([], []))
    for place, pairs in enumerate((ones, others)):
        for key, value in pairs:
            expected[key][place].append(value)
    written = []
    spy = lambda *given: written.append(given) or open(*given)  # noqa: E731
    monkeypatch.setattr(shuffle, "open", spy, raising=False)

    def check_both(groups):
        found = {key: (sorted(of["one"]), sorted(of["other"], key=str)) for key, of in groups}
        assert len(groups) == len(found) == 10
        for key, (one, other) in expected.items():
            assert found[key] == (one, sorted(other, key=str))

    def check_one(groups):
        assert {key: sorted(values) for key, values in groups} == {
            key: one for key, (one, _) in expected.items() if one
        }

    with Runner(workers=1).pipeline("test", 1, str(tmp_path / "scratch")) as pipeline:
        one = pipeline | "ones" >> beam.Create(ones)
        other = pipeline | "others" >> beam.Create(others)
        both = {"one": one, "other": other} | shuffle.CoGroupByKey()
        assert_that(both, check_both, "both")
        assert_that(one | shuffle.GroupByKey(), check_one, "one")
    assert {mode for _, mode in written} == {"wb", "rb"}
    assert not (tmp_path / "scratch").exists()


def test_keys_whose_part_would_change_from_process_to_process_are_refused(tmp_path):
    with pytest.raises(Exception, match=r"key \('a', 1\): expected a text or a number"):
        with Runner(workers=1).pipeline("test", 1, str(tmp_path / "scratch")) as pipeline:
            _ = pipeline | beam.Create([(("a", 1), 1)]) | shuffle.GroupByKey()
