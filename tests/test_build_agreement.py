"""Agreement of raters, against published examples and formulas written out."""

import itertools
import json

import numpy as np
import pytest

from rsclip_jax.build import agreement
from rsclip_jax.build.ratings import CRITERIA, Rating


def rating(rater, item, scores=(5, 5, 5), **more):
    given = {"dataset": "mine", "kind": "short", "caption": "0" * 16, "comment": "", "seconds": 4.0}
    time = "2026-01-01T00:00:00+00:00"
    scored = dict(zip(CRITERIA, scores, strict=True))
    return Rating(rater=rater, item=item, time=time, **given | scored | more)


def random_scores(raters=3, captions=40, seed=0):
    """Draw scores that agree more than by chance, a fifth of them missing."""
    random = np.random.default_rng(seed)
    scores = random.integers(1, 6, captions) + random.integers(-1, 2, (raters, captions))
    scores = np.clip(scores, 1, 5).astype(float)
    scores[random.random(scores.shape) < 0.2] = np.nan
    return scores


def test_alpha_is_that_of_krippendorffs_example():
    """Data and result of "Computing Krippendorff's Alpha-Reliability" (2011), section C."""
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    scores = np.array([[np.nan if c == "." else float(c) for c in row] for row in rows])
    assert agreement.describe(scores)["alpha"] == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_one_less_the_ratio_of_observed_to_expected_disagreement():
    """The definition over all pairs of values, without a matrix of coincidences."""
    scores = random_scores()
    units = [column[~np.isnan(column)] for column in scores.T]
    units = [unit for unit in units if len(unit) > 1]
    values = np.concatenate(units)
    count = {score: int((values == score).sum()) for score in range(1, 6)}

    def squared_distance(one, other):
        low, high = sorted((int(one), int(other)))
        between = sum(count[score] for score in range(low, high + 1))
        return (between - (count[low] + count[high]) / 2) ** 2

    observed = sum(
        sum(squared_distance(*pair) for pair in itertools.permutations(unit, 2)) / (len(unit) - 1)
        for unit in units
    )
    expected = sum(squared_distance(*pair) for pair in itertools.permutations(values, 2))
    alpha = 1 - (observed / len(values)) / (expected / (len(values) * (len(values) - 1)))
    assert 0.2 < alpha < 0.95
    assert agreement.describe(scores)["alpha"] == pytest.approx(alpha, abs=1e-12)


def test_kappa_is_that_of_the_weighted_table():
    scores = random_scores()
    one, other = scores[:2][:, ~np.isnan(scores[:2]).any(0)]
    table = np.zeros((5, 5))
    for a, b in zip(one, other, strict=True):
        table[int(a) - 1, int(b) - 1] += 1 / len(one)
    chance = np.outer(table.sum(1), table.sum(0))
    weights = np.subtract.outer(np.arange(5), np.arange(5)) ** 2 / 16
    found = agreement.compare(one, other)
    assert found["kappa"] == pytest.approx(1 - (weights * table).sum() / (weights * chance).sum())
    assert found["exact"] == pytest.approx(np.trace(table))
    near = sum(table[a, b] for a in range(5) for b in range(5) if abs(a - b) <= 1)
    assert found["within_one"] == pytest.approx(near)


def test_the_mean_is_of_captions_and_its_interval_that_of_the_bootstrap():
    scores = np.array([[5, 5, 1, np.nan], [4, np.nan, 1, 3]])
    found = agreement.describe(scores)
    assert found["mean"] == pytest.approx((4.5 + 5 + 1 + 3) / 4)  # not that of the six scores
    assert found["exact"] == 0.5 and found["within_one"] == 1.0
    scores = random_scores(captions=60)
    means = np.nanmean(scores[:, ~np.isnan(scores).all(0)], 0)
    random = np.random.default_rng(1)
    drawn = random.choice(means, (20_000, len(means))).mean(1)
    expected = np.quantile(drawn, [0.025, 0.975])
    np.testing.assert_allclose(agreement.describe(scores)["interval"], expected, atol=0.03)


def test_what_cannot_be_told_is_none():
    for found in (agreement.agreement([]), agreement.agreement([rating("ada", "mine/a/short/0")])):
        told = found["criteria"]["relevance"]
        assert told["interval"] is told["alpha"] is told["exact"] is None
        assert "No caption was rated by two" in agreement.markdown(found)
        json.dumps(found, allow_nan=False)
    same = [rating(rater, f"mine/{i}/short/0") for rater in ("ada", "bob") for i in range(3)]
    found = agreement.agreement(same)
    assert found["criteria"]["fluency"]["alpha"] is None  # 0 / 0: nobody used another score
    assert found["pairs"][0]["criteria"]["fluency"] == {
        "kappa": None,
        "exact": 1.0,
        "within_one": 1.0,
    }


def test_ratings_are_told_by_rater_kind_and_data_set():
    given = [
        rating("ada", "one/a/short/0", (5, 4, 3), dataset="one"),
        rating("bob", "one/a/short/0", (3, 4, 3), dataset="one", seconds=8.0),
        rating("ada", "one/b/long/0", (1, 1, 1), dataset="one", kind="long", seconds=6.0),
        rating("ada", "two/a/short/0", (2, 5, 5), dataset="two", seconds=20.0),
        rating("bob", "two/a/short/0", (2, 5, 5), dataset="two", caption="1" * 16),
    ]
    found = agreement.agreement(reversed(given))
    assert found["raters"] == {
        "ada": {"captions": 3, "median_seconds": 6.0},
        "bob": {"captions": 2, "median_seconds": 6.0},
    }
    # The same caption under two texts: two captions, on which nobody can agree.
    assert found["captions"] == 4 and found["changed"] == ["two/a/short/0"]
    assert found["captions_by_several"] == 1
    groups = {(of["dataset"], of["kind"]): of for of in found["groups"]}
    assert list(groups) == [("one", "long"), ("one", "short"), ("two", "short")]
    assert groups["one", "short"]["criteria"]["relevance"]["mean"] == 4.0
    assert groups["two", "short"]["captions"] == 2
    (pair,) = found["pairs"]
    assert pair["raters"] == ["ada", "bob"] and pair["captions"] == 1
    text = " ".join(agreement.markdown(found).split())
    assert "| one, long | 1 | 1.00 |" in text and "changed between ratings: 1 (two/a" in text
