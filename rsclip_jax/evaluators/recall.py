"""Recall at K between two sets of embeddings, exact for millions of rows, with its uncertainty."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from rsclip_jax.encoder import SILENT_S

KS = (1, 5, 10)
# Similarities that differ by less are a tie. float32 cannot tell them apart: one caption encoded
# at two places of a batch gives embeddings that differ by as much.
TIE = 1e-6
ROW_BLOCK, COLUMN_BLOCK = 1024, 4096
PAIR_BLOCK = 8192
DRAWS = 1000  # of the bootstrap
DRAW_BLOCK = 10**7  # numbers of the bootstrap that are drawn at once


@dataclasses.dataclass(frozen=True)
class Ahead:
    """What stands before the first right answer of each of Q queries, and beside it.

    Attributes:
      wrong: [Q], wrong answers more similar than the best right one.
      tied: [Q], wrong answers as similar as that one.
      right: [Q], right answers as similar as that one, itself included: 1 or more.
    """

    wrong: np.ndarray
    tied: np.ndarray
    right: np.ndarray

    def hits(self, k: int) -> np.ndarray:
        """Return how probably one of the first k answers is right, ties in random order: [Q].

        Of k - wrong draws from the tied answers, without replacement, one has to be right.
        """
        found = (self.wrong < k).astype(np.float64)
        open_ = np.flatnonzero((self.wrong < k) & (self.tied > 0))
        tied, right = self.tied[open_], self.right[open_]
        draws = k - self.wrong[open_]
        missed = np.ones(len(open_))
        for drawn in range(min(k, tied.max(initial=0) + 1)):
            left = np.maximum(tied - drawn, 0)
            missed *= np.where(drawn < draws, left / (left + right), 1.0)
        found[open_] = 1 - missed
        return found

    def worst_hits(self, k: int) -> np.ndarray:
        """Return whether one of the first k answers is right, wrong ones first in ties: [Q]."""
        return self.wrong + self.tied < k


@dataclasses.dataclass(frozen=True)
class Ranks:
    """How soon the first right answer comes, for every query of two directions.

    Attributes:
      names: what the metrics of the two directions begin with, such as ("i2t", "t2i").
      mean: what the mean of their recalls is called.
      rows: of the N queries of the first direction, images say; columns: of the M of the second.
      owner: [M], the row that each column belongs to (or one of them): the bootstrap draws a row
        and its columns together, as the captions of an image are no independent evidence.
    """

    names: tuple[str, str]
    mean: str
    rows: Ahead
    columns: Ahead
    owner: np.ndarray

    def metrics(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """Return "NAME_R@K" of both directions for every K, and their mean; in percent.

        Ties are in random order: these are the expectations over all their orders.
        """
        return self._metrics(ks, Ahead.hits)

    def worst_case(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """Return `metrics` with the wrong answers of every tie first, named "worst_NAME_R@K".

        Empty where no tie changes a number.
        """
        found = self._metrics(ks, Ahead.worst_hits)
        if found == self.metrics(ks):
            return {}
        return {f"worst_{name}": value for name, value in found.items()}

    def _metrics(
        self, ks: Sequence[int], hits: Callable[[Ahead, int], np.ndarray]
    ) -> dict[str, float]:
        shares = (np.mean(hits(of, k)) for k in ks for of in (self.rows, self.columns))
        values = (100.0 * float(share) for share in shares)
        found = dict(zip(recall_names(*self.names, ks=ks), values, strict=True))
        return {**found, self.mean: float(np.mean(list(found.values())))}


def recall_names(*sides: str, ks: Sequence[int] = KS) -> list[str]:
    """Return "SIDE_R@K" for every K and side, K by K."""
    return [f"{side}_R@{k}" for k in ks for side in sides]


def bootstrap(ranks: Sequence[Ranks], ks: Sequence[int] = KS) -> dict[str, list[float]]:
    """Compute 95 % intervals of all metrics of `Ranks.metrics`, [low, high] in percent.

    Rows are drawn anew with replacement 1,000 times, the gallery stays (percentile bootstrap); the
    seed is fixed. Several `ranks` are of the same rows; the mean of all recalls is then added as
    "mean_recall".
    """
    n = len(ranks[0].rows.wrong)
    counts: list[np.ndarray] = []  # each [N]: what a row adds to a sum
    sums: dict[str, tuple[int, int]] = {}  # metric -> which of them are its hits and its queries
    means: dict[str, list[str]] = {}
    for one in ranks:
        queries = len(counts)
        counts += [np.ones(n), np.bincount(one.owner, minlength=n)]
        for k in ks:
            hits = len(counts)
            of_columns = np.bincount(one.owner, weights=one.columns.hits(k), minlength=n)
            counts += [one.rows.hits(k), of_columns]
            for side, name in enumerate(one.names):
                sums[f"{name}_R@{k}"] = (hits + side, queries + side)
                means.setdefault(one.mean, []).append(f"{name}_R@{k}")
    if len(ranks) > 1:
        means["mean_recall"] = list(sums)
    # Rows with the same counts are the same to the bootstrap: it draws how many there are of each
    # kind, of which there are few however many rows.
    kinds, number = np.unique(np.stack(counts, axis=1), axis=0, return_counts=True)
    # Ties make many kinds: the draws of a large set are made in parts, to bound the memory.
    rng = np.random.default_rng(0)
    part = max(DRAW_BLOCK // len(kinds), 1)
    drawn = np.concatenate(
        [
            rng.multinomial(n, number / n, size=min(part, DRAWS - start)) @ kinds
            for start in range(0, DRAWS, part)
        ]
    )
    with np.errstate(invalid="ignore"):  # a draw of images whose texts are all merged into others'
        found = {
            name: 100 * drawn[:, hits] / drawn[:, queries] for name, (hits, queries) in sums.items()
        }
    found |= {
        mean: np.mean([found[name] for name in names], axis=0) for mean, names in means.items()
    }
    return {name: np.nanpercentile(values, [2.5, 97.5]).tolist() for name, values in found.items()}


def oracle(row_of: np.ndarray, groups: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Compute the recalls of a perfect model where equal texts exist, in percent.

    Equal texts have equal embeddings. Searched from such a text, the images it was written for
    take turns at being the right one; searched from an image, an equal text of another image is a
    tie, in random order. The perfect model ranks the one of an image's texts first whose ties are
    the kindest.

    Args:
      row_of: [M], the image that each text was written for; groups: [M], equal for equal texts.

    Returns:
      "i2t_R@K" and "t2i_R@K" for every K.
    """
    (group, image), count = np.unique(np.stack([groups, row_of]), axis=1, return_counts=True)
    strangers = np.bincount(groups, minlength=group.max() + 1)[group] - count
    first = Ahead(np.zeros_like(count), strangers, count)
    order = np.lexsort((-count, group))  # the images of a text, those with most copies first
    place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    found = {}
    for k in ks:
        best = np.zeros(image.max() + 1)
        np.maximum.at(best, image, first.hits(k))
        found[f"i2t_R@{k}"] = 100.0 * float(np.mean(best))
        found[f"t2i_R@{k}"] = 100.0 * float(count[order][place < k].sum() / len(groups))
    return found


