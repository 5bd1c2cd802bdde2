"""How well captions fit their image: the cosine of the two by a CLIP model."""

import dataclasses
import functools

import apache_beam as beam
import numpy as np

from rsclip_jax.build.batches import each_batch
from rsclip_jax.build.models import encode_each, model_state, preprocess_rows, shared_clip
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, Stage

# List of captions -> list of their scores, in the same order.
SCORES = {"captions": "caption_scores", "long_captions": "long_caption_scores"}


class CaptionScorer:
    """Gives rows the SCORES of their captions, in [-1, 1].

    Of a text longer than the model's context only the beginning is looked at.

    Args:
      model: what `rsclip_jax.load` reads.
    """

    def __init__(self, model: str):
        self._clip = shared_clip(model)

    def __call__(self, rows: list[Row]) -> list[Row | Drop]:
        """Return the rows with their scores, or why they go."""
        kept, arrays, dropped = preprocess_rows(rows, [self._clip])
        results: list[Row | Drop] = [dropped.get(index, row) for index, row in enumerate(rows)]
        if not kept:
            return results
        zimg = self._clip.encode_image(arrays[0]).astype(np.float64)
        ztxt = {
            field: encode_each(self._clip, [rows[index][field] for index in kept])
            for field in SCORES
        }
        for place, index in enumerate(kept):
            scores = {
                name: (ztxt[field][place].astype(np.float64) @ zimg[place]).tolist()
                for field, name in SCORES.items()
            }
            results[index] = rows[index] | scores
        return results


@dataclasses.dataclass
class ScoreCaptions(beam.PTransform):
    """Give rows that have captions their scores; see `CaptionScorer`. The others stay.

    Attributes:
      model: what `rsclip_jax.load` reads.
      batch_size: rows that a worker embeds at a time.
    """

    model: str
    batch_size: int = dataclasses.field(default=64, compare=False)

    def expand(self, rows):
        make = functools.partial(CaptionScorer, self.model)
        return rows | each_batch(make, _has_captions, self.batch_size)


def _has_captions(row: Row) -> bool:
    return any(row[field] for field in SCORES)


def caption_score_stage(model: str) -> Stage:
    """Return the stage that scores captions, for `CheckCaptions`.

    Raises:
      FileNotFoundError: the model is not there.
    """
    return Stage("caption_scores", ScoreCaptions(model), settings={"model": model_state(model)})
