"""How near a translator's infrared images are to the true ones of a data set."""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from rsclip_jax.data import pipeline, records
from rsclip_jax.data.free_infrared import FREE
from rsclip_jax.evaluators.image_quality import audit, embedding_distance, psnr, ssim
from rsclip_jax.evaluators.pictures import save_grid
from rsclip_jax.translation import Translation

SHOWN = 6  # images in the picture


class TranslationQuality:
    """Evaluator `{"type": "translation", "data": ..., "split": ..., "tower": ...}`.

    Means over the images: `psnr` (dB) and `ssim` of the translation; the same of what costs nothing
    (`grayscale_psnr`, ...: `data.free_infrared`); FusionRS's audit, as `brightness` of the
    translations and `true_brightness` of the true images, and so on; with a `tower`, `distance`,
    1 - cosine of its embeddings of the translated and of the true image, and that of the others.

    Args:
      config, translation: see `evaluators.build`.
      data, split: records of which those with an infrared image are used.
      tower: a CLIP model, as `rsclip_jax.load` takes it; "none" for no such distance.
      limit: only the first so many records; 0 for all.
    """

    def __init__(
        self,
        config: Any,
        translation: Translation,
        *,
        data: str,
        split: str,
        tower: str = "none",
        limit: int = 0,
    ):
        self._source = records.open_source(config.input.data_dir, data, split)
        self._name, self._limit = f"{data}/{split}", limit
        self._translation = translation
        self._clip: Any = None
        if tower != "none":
            from rsclip_jax.loading import load  # which lies above evaluators

            self._clip = load(tower)
        self._constant: dict[str, float] = {}
        self._shown: list[list[np.ndarray]] = []

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the metrics of the translator with these parameters.

        Raises:
          ValueError: no record has an infrared image.
        """
        columns: dict[str, list[float]] = {}
        free: dict[str, list[float]] = {}
        self._shown = []
        for rgb, true in self._pairs():
            made = self._translation.infrared(params, rgb)
            views = {name: view(rgb) for name, view in FREE.items()}
            _measure(columns, "", made, true)
            _add(columns, "", [audit(image) for image in made])
            if self._clip:
                z_true = self._clip.encode_ir(list(true))
                z_made = self._clip.encode_ir(list(made))
                columns.setdefault("distance", []).extend(embedding_distance(z_made, z_true))
            if not self._constant:  # what no training changes
                for name, view in views.items():
                    _measure(free, f"{name}_", view, true)
                    if self._clip:
                        z = embedding_distance(self._clip.encode_ir(list(view)), z_true)
                        free.setdefault(f"{name}_distance", []).extend(z)
                _add(free, "true_", [audit(image) for image in true])
            for row in range(min(len(rgb), SHOWN - len(self._shown))):
                grey = [view[row] for view in (views["grayscale"], made, true)]
                self._shown.append([rgb[row], *grey])
        if not columns:
            raise ValueError(f"{self._name} has no infrared image to compare translations with")
        self._constant = self._constant or {k: float(np.mean(v)) for k, v in free.items()}
        yield from ({k: float(np.mean(v)) for k, v in columns.items()} | self._constant).items()

    def picture(self, path: str | os.PathLike) -> None:
        """Draw some images: RGB, grayscale, translated, true."""
        save_grid(
            path, self._shown, ("RGB", "grayscale", "translated", "infrared"), title=self._name
        )

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield uint8 [b, S, S, 3] and [b, S, S]."""
        batches = pipeline.eval_batches(
            self._source,
            image_size=self._translation.image_size,
            batch_size=self._translation.batch_size,
            stop=self._limit or None,
            ir=True,
        )
        for batch in batches:
            mask = batch["ir_mask"]
            if mask.any():
                yield batch["image"][mask], batch["ir"][mask][..., 0]


def _measure(columns: dict, prefix: str, made: np.ndarray, true: np.ndarray) -> None:
    pairs = list(zip(made, true, strict=True))
    columns.setdefault(f"{prefix}psnr", []).extend(itertools.starmap(psnr, pairs))
    columns.setdefault(f"{prefix}ssim", []).extend(itertools.starmap(ssim, pairs))


def _add(columns: dict, prefix: str, found: list[dict[str, float]]) -> None:
    for values in found:
        for name, value in values.items():
            columns.setdefault(prefix + name, []).append(value)
