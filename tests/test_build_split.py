"""Splits without leaks, of exact sizes."""

import collections
import itertools

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from rsclip_jax.build.chance import drawn
from rsclip_jax.build.image_checks import hex_hash
from rsclip_jax.build.rows import new_row
from rsclip_jax.build.split import (
    Component,
    LeakFreeSplit,
    ShareSplit,
    assign_splits,
    held_out_share,
    normalise_caption,
    subset_of_sum,
)


@pytest.mark.parametrize(
    ("caption", "key"),
    [
        (
            "Many  planes are parked, next to a long building .",
            "many planes are parked next to a long building",
        ),
        ("Ｆｕｌｌｗｉｄｔｈ “Ｔｅｘｔ”", "fullwidth text"),
        ("STRASSE", "strasse"),
        ("Straße!", "strasse"),
        ("a\u00a0b\tc\n", "a b c"),
        ("x² + y", "x2 + y"),
        ("...", ""),
    ],
)
def test_captions_are_normalised(caption, key):
    assert normalise_caption(caption) == key


def test_sums_are_found_whenever_there_are_any():
    generator = np.random.default_rng(0)
    for _ in range(60):
        sizes = generator.integers(1, 9, 8).tolist()
        total = int(generator.integers(0, 30))
        sums = {sum(c) for n in range(9) for c in itertools.combinations(sizes, n)}
        if total in sums:
            assert sum(sizes[i] for i in subset_of_sum(sizes, total)) == total
        else:
            below = max(s for s in sums if s < total)
            with pytest.raises(ValueError, match=f" {below:,} is the nearest"):
                subset_of_sum(sizes, total)


def components(seed=0, count=3000):
    generator = np.random.default_rng(seed)
    for number in range(count):
        rows = collections.Counter(
            generator.choice(
                ["a", "b", "c"], generator.geometric(0.5), p=[0.8, 0.18, 0.02]
            ).tolist()
        )
        yield Component(f"c{number}", rows, forced=bool(generator.random() < 0.1))


def test_sizes_are_exact_and_every_source_has_its_minimum():
    given = list(components())
    sizes = {"val": 500, "test": 701}
    splits = assign_splits(given, sizes, minimum=25)
    assert splits == assign_splits(given[::-1], sizes, minimum=25)
    of = collections.defaultdict(collections.Counter)
    for component in given:
        of[splits[component.name]].update(component.rows)
        assert not component.forced or splits[component.name] == "train"
    assert of["val"].total() == 500 and of["test"].total() == 701
    assert set(of) == {"train", "val", "test"}
    assert all(of[split][source] >= 25 for split in sizes for source in "abc")
    # Drawn by chance: the shares of the sources are about those of all.
    assert 0.6 < of["test"]["a"] / 701 < 0.9


def test_a_size_that_no_components_add_up_to_is_an_error():
    given = [Component(f"c{n}", {"a": 2}) for n in range(10)]
    with pytest.raises(ValueError, match=r"'val' of 7 rows.* 6 is the nearest number below"):
        assign_splits(given, {"val": 7})


def test_what_is_alike_is_in_one_split():
    generator = np.random.default_rng(0)
    rows = []
    for number in range(120):
        rows.append(
            new_row(
                id=f"r{number:03d}",
                source="ab"[number % 2],
                captions=[f"caption {number}"],
                phash=hex_hash(int(generator.integers(0, 2**64, dtype=np.uint64))),
                ir_phash=hex_hash(int(generator.integers(0, 2**64, dtype=np.uint64))),
                ir_sha256=f"{number:064x}",
            )
        )
    share = 1e-3
    assert not any(drawn(row["id"], share) for row in rows)
    needed = next(name for name in map(str, itertools.count()) if drawn(name, share))
    # A chain through all four relations, which ends at a row that has to be in train.
    rows[1]["phash"] = hex_hash(int(rows[0]["phash"], 16) ^ 0b1111)
    rows[2]["ir_phash"] = hex_hash(int(rows[1]["ir_phash"], 16) ^ 0b111)
    rows[3]["ir_sha256"] = rows[2]["ir_sha256"]
    rows[4]["captions"] = ["Other", "CAPTION 3 ."]
    rows[4]["id"] = needed
    rows[8]["phash"] = rows[7]["phash"]
    transform = LeakFreeSplit({"val": 50, "test": 61}, minimum=5, forced=share)

    def check(decisions):
        splits = {name: update["split"] for name, update in decisions}
        assert len(decisions) == len(splits) == 120
        counts = collections.Counter(splits.values())
        assert counts == {"val": 50, "test": 61, "train": 9}
        assert {splits[row["id"]] for row in rows[:5]} == {"train"}
        assert splits["r007"] == splits["r008"]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(rows) | transform, check)


def test_a_share_of_every_source_is_held_out():
    rows = [new_row(id=f"r{n}", source="big" if n % 4 else "small") for n in range(400)]

    def check(decisions):
        splits = {name: update["split"] for name, update in decisions}
        held = collections.Counter(r["source"] for r in rows if splits[r["id"]] == "val")
        assert len(splits) == 400 and held == {"big": 15, "small": 5}
        expected = [held_out_share([r["id"] for r in rows if r["source"] == s], 0.05) for s in held]
        assert {name for name, split in splits.items() if split == "val"} == set.union(*expected)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(rows) | ShareSplit(0.05), check)
    assert held_out_share(["a"], 0.05) == set()


def test_a_split_that_a_row_came_with_is_kept():
    given = ["test", "val", "train", ""]
    rows = [new_row(id=f"r{n}", source="web", split=given[n % 4]) for n in range(80)]
    rows += [new_row(id="only", source="tests", split="test")]
    free = [row["id"] for row in rows if row["split"] in ("", "train")]

    def check(decisions):
        splits = {name: update["split"] for name, update in decisions}
        assert sorted(splits) == sorted(free)
        held = {name for name, split in splits.items() if split == "val"}
        assert held == held_out_share(free, 0.1) and len(held) == 4

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(rows) | ShareSplit(0.1), check)


def test_shares_are_exact_in_the_mean_and_nested():
    names = [f"r{number}" for number in range(10_000)]
    small, large = ({n for n in names if drawn(n, share)} for share in (0.1, 0.3))
    assert small < large and abs(len(small) - 1000) < 120 and abs(len(large) - 3000) < 180
    # The order in which splits are filled knows nothing of it.
    assert 0.05 < len(small & held_out_share(names, 0.1)) / 1000 < 0.15
    assert not any(drawn(n, 0.0) for n in names) and all(drawn(n, 1.0) for n in names)