def checked(name: str, values: ArrayLike) -> np.ndarray:
    """Return embeddings as float32 [items, width].

    Raises:
      ValueError: not a non-empty matrix of finite numbers.
    """
    z = np.ascontiguousarray(np.asarray(values), np.float32)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"{name} must be a non-empty matrix [items, width], got shape {z.shape}")
    if not np.isfinite(z).all():
        bad = int((~np.isfinite(z).all(axis=1)).sum())
        raise ValueError(
            f"{name}: {bad} of {len(z)} rows hold NaN or infinity; has the training diverged?"
        )
    return z


def wrong_answers_ahead(
    zrow: np.ndarray, zcol: np.ndarray, pair_row: np.ndarray, pair_col: np.ndarray
) -> tuple[Ahead, Ahead]:
    """Count, for each row and each column, the answers ahead of and level with its best right one.

    The similarity matrix is computed in blocks of 24 MiB, once for both directions.

    Args:
      zrow: [N, D]; zcol: [M, D]; see `checked`.
      pair_row, pair_col: [P], the right (row, column) pairs, each once.

    Returns:
      The counts of the N rows, and those of the M columns.
    """
    n, m = len(zrow), len(zcol)
    best_row = np.full(n, -np.inf, np.float32)
    best_col = np.full(m, -np.inf, np.float32)
    of_pairs = np.empty(len(pair_row), np.float32)
    for start in range(0, len(pair_row), PAIR_BLOCK):
        i, j = pair_row[start : start + PAIR_BLOCK], pair_col[start : start + PAIR_BLOCK]
        similarity = of_pairs[start : start + PAIR_BLOCK]
        similarity[:] = np.einsum("pd,pd->p", zrow[i], zcol[j])
        np.maximum.at(best_row, i, similarity)
        np.maximum.at(best_col, j, similarity)
    row_norm, col_norm = np.linalg.norm(zrow, axis=1), np.linalg.norm(zcol, axis=1)
    tie_row, tie_col = TIE * row_norm * col_norm.max(), TIE * col_norm * row_norm.max()
    low_row, low_col = best_row - tie_row, best_col - tie_col
    high_row, high_col = best_row + tie_row, best_col + tie_col
    right_row = np.bincount(pair_row[of_pairs >= low_row[pair_row]], minlength=n)
    right_col = np.bincount(pair_col[of_pairs >= low_col[pair_col]], minlength=m)

    # Pairs in the order in which the blocks come, so that each block finds its own in one slice.
    block = (pair_row // ROW_BLOCK) * (m // COLUMN_BLOCK + 1) + pair_col // COLUMN_BLOCK
    order = np.argsort(block, kind="stable")
    block, pair_row, pair_col = block[order], pair_row[order], pair_col[order]

    # Wrong answers [least similar that counts: above the tie, from the tie on].
    ahead_row, ahead_col = np.zeros((2, n), np.int64), np.zeros((2, m), np.int64)
    similarity_buffer = np.empty((min(n, ROW_BLOCK), min(m, COLUMN_BLOCK)), np.float32)
    ahead_buffer = np.empty(similarity_buffer.shape, bool)
    blocks = range(0, n, ROW_BLOCK)
    progress = tqdm(blocks, desc="retrieval", unit="block", delay=SILENT_S, leave=False)
    for i0 in progress:
        i1 = min(i0 + ROW_BLOCK, n)
        for j0 in range(0, m, COLUMN_BLOCK):
            j1 = min(j0 + COLUMN_BLOCK, m)
            similarity = similarity_buffer[: i1 - i0, : j1 - j0]
            ahead = ahead_buffer[: i1 - i0, : j1 - j0]
            np.matmul(zrow[i0:i1], zcol[j0:j1].T, out=similarity)
            key = (i0 // ROW_BLOCK) * (m // COLUMN_BLOCK + 1) + j0 // COLUMN_BLOCK
            own = slice(*np.searchsorted(block, [key, key + 1]))
            similarity[pair_row[own] - i0, pair_col[own] - j0] = -np.inf
            for of_row, of_col, compare, least_row, least_col in (
                (ahead_row[0], ahead_col[0], np.greater, high_row, high_col),
                (ahead_row[1], ahead_col[1], np.greater_equal, low_row, low_col),
            ):
                compare(similarity, least_row[i0:i1, None], out=ahead)
                # Row by row: count_nonzero of a contiguous row is vectorised, with an axis it is
                # not.
                of_row[i0:i1] += [np.count_nonzero(row) for row in ahead]
                compare(similarity, least_col[j0:j1], out=ahead)
                for r in range(0, i1 - i0, 255):  # 255 rows: their sum still fits a byte
                    some = ahead[r : r + 255].view(np.uint8)
                    of_col[j0:j1] += np.add.reduce(some, dtype=np.uint8)
    return (
        Ahead(ahead_row[0], ahead_row[1] - ahead_row[0], right_row),
        Ahead(ahead_col[0], ahead_col[1] - ahead_col[0], right_col),
    )
