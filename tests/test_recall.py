"""Uncertainty and ceiling of recall, against direct resampling and counting."""

import json
from pathlib import Path

import numpy as np
import pytest

from rsclip_jax.evaluators.recall import Ranks, bootstrap, oracle
from rsclip_jax.evaluators.texts import caption_groups

CAPTIONS = Path(__file__).parents[2] / "shared/data/captions_textonly/rsitmd_4743x5_textonly.jsonl"


def some_ranks(names=("i2t", "t2i"), mean="mean_recall", seed=0):
    """300 images of 5 texts each; what an image's texts find hangs together."""
    rng = np.random.default_rng(seed)
    ease = rng.exponential(size=300)
    rows = (ease * rng.exponential(8, 300)).astype(int)
    columns = (ease[:, None] * rng.exponential(8, (300, 5))).astype(int)
    return Ranks(names, mean, rows, columns.ravel(), np.repeat(np.arange(300), 5))


def resampled(ranks, draws=1500):
    """Draw images one by one and compute the metrics of each draw."""
    rng = np.random.default_rng(1)
    by_image = [np.flatnonzero(ranks.owner == image) for image in range(300)]
    found = []
    for _ in range(draws):
        drawn = rng.integers(0, 300, 300)
        texts = np.concatenate([by_image[image] for image in drawn])
        one = Ranks(ranks.names, ranks.mean, ranks.rows[drawn], ranks.columns[texts], texts)
        found.append(one.metrics())
    return {name: np.percentile([m[name] for m in found], [2.5, 97.5]) for name in found[0]}


def test_intervals_are_those_of_drawing_images_with_their_texts():
    ranks = some_ranks()
    intervals, expected = bootstrap([ranks]), resampled(ranks)
    assert set(intervals) == set(expected) == set(ranks.metrics())
    for name, (low, high) in intervals.items():
        assert [low, high] == pytest.approx(expected[name], abs=0.7), name
        assert low < ranks.metrics()[name] < high
    # Drawn as if independent, five texts an image would seem to tell five times as much.
    low, high = intervals["t2i_R@5"]
    p = ranks.metrics()["t2i_R@5"] / 100
    assert high - low > 1.2 * 100 * 2 * 1.96 * np.sqrt(p * (1 - p) / 1500)


def test_intervals_of_several_searches_come_with_that_of_all_their_recalls():
    one, two = some_ranks(), some_ranks(("a", "b"), "pair_mean", seed=5)
    one = Ranks(("c", "d"), "text_mean", one.rows, one.columns, one.owner)
    found = bootstrap([one, two])
    assert set(found) == {*one.metrics(), *two.metrics(), "mean_recall"}
    middle = (one.metrics()["text_mean"] + two.metrics()["pair_mean"]) / 2
    assert found["mean_recall"][0] < middle < found["mean_recall"][1]
    assert found["a_R@5"] == pytest.approx(bootstrap([two])["a_R@5"], abs=0.7)


def test_oracle_of_a_hand_made_case():
    # "a" stands twice with image 0 and once with image 1.
    groups, row_of = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 0, 1, 2])
    found = oracle(row_of, groups, ks=(1, 2))
    assert found["t2i_R@1"] == pytest.approx(80)  # the "a" of image 1 loses to image 0
    assert found["i2t_R@1"] == pytest.approx(200 / 3)  # image 0 has none that is its own alone
    assert found["t2i_R@2"] == found["i2t_R@2"] == 100
    assert set(oracle(np.arange(4), np.arange(4)).values()) == {100.0}


def test_oracle_of_rsitmd_is_the_published_one():
    if not CAPTIONS.exists():
        pytest.skip(f"{CAPTIONS} is not here")
    rows = [json.loads(line) for line in CAPTIONS.read_text().splitlines()]
    test = [row["captions"] for row in rows if row["split"] == "test"]
    captions = [caption for own in test for caption in own]
    row_of = np.repeat(np.arange(len(test)), [len(own) for own in test])
    assert (len(test), len(captions)) == (452, 2260)
    groups = caption_groups(captions, str)
    assert oracle(row_of, groups)["t2i_R@1"] == pytest.approx(99.87, abs=0.005)
