"""How much an image looks like remote sensing: to a CLIP model, and to a detector.

RS5M (section III-A): the cosine of the image with the mean of 33 prompts, by CLIP-ConvNeXt-XXL, and
the probability of a classifier; `quantiles` drops by both. The paper gives the prompts' words, not
their grammar: the articles here are ours. As in its zero-shot classifiers, text embeddings are
averaged as the tower leaves them, not normalised before; the cosine normalises the mean.
"""

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np

from rsclip_jax.build import files
from rsclip_jax.build.batches import each_batch, of_sources
from rsclip_jax.build.detector import Detector
from rsclip_jax.build.models import model_state, preprocess_rows, shared_clip
from rsclip_jax.build.quantiles import QuantileFilter
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import DROPPED, Drop, Stage

if TYPE_CHECKING:
    from rsclip_jax.loading import Clip

_NOUNS = ("remote sensing image", "aerial image", "satellite image")
_LOOKS = (
    *("", "low resolution", "bad", "cropped", "bright", "dark", "close-up"),
    *("black and white", "jpeg corrupted", "blurry", "good"),
)
PROMPTS = tuple(
    f"a {look} {noun}" if look else f"{'an' if noun[0] == 'a' else 'a'} {noun}"
    for noun in _NOUNS
    for look in _LOOKS
)


def prompt_feature(clip: "Clip") -> np.ndarray:
    """Return the direction of the mean embedding of PROMPTS: float64 [D], of length 1."""
    mean = clip.encode_text(PROMPTS, normalize=False).astype(np.float64).mean(axis=0)
    return mean / np.linalg.norm(mean)


class Scorer:
    """Scores rows: `clip_score` in [-1, 1], and with a detector `detector_score` in [0, 1].

    Args:
      model: what `rsclip_jax.load` reads.
      detector: a file of `train_detector`; "": none.
      detector_model: the model that it was fitted on; "": `model`.

    Raises:
      ValueError: the detector was fitted on other parameters.
    """

    def __init__(self, model: str, detector: str = "", detector_model: str = ""):
        self._clips = [shared_clip(model)]
        self._feature = prompt_feature(self._clips[0])
        self._detector = None
        if detector:
            self._detector = Detector.read(detector)
            if detector_model not in ("", model):
                self._clips.append(shared_clip(detector_model))
            self._detector.check(self._clips[-1].params, detector_model or model)

    def __call__(self, rows: list[Row]) -> list[Row | Drop]:
        """Return the rows with their scores, or why they go."""
        kept, arrays, dropped = preprocess_rows(rows, self._clips)
        results: list[Row | Drop] = [dropped.get(index, row) for index, row in enumerate(rows)]
        if not kept:
            return results
        # One model for both: its embeddings are made once.
        z = [clip.encode_image(array) for clip, array in zip(self._clips, arrays, strict=True)]
        scores = {"clip_score": z[0].astype(np.float64) @ self._feature}
        if self._detector:
            scores["detector_score"] = self._detector.probability(z[-1])
        for place, index in enumerate(kept):
            results[index] = rows[index] | {name: float(s[place]) for name, s in scores.items()}
        return results


@dataclasses.dataclass
class ScoreImages(beam.PTransform):
    """Give rows their scores; see `Scorer` for the first three fields.

    Attributes:
      sources: rows of others stay as they are.
      batch_size: images that a worker embeds at a time.
    """

    model: str
    detector: str
    detector_model: str
    sources: list[str]
    batch_size: int = dataclasses.field(default=64, compare=False)

    def expand(self, rows):
        make = functools.partial(Scorer, self.model, self.detector, self.detector_model)
        wanted = functools.partial(of_sources, self.sources)
        return rows | each_batch(make, wanted, self.batch_size)


def score_stages(
    model: str,
    sources: list[str],
    detector: str = "",
    detector_model: str = "",
    clip_share: float = 0.9,
    detector_share: float = 0.8,
    column: str = "filter removed",
) -> list[Stage]:
    """Return the stages that score rows and drop those that score low.

    Args:
      model, detector, detector_model: see `Scorer`. Workers must find them under these paths.
      sources: rows of others are neither scored nor dropped.
      clip_share, detector_share: of the rows, how many stay by each; the paper's.

    Raises:
      FileNotFoundError, ValueError: a model or the detector is not there, or is none.
    """
    shares = {"clip_score": clip_share}
    settings: dict[str, Any] = {"model": model_state(model)}
    if detector:
        Detector.read(detector)
        shares["detector_score"] = detector_share
        content = files.read_text(detector)
        settings["detector"] = hashlib.sha256(content.encode()).hexdigest()[:16]
        settings["detector_model"] = model_state(detector_model or model)
    transform = ScoreImages(model, detector, detector_model, sources)
    quantiles = QuantileFilter(shares, sources)
    return [
        Stage("scores", transform, settings=settings),
        Stage("quantiles", quantiles, "decisions", column=column, shows=DROPPED),
    ]
