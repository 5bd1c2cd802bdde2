"""Keep the rows that are among the best by each of several scores.

Of n rows, the best share q by a score are those that reach its k-th greatest value, where
k = ceil(q n), q taken as the decimal that it is written as. Rows that tie with that value all stay,
so there may be more than k. The scores are looked at one by one, each over all rows; a row stays if
it is among the best by every one.

RS5M keeps 3,007,809 of 4,019,225 with q = 0.9 and 0.8. Its counts for other shares (figure 13) are
not those of a Gaussian copula: the correlation that fits rises from 0.27 at (0.6, 0.6) to 0.59 at
(0.95, 0.95). A Clayton copula, whose scores depend most where both are low, gives them to 0.3 % of
the rows with a parameter of 0.39: what is no remote sensing scores low by both.
"""

import array
import dataclasses
import fractions
import math
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np

from rsclip_jax.build.rows import Row
from rsclip_jax.build.shuffle import GroupByKey
from rsclip_jax.build.stages import DROPPED


def cutoff(values: np.ndarray, share: float) -> float:
    """Return the least of the best `share` of values: the ceil(share n)-th greatest.

    Args:
      values: [n], n > 0, no NaN.
      share: in (0, 1].
    """
    count = math.ceil(fractions.Fraction(str(share)) * len(values))
    return float(np.partition(values, len(values) - count)[len(values) - count])


def kept_by_quantiles(scores: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> np.ndarray:
    """Tell which rows are among the best by every score: bool [n].

    Args:
      scores: name -> [n].
      shares: name -> share of the rows that stay by this score alone.
    """
    kept = [scores[name] >= cutoff(scores[name], share) for name, share in shares.items()]
    return np.logical_and.reduce(kept)


@dataclasses.dataclass
class QuantileFilter(beam.PTransform):
    """Decide which rows go. One worker holds all scores: eight bytes for each.

    Attributes:
      shares: field of rows -> share of the rows that stay by this score alone, in (0, 1].
      sources: rows of others are not looked at.
    """

    shares: dict[str, float]
    sources: list[str]

    def __post_init__(self):
        for name, share in self.shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"share {share} of {name}: expected more than 0, at most 1")

    def expand(self, rows):
        scores = (
            rows
            | "of sources"
            >> beam.Filter(lambda row, sources: row["source"] in sources, self.sources)
            | "scores" >> beam.Map(_scores, list(self.shares))
        )
        cutoffs = scores | "cutoffs" >> beam.CombineGlobally(_Cutoffs(list(self.shares.values())))
        return (
            scores
            # The cutoffs are known when all rows were read: until then they wait in files.
            | "by id" >> GroupByKey()
            | "low" >> beam.FlatMap(_low, list(self.shares), beam.pvalue.AsSingleton(cutoffs))
        )


def _of(row: Row, sources: list[str]) -> bool:
    return row["source"] in sources


def _scores(row: Row, names: Sequence[str]) -> tuple[str, list[float]]:
    for name in names:
        value = row.get(name)
        if value is None or math.isnan(value):
            raise ValueError(f"row {row['id']!r} has no {name} ({value}): score the rows before")
    return row["id"], [row[name] for name in names]


class _Cutoffs(beam.CombineFn):
    def __init__(self, shares: list[float]):
        self._shares = shares

    def create_accumulator(self):
        return [array.array("d") for _ in self._shares]

    def add_input(self, values, scored):
        for held, score in zip(values, scored[1], strict=True):
            held.append(score)
        return values

    def merge_accumulators(self, accumulators):
        total = self.create_accumulator()
        for values in accumulators:
            for held, more in zip(total, values, strict=True):
                held.extend(more)
        return total

    def extract_output(self, values):
        return [
            cutoff(np.frombuffer(held), share) if held else math.nan
            for held, share in zip(values, self._shares, strict=True)
        ]


def _low(scored, names: list[str], cutoffs: list[float]) -> Iterator[tuple[str, dict[str, str]]]:
    name, found = scored
    for values in found:
        low = [
            (field, f"{value:.4f} < {least:.4f}")
            for field, value, least in zip(names, values, cutoffs, strict=True)
            if value < least
        ]
        if low:
            fields, told = zip(*low, strict=True)
            yield name, {DROPPED: f"low {' and '.join(fields)}: {', '.join(told)}"}
