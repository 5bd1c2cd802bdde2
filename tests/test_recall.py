"""Uncertainty and ceiling of recall, against direct resampling and counting."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from rsclip_jax.evaluators import recall
from rsclip_jax.evaluators.recall import Ahead, Ranks, bootstrap, oracle, wrong_answers_ahead
from rsclip_jax.evaluators.texts import caption_groups

CAPTIONS = Path(__file__).parents[2] / "shared/data/captions_textonly/rsitmd_4743x5_textonly.jsonl"


def untied(wrong):
    return Ahead(wrong, np.zeros_like(wrong), np.ones_like(wrong))


def some_ranks(names=("i2t", "t2i"), mean="mean_recall", seed=0):
    """300 images of 5 texts each; what an image's texts find hangs together."""
    rng = np.random.default_rng(seed)
    ease = rng.exponential(size=300)
    rows = (ease * rng.exponential(8, 300)).astype(int)
    columns = (ease[:, None] * rng.exponential(8, (300, 5))).astype(int)
    owner = np.repeat(np.arange(300), 5)
    return Ranks(names, mean, untied(rows), untied(columns.ravel()), owner)


def resampled(ranks, draws=1500):
    """Draw images one by one and compute the metrics of each draw."""
    rng = np.random.default_rng(1)
    by_image = [np.flatnonzero(ranks.owner == image) for image in range(300)]
    found = []
    for _ in range(draws):
        drawn = rng.integers(0, 300, 300)
        texts = np.concatenate([by_image[image] for image in drawn])
        rows, columns = untied(ranks.rows.wrong[drawn]), untied(ranks.columns.wrong[texts])
        one = Ranks(ranks.names, ranks.mean, rows, columns, texts)
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
    assert found["i2t_R@1"] == pytest.approx(800 / 9)  # image 0 has two of three equal texts
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


@pytest.mark.parametrize("wrong, tied, right", [(0, 3, 1), (2, 1, 3), (1, 4, 2), (5, 0, 2)])
def test_hits_are_the_mean_over_all_orders_of_a_tie(wrong, tied, right):
    ahead = Ahead(*(np.array([number]) for number in (wrong, tied, right)))
    orders = list(itertools.permutations([False] * tied + [True] * right))
    for k in range(1, 10):
        hits = [any(([False] * wrong + list(order))[:k]) for order in orders]
        assert ahead.hits(k)[0] == pytest.approx(np.mean(hits)), k
        assert ahead.worst_hits(k)[0] == min(hits), k


def test_repeated_texts_score_what_random_orders_of_them_score_on_average():
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(40, 8))
    text = np.minimum(rng.geometric(0.1, 300) - 1, 39)  # some captions are of many images
    row = np.repeat(np.arange(60), 5)
    zimg = rng.normal(size=(60, 8)) + distinct[text].reshape(60, 5, 8).mean(axis=1)
    zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, distinct[text]))
    ranks = Ranks(("i2t", "t2i"), "m", *wrong_answers_ahead(zimg, ztxt, row, np.arange(300)), row)
    similarity = np.round(zimg @ ztxt.T, 9)
    for k in (1, 5, 10):
        drawn = []
        for _ in range(2000):
            order = np.lexsort((rng.random(similarity.shape), -similarity), axis=1)[:, :k]
            drawn.append(100 * (row[order] == np.arange(60)[:, None]).any(axis=1).mean())
        found = ranks.metrics((k,))["i2t_R@" + str(k)]
        assert found == pytest.approx(np.mean(drawn), abs=0.35)
        assert ranks.worst_case((k,))[f"worst_i2t_R@{k}"] < found - 1
    assert some_ranks().worst_case() == {}


def test_draws_in_parts_are_the_same_draws(monkeypatch):
    whole = bootstrap([some_ranks()])
    monkeypatch.setattr(recall, "DRAW_BLOCK", 2000)
    assert bootstrap([some_ranks()]) == whole
