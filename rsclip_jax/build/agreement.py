"""What ratings say together: means, and how far their raters agree."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import krippendorff
import numpy as np

from rsclip_jax.build.ratings import CRITERIA, Rating
from rsclip_jax.build.stages import markdown_table

_DRAWS = 2000  # of the bootstrap


def agreement(ratings: Iterable[Rating]) -> dict[str, Any]:
    """Summarise ratings, of which no two have the same key.

    Returns:
      "raters": name -> {"captions", "median_seconds"}; "captions": how many were rated, and
      "captions_by_several": by two raters or more; "changed": items rated under more than one text,
      each of which counts as a caption of its own; "criteria": criterion -> `describe` of all;
      "groups": a list of {"dataset", "kind", "captions", "criteria"}; "pairs": for each two raters
      {"raters", "captions" (rated by both), "criteria": criterion -> `compare`}.
    """
    given = list(ratings)
    raters = sorted({rating.rater for rating in given})
    units = sorted({(r.dataset, r.kind, r.item, r.caption) for r in given})
    row = {rater: i for i, rater in enumerate(raters)}
    column = {unit: i for i, unit in enumerate(units)}
    scores = {c: np.full((len(raters), len(units)), np.nan) for c in CRITERIA}
    for r in given:
        place = row[r.rater], column[r.dataset, r.kind, r.item, r.caption]
        for criterion in CRITERIA:
            scores[criterion][place] = getattr(r, criterion)
    rated = ~np.isnan(scores[CRITERIA[0]])
    texts = itertools.groupby(units, key=lambda unit: unit[2])
    groups = []
    for (dataset, kind), of in itertools.groupby(range(len(units)), key=lambda i: units[i][:2]):
        where = list(of)
        criteria = {c: describe(scores[c][:, where]) for c in CRITERIA}
        groups.append(
            {"dataset": dataset, "kind": kind, "captions": len(where), "criteria": criteria}
        )
    pairs = []
    for one, other in itertools.combinations(range(len(raters)), 2):
        both = rated[one] & rated[other]
        criteria = {c: compare(scores[c][one, both], scores[c][other, both]) for c in CRITERIA}
        names = [raters[one], raters[other]]
        pairs.append({"raters": names, "captions": int(both.sum()), "criteria": criteria})
    return {
        "raters": {
            rater: {
                "captions": int(rated[i].sum()),
                "median_seconds": float(np.median([r.seconds for r in given if r.rater == rater])),
            }
            for rater, i in row.items()
        },
        "captions": len(units),
        "captions_by_several": int((rated.sum(0) > 1).sum()),
        "changed": [item for item, of_item in texts if len(list(of_item)) > 1],
        "criteria": {c: describe(scores[c]) for c in CRITERIA},
        "groups": groups,
        "pairs": pairs,
    }


def describe(scores: np.ndarray) -> dict[str, Any]:
    """Summarise the scores of one criterion.

    Args:
      scores: float [raters, captions], NaN where a rater has not rated a caption.

    Returns:
      "mean" of the captions' means over their raters, "interval": its 95 % percentile interval
      where captions are drawn anew 2,000 times; "alpha": Krippendorff's for ordinal scores; and
      "exact", "within_one": the share of scores of two raters for one caption that are equal, or
      at most 1 apart. None where there is nothing to tell it from: no ratings, one caption, one
      rater; alpha also where all scores are the same.
    """
    count = (~np.isnan(scores)).sum(0)
    means = np.nanmean(scores[:, count > 0], 0)
    shared = scores[:, count > 1]
    differences = np.concatenate(
        [[], *(np.abs(one - other) for one, other in itertools.combinations(shared, 2))]
    )
    differences = differences[~np.isnan(differences)]
    several = len(np.unique(shared[~np.isnan(shared)])) > 1
    return {
        "mean": float(means.mean()) if len(means) else None,
        "interval": _interval(means) if len(means) > 1 else None,
        "alpha": float(krippendorff.alpha(shared, level_of_measurement="ordinal"))
        if several
        else None,
        **_shares(differences),
    }


def _interval(values: np.ndarray) -> list[float]:
    # Equal values are the same to the bootstrap: it draws how many there are of each.
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(values), counts / len(values), _DRAWS)
    return np.quantile(draws @ distinct / len(values), [0.025, 0.975]).tolist()


def _shares(differences: np.ndarray) -> dict[str, float | None]:
    if not len(differences):
        return {"exact": None, "within_one": None}
    return {
        "exact": float((differences == 0).mean()),
        "within_one": float((differences <= 1).mean()),
    }


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """Compare two raters' scores of the same captions, each float [captions].

    Returns:
      "kappa": Cohen's with quadratic weights (Cohen 1968), 1 less the ratio of the mean squared
      difference to that of the scores of two captions drawn independently; and the shares
      `describe` has. None where it is not defined: no captions, or all scores the same.
    """
    kappa = None
    if len(one):
        expected = one.var() + other.var() + (one.mean() - other.mean()) ** 2
        if expected > 0:
            kappa = float(1 - ((one - other) ** 2).mean() / expected)
    return {"kappa": kappa, **_shares(np.abs(one - other))}


def tables(found: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return (title, header, lines) of the tables that show `agreement`; some have no lines."""
    scores = [
        [name, f"{of['captions']:,}", *(_mean(of["criteria"][c]) for c in CRITERIA)]
        for name, of in [
            *((f"{g['dataset']}, {g['kind']}", g) for g in found["groups"]),
            ("all", found),
        ]
    ]
    measures = {
        "Krippendorff's alpha, ordinal": ("alpha", "{:.3f}"),
        "same score": ("exact", "{:.1%}"),
        "at most 1 apart": ("within_one", "{:.1%}"),
    }
    together = [
        [name, *(_number(found["criteria"][c][key], form) for c in CRITERIA)]
        for name, (key, form) in measures.items()
    ]
    raters = [
        [name, f"{of['captions']:,}", f"{of['median_seconds']:.1f}"]
        for name, of in found["raters"].items()
    ]
    pairs = [
        [
            " and ".join(pair["raters"]),
            f"{pair['captions']:,}",
            *(_number(pair["criteria"][c]["kappa"], "{:.3f}") for c in CRITERIA),
        ]
        for pair in found["pairs"]
    ]
    several = found["captions_by_several"]
    return [
        ("Mean scores [95 % interval]", ["captions of", "rated", *CRITERIA], scores),
        (f"Agreement on {several:,} captions", ["", *CRITERIA], together if several else []),
        ("Quadratic weighted kappa of two raters", ["raters", "both rated", *CRITERIA], pairs),
        ("Raters", ["rater", "rated", "median seconds"], raters),
    ]


def notes(found: Mapping[str, Any]) -> list[str]:
    """Return what must be known to read the tables."""
    lines = ["5 is the best score of each criterion; of hallucination it means: nothing invented."]
    if not found["captions_by_several"]:
        lines.append("No caption was rated by two people yet: nothing can be said of agreement.")
    if found["changed"]:
        lines.append(
            f"Captions whose text was changed between ratings: {len(found['changed']):,} "
            f"({', '.join(found['changed'][:5])}); each text counts as a caption of its own."
        )
    return lines


def markdown(found: Mapping[str, Any]) -> str:
    """Draw `agreement` as Markdown."""
    parts = []
    for title, header, lines in tables(found):
        if lines:
            parts += [f"## {title}", markdown_table(header, lines)]
    return "\n\n".join([*parts, *notes(found)])


def _mean(of: Mapping[str, Any]) -> str:
    mean = _number(of["mean"], "{:.2f}")
    return mean if of["interval"] is None else f"{mean} [{_range(of['interval'])}]"


def _range(interval: Sequence[float]) -> str:
    return ", ".join(f"{end:.2f}" for end in interval)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
