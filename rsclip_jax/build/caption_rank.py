"""The training caption of an image from candidates, as RS5M has it (section III-B).

Of the candidates (the paper: 20 by BLIP-2) the 10 nearest to the image by one CLIP model stay, of
these the 5 nearest by a second. Of the 5, `top_cap` is the nearest, and `ssl_cap` the one whose
cosine varies least while the image turns:

    argmin_j Var_{n=1..12} cos(f_text(t_j), f_image(x turned by n 30 degrees))

One of the two, drawn by a hash of the row's id, becomes the training caption. The paper leaves open
which model looks at the turned images (here the first), what fills the corners (here the reflected
image: black ones would be the same under all captions), and which variance it is (here that of the
population; the argmin is the same). The image is turned after it was cut to the model's square.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import apache_beam as beam
import cv2
import numpy as np

from rsclip_jax.build.batches import each_batch
from rsclip_jax.build.models import encode_each, model_state, preprocess_rows, shared_clip
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, Stage

if TYPE_CHECKING:
    from rsclip_jax.loading import Clip

TURNS = 12  # the last one is the image itself
KEPT = (10, 5)  # candidates that stay after the first and the second model
CHOICES = ("top_cap", "ssl_cap")


def turned(image: np.ndarray) -> np.ndarray:
    """Return a square image turned by n 30 degrees about its centre, n = 1..12, corners reflected.

    Args:
      image: float32 or uint8 [S, S, 3].

    Returns:
      [12, S, S, 3] of the same type, bilinear between pixels.
    """
    side = image.shape[0]
    centre = ((side - 1) / 2, (side - 1) / 2)
    turns = []
    for n in range(1, TURNS + 1):
        angle = n * 360 / TURNS
        if angle % 90 == 0:
            turns.append(np.rot90(image, int(angle // 90)))
        else:
            matrix = cv2.getRotationMatrix2D(centre, angle, 1.0)
            turns.append(
                cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
            )
    return np.stack(turns)


def steadiest(zturned: np.ndarray, ztxt: np.ndarray) -> int:
    """Return the caption whose cosine with the turned images varies least, of equals the first.

    Args:
      zturned: [12, D]; ztxt: [k, D]; rows of length 1.
    """
    cosines = zturned.astype(np.float64) @ ztxt.astype(np.float64).T
    return int(np.argmin(cosines.var(axis=0)))


def nearest(zimg: np.ndarray, ztxt: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest captions to an image, best first: (int [k], cosines float64 [k]).

    Args:
      zimg: [D]; ztxt: [N, D]; of length 1. Of equals the first comes first.
      kept: at most so many.
    """
    cosines = ztxt.astype(np.float64) @ zimg.astype(np.float64)
    order = np.argsort(-cosines, kind="stable")[:kept]
    return order, cosines[order]


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What was found of one image: captions best first, their cosines by the second model."""

    captions: list[str]
    scores: list[float]
    ssl_cap: str

    @property
    def top_cap(self) -> str:
        """Return the caption nearest to the image."""
        return self.captions[0]


def rank_captions(
    images: Sequence[np.ndarray],
    candidates: Sequence[Sequence[str]],
    first: "Clip",
    second: "Clip",
    kept: tuple[int, int] = KEPT,
) -> list[Ranking]:
    """Rank the captions of several images.

    Args:
      images: for each model float32 [N, S, S, 3], as its `preprocess` gives them.
      candidates: captions of each image, at least one; repeated ones count once.
      kept: see KEPT.
    """
    texts = [list(dict.fromkeys(given)) for given in candidates]
    turns = np.concatenate([turned(image) for image in images[0]])
    zturned = first.encode_image(turns).reshape(len(texts), TURNS, -1)
    ztxt = encode_each(first, texts)
    chosen, of_first = [], []
    for n, found in enumerate(ztxt):
        order, _ = nearest(zturned[n, -1], found, kept[0])
        chosen.append([texts[n][index] for index in order])
        of_first.append(found[order])
    zimg = second.encode_image(images[1])
    rankings = []
    for n, found in enumerate(encode_each(second, chosen)):
        order, scores = nearest(zimg[n], found, kept[1])
        captions = [chosen[n][index] for index in order]
        ssl_cap = captions[steadiest(zturned[n], of_first[n][order])]
        rankings.append(Ranking(captions, scores.tolist(), ssl_cap))
    return rankings


def choose(row_id: str, seed: int = 0) -> str:
    """Return which of CHOICES becomes the training caption: for half of all ids each."""
    digest = hashlib.sha256(f"{seed} {row_id}".encode(errors="surrogatepass")).digest()
    return CHOICES[digest[0] % 2]


def with_ranking(row: Row, ranking: Ranking, models: Sequence[str], seed: int = 0) -> Row:
    """Return the row with its training caption appended, what led to it in its `provenance`."""
    choice = choose(row["id"], seed)
    caption = getattr(ranking, choice)
    entry = {
        "field": "captions",
        "caption": hashlib.sha256(caption.encode()).hexdigest()[:16],
        "choice": choice,
        **{name: getattr(ranking, name) for name in CHOICES},
        "ranked_by": list(models),
    }
    history = [*json.loads(row.get("provenance") or "[]"), entry]
    return row | {
        "captions": [*row["captions"], caption],
        "candidates": ranking.captions,
        "candidate_scores": ranking.scores,
        "provenance": json.dumps(history, ensure_ascii=False),
    }


class Ranker:
    """Gives rows with `candidates` their training caption; see `RankCaptions`."""

    def __init__(self, first: str, second: str, kept: tuple[int, int], seed: int):
        self._first, self._second = shared_clip(first), shared_clip(second)
        self._names, self._kept, self._seed = (first, second), kept, seed

    def __call__(self, rows: list[Row]) -> list[Row | Drop]:
        """Return the rows with their captions, or why they go."""
        kept, images, dropped = preprocess_rows(rows, [self._first, self._second])
        results: list[Row | Drop] = [dropped.get(index, row) for index, row in enumerate(rows)]
        if kept:
            candidates = [rows[index]["candidates"] for index in kept]
            rankings = rank_captions(images, candidates, self._first, self._second, self._kept)
            for index, ranking in zip(kept, rankings, strict=True):
                results[index] = with_ranking(rows[index], ranking, self._names, self._seed)
        return results


@dataclasses.dataclass
class RankCaptions(beam.PTransform):
    """Append the training caption to rows that have `candidates`; the others stay.

    `candidates` are then those that remained, best first, with `candidate_scores`.

    Attributes:
      first, second: models, as `rsclip_jax.load` takes them.
      kept: see KEPT.
      seed: of the choice between the two captions.
      batch_size: rows at a time, each of which is twelve images to the first model.
    """

    first: str
    second: str
    kept: tuple[int, int] = KEPT
    seed: int = 0
    batch_size: int = dataclasses.field(default=16, compare=False)

    def expand(self, rows):
        make = functools.partial(Ranker, self.first, self.second, tuple(self.kept), self.seed)
        return rows | each_batch(make, _has_candidates, self.batch_size)


def _has_candidates(row: Row) -> bool:
    return bool(row.get("candidates"))


def rank_stage(first: str, second: str, kept: tuple[int, int] = KEPT, seed: int = 0) -> Stage:
    """Return the stage that ranks captions; the paper's models are ViT-H/14 and RN50x64.

    Raises:
      FileNotFoundError: a model is not there.
    """
    settings = {"first": model_state(first), "second": model_state(second)}
    return Stage("caption_rank", RankCaptions(first, second, kept, seed), settings=settings)
