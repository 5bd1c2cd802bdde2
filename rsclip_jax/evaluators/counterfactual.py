"""Counterfactual captions: does an image lie nearer to the true caption or to a false one?"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from rsclip_jax.data import synthetic
from rsclip_jax.data.scenes.canvas import SIDE
from rsclip_jax.data.scenes.counterfactuals import CHANGES, Pair, pair
from rsclip_jax.data.scenes.description import Scene
from rsclip_jax.data.text import make_tokenizer
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.recall import TIE, checked
from rsclip_jax.evaluators.texts import tokenizer_for
from rsclip_jax.evaluators.zero_shot import wilson

BEHIND = 77  # tokens of CLIP's own text tower, the start mark among them
LONGEST = 1024  # tokens, more than a scene's caption has
MOST_SCENES = 25  # for each pair asked for: the rarest fact is in one of six


def share_true(zimg: ArrayLike, ztrue: ArrayLike, zfalse: ArrayLike) -> float:
    """Return the share of images nearer to the true text than to the false one, in percent.

    Similarities that are equal to 1e-6 count half.

    Args:
      zimg, ztrue, zfalse: [N, D], rows of length 1; row i of each belongs to pair i.

    Raises:
      ValueError: shapes that do not fit, embeddings that are not finite.
    """
    images = checked("zimg", zimg)
    texts = [checked(name, z) for name, z in (("ztrue", ztrue), ("zfalse", zfalse))]
    if any(z.shape != images.shape for z in texts):
        raise ValueError(
            f"expected one true and one false text for each image, got {images.shape}, "
            f"{texts[0].shape}, {texts[1].shape}"
        )
    difference = (images * (texts[0] - texts[1])).sum(axis=1)
    return 100 * float(np.mean((difference > TIE) + 0.5 * (np.abs(difference) <= TIE)))


class Counterfactual:
    """Evaluator `{"type": "counterfactual", ...}`, on scenes it draws itself.

    Metrics, in percent, chance is 50: the share of pairs whose image is nearer to its true caption
    than to a false one that differs in one fact, for each of `CHANGES` (`left_right`,
    `upper_lower`, `count`, `colour`, `relation`, `long`); `mean`, their mean. The fact of `long`
    stands behind token 77, where CLIP's own text tower ends; a model that cuts both captions of a
    pair before it cannot tell them apart: a tie, which counts half.

    Args:
      config: the whole configuration; tokenizer and token lengths are read from it.
      encoder: what embeds images and texts.
      pairs: of each change.
      seed: another one draws other scenes. Scenes of `synthetic.write_scenes` that have the same
        seed and are for training are no part of it.
    """

    protocol = "scenes"
    metrics = (*CHANGES, "mean")

    def __init__(self, config: Any, encoder: Encoder, *, pairs: int = 256, seed: int = 0):
        if pairs < 1 or seed < 0:
            raise ValueError(f"pairs={pairs}, seed={seed}: expected 1 or more pairs, a seed >= 0")
        long = "text_long" if "text_long" in config.input.lengths else "text"
        fields = {change: long if change == "long" else "text" for change in CHANGES}
        self._tokenizers = {
            change: tokenizer_for(config, field) for change, field in fields.items()
        }
        self._whole = make_tokenizer(config.tokenizer, LONGEST)
        self._encoder = encoder
        self._seed = seed
        self._wanted = pairs
        self._scenes: list[Scene] = []
        self._pairs: dict[str, list[tuple[int, Pair]]] = {}  # with the scene's place in _scenes
        self._images = np.zeros((0, 0, 0, 3), np.uint8)
        self._cut: dict[str, int] = {}
        self._metrics: dict[str, float] = {}

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics."""
        self._draw()
        zimg = self._encoder.image(params, self._images)
        self._metrics = {}
        for change, pairs in self._pairs.items():
            true, false = (
                self._tokenizers[change]([getattr(texts, side) for _, texts in pairs])
                for side in Pair._fields
            )
            self._cut[change] = int((true == false).all(axis=1).sum())
            ztrue, zfalse = np.split(self._encoder.text(params, np.concatenate([true, false])), 2)
            own = zimg[[place for place, _ in pairs]]
            self._metrics[change] = share_true(own, ztrue, zfalse)
        yield from self._metrics.items()
        yield "mean", float(np.mean(list(self._metrics.values())))

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        lines = [f"{len(self._scenes):,} synthetic scenes of seed {self._seed}; guessing scores 50"]
        for change, (low, high) in self._intervals().items():
            same = f"; {cut:,} are one text once cut" if (cut := self._cut[change]) else ""
            lines.append(
                f"{change}: 95 % interval {low:.1f} to {high:.1f}, {len(self._pairs[change]):,} "
                f"pairs, {CHANGES[change]}{same}"
            )
        missing = [change for change in CHANGES if change not in self._pairs]
        if missing:
            lines.append(f"left out, no scene has a pair: {', '.join(missing)}")
        return [*lines, "equal similarities (to 1e-6) count half"]

    def details(self) -> dict[str, Any]:
        """Return what a report says beside the metrics of the latest run.

        `pairs` counts the pairs of each change, `cut` those that the model reads as the same text.
        """
        return {
            "size": len(self._scenes),
            "intervals": self._intervals(),
            "pairs": {change: len(pairs) for change, pairs in self._pairs.items()},
            "cut": dict(self._cut),
        }

    def _intervals(self) -> dict[str, list[float]]:
        return {
            change: wilson(value, len(self._pairs[change]))
            for change, value in self._metrics.items()
        }

    def _draw(self) -> None:
        """Find the pairs and draw their scenes, once."""
        if self._pairs:
            return
        found: dict[str, list[tuple[int, Pair]]] = {change: [] for change in CHANGES}
        for index in range(MOST_SCENES * self._wanted):
            scene = synthetic.describe(self._seed, synthetic.VAL_START + index)
            used = False
            for change, pairs in found.items():
                if len(pairs) == self._wanted:
                    continue
                texts = pair(scene, change)
                if texts and (change != "long" or self._differ_behind(texts)):
                    pairs.append((len(self._scenes), texts))
                    used = True
            if used:
                self._scenes.append(scene)
            elif all(len(pairs) == self._wanted for pairs in found.values()):
                break
        self._pairs = {change: pairs for change, pairs in found.items() if pairs}
        size = self._encoder.image_size
        self._images = np.stack([_image(scene, size) for scene in self._scenes])

    def _differ_behind(self, texts: Pair) -> bool:
        true, false = self._whole(list(texts))
        return bool((true[:BEHIND] == false[:BEHIND]).all())


def _image(scene: Scene, size: int) -> np.ndarray:
    """Draw a scene, uint8 [size, size, 3], larger than scenes are drawn by enlarging it."""
    image = synthetic.render(scene, min(size, SIDE))
    return image if size <= SIDE else cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
