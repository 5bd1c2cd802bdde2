"""How near a translator's infrared images are to the true ones of a data set."""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rsclip_jax.data import pipeline, records
from rsclip_jax.data.free_infrared import FREE
from rsclip_jax.evaluators.image_quality import audit, embedding_distance, psnr, ssim
from rsclip_jax.evaluators.pictures import save_grid
from rsclip_jax.translation import Translation

SHOWN = 6  # images in the picture
COMPARED = ("psnr", "ssim", "distance")  # with the true image; the rest describes one image


class TranslationQuality:
    """Evaluator `{"type": "translation", "data": ..., "split": ..., "tower": ...}`.

    Means over the images: `psnr` (dB) and `ssim` of the translation; the same of what costs nothing
    (`grayscale_psnr`, ...: `data.free_infrared`); FusionRS's audit, as `brightness` of the
    translations and `true_brightness` of the true images, and so on, and `reference_brightness` of
    other infrared images (the paper's are HIT-UAV's); with a `tower`, `distance`, 1 - cosine of its
    embeddings of the translated and of the true image, and that of the others.

    Args:
      config, translation: see `evaluators.build`.
      data, split: records of which those with an infrared image are used.
      tower: a CLIP model, as `rsclip_jax.load` takes it; "none" for no such distance.
      reference: NAME/SPLIT of records whose infrared images, or images where there are none, the
        audit describes as well; "none" for none.
      limit: only the first so many records of each; 0 for all.
    """

    protocol = "paired"

    def __init__(
        self,
        config: Any,
        translation: Translation,
        *,
        data: str,
        split: str,
        tower: str = "none",
        reference: str = "none",
        limit: int = 0,
    ):
        self._source = records.open_source(config.input.data_dir, data, split)
        self._name, self._limit = f"{data}/{split}", limit
        self.metrics = COMPARED if tower != "none" else COMPARED[:2]
        self._translation = translation
        self._reference: Any = None
        if reference != "none":
            name, _, of = reference.partition("/")
            if not of:
                raise ValueError(
                    f"reference={reference!r}: expected NAME/SPLIT, such as hit_uav/test"
                )
            self._reference = records.open_source(config.input.data_dir, name, of)
        self._clip: Any = None
        if tower != "none":
            from rsclip_jax.loading import load  # which lies above evaluators

            self._clip = load(tower)
        self._tower, self._number = tower, 0
        self._constant: dict[str, float] = {}
        self._shown: list[tuple[np.ndarray, ...]] = []

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the metrics of the translator with these parameters.

        Raises:
          ValueError: no record has an infrared image.
        """
        self._shown, self._number = [], 0

        def translated(rgb: np.ndarray) -> np.ndarray:
            made = self._translation.infrared(params, rgb)
            self._number += len(rgb)
            seen = rgb[: SHOWN - len(self._shown)]
            self._shown += zip(seen, FREE["grayscale"](seen), made, strict=False)
            return made

        views = {"": translated} | ({} if self._constant else FREE)
        found = compare(views, self._pairs(), self._clip)
        if not found:
            raise ValueError(f"{self._name} has no infrared image to compare translations with")
        yield from found.pop("").items()
        if not self._constant:  # what no training changes
            self._constant = {
                f"{name}_{metric}": value
                for name, metrics in found.items()
                for metric, value in metrics.items()
                if name == "true" or metric in COMPARED
            }
            if self._reference is not None:
                described = means(map(audit, self._references()))
                self._constant |= {f"reference_{k}": v for k, v in described.items()}
        yield from self._constant.items()

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        distance = f"; distance: 1 - cosine in {self._tower}" if self._clip else ""
        return [
            f"{self._name}: {self._number:,} pairs",
            "paired: each translation beside the true infrared image of its scene, means over the "
            f"images; psnr in dB{distance}",
        ]

    def picture(self, path: str | os.PathLike) -> None:
        """Draw some images: RGB, grayscale, translated, true."""
        true = (ir for _, batch in self._pairs() for ir in batch)
        rows = [(*row, ir) for row, ir in zip(self._shown, true, strict=False)]
        save_grid(path, rows, ("RGB", "grayscale", "translated", "infrared"), title=self._name)

    def _references(self) -> Iterator[np.ndarray]:
        batches = pipeline.eval_batches(
            self._reference,
            image_size=self._translation.image_size,
            batch_size=self._translation.batch_size,
            stop=self._limit or None,
            ir=True,
        )
        for batch in batches:
            grey = FREE["grayscale"](batch["image"])  # of thermal images: their levels
            yield from np.where(batch["ir_mask"][:, None, None], batch["ir"][..., 0], grey)

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return pairs(
            self._source, self._translation.image_size, self._translation.batch_size, self._limit
        )


def pairs(
    source: Any, image_size: int, batch_size: int = 32, limit: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield RGB and infrared images, uint8 [b, S, S, 3] and [b, S, S], of records that have both.

    Args:
      source: see `data.records.open_source`.
      image_size: S.
      limit: only the first so many records; 0 for all.
    """
    batches = pipeline.eval_batches(
        source, image_size=image_size, batch_size=batch_size, stop=limit or None, ir=True
    )
    for batch in batches:
        mask = batch["ir_mask"]
        if mask.any():
            yield batch["image"][mask], batch["ir"][mask][..., 0]


def compare(
    views: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    images: Iterable[tuple[np.ndarray, np.ndarray]],
    clip: Any = None,
) -> dict[str, dict[str, float]]:
    """Return the metrics of each view, means over the images, and those of the "true" ones.

    Args:
      views: name -> function of RGB images uint8 [b, S, S, 3] that gives grey ones [b, S, S].
      images: RGB and true infrared images, see `pairs`.
      clip: with a method `encode_ir`, for `distance`.
    """
    columns: dict[str, dict[str, list[float]]] = {}
    for rgb, true in images:
        made = {name: view(rgb) for name, view in views.items()} | {"true": true}
        z_true = clip.encode_ir(list(true)) if clip else None
        for name, batch in made.items():
            of = columns.setdefault(name, collections.defaultdict(list))
            if name != "true":
                of["psnr"] += itertools.starmap(psnr, zip(batch, true, strict=True))
                of["ssim"] += itertools.starmap(ssim, zip(batch, true, strict=True))
                if z_true is not None:
                    of["distance"] += list(embedding_distance(clip.encode_ir(list(batch)), z_true))
            for quantity, value in itertools.chain(*(audit(image).items() for image in batch)):
                of[quantity].append(value)
    return {name: {k: float(np.mean(v)) for k, v in of.items()} for name, of in columns.items()}


def means(described: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of quantities over images."""
    rows = list(described)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
