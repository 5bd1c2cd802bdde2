"""The records an evaluator runs over, in order, decoded once where memory allows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from rsclip_jax.data import pipeline, records
from rsclip_jax.encoder import Encoder

MODALITIES = ("image", "ir")  # of what is classified
CACHE_BYTES = 256 * 2**20
SILENT_S = 10  # seconds until a pass shows its progress


class Examples:
    """Batches of one split of a data set; iterate as often as wanted.

    Decoded images are kept between passes where all of them fit into 256 MiB; otherwise every
    pass decodes anew.

    Args:
      config: the whole configuration, of which `input.data_dir` is read.
      encoder: what the images are for: their size and number in a batch.
      data, split: which records.
      limit: only the first so many records; 0 for all.
      ir: with the infrared images.

    Raises:
      FileNotFoundError, ValueError: no such data set or split (from `records.open_source`), a
        split without records, or a negative limit.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        data: str,
        split: str,
        *,
        limit: int = 0,
        ir: bool = False,
    ):
        if limit < 0:
            raise ValueError(f"limit={limit}: expected a number of records, or 0 for all of them")
        self.name = f"{data}/{split}"
        self.source = records.open_source(config.input.data_dir, data, split)
        if not len(self.source):
            raise ValueError(f"{self.name} has no records to evaluate")
        self._encoder = encoder
        self._length = min(limit or len(self.source), len(self.source))
        self._ir = ir
        self._keep = len(self) * 3 * encoder.image_size**2 * (1 + ir) <= CACHE_BYTES
        self._kept: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of `pipeline.eval_batches`."""
        if self._kept:
            yield from self._kept
            return
        kept = []
        with tqdm(
            total=len(self), unit=" images", desc=self.name, delay=SILENT_S, leave=False
        ) as progress:
            for batch in self._batches():
                if self._keep:
                    kept.append(batch)
                yield batch
                progress.update(len(batch["id"]))
        self._kept = kept

    def _batches(self) -> Iterator[dict[str, Any]]:
        return pipeline.eval_batches(
            self.source,
            image_size=self._encoder.image_size,
            batch_size=self._encoder.batch_size,
            stop=len(self),
            ir=self._ir,
        )


class LabelledExamples(Examples):
    """Images of one modality with their labels, for classification.

    Args:
      config, encoder, data, split, limit: see `Examples`.
      modality: "image", or "ir" for the infrared images.

    Raises:
      ValueError: see `Examples`; unknown modality, or a first record without a label or an image.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        data: str,
        split: str,
        *,
        modality: str = "image",
        limit: int = 0,
    ):
        if modality not in MODALITIES:
            raise ValueError(f"modality={modality!r}: expected one of {', '.join(MODALITIES)}")
        super().__init__(config, encoder, data, split, limit=limit, ir=modality == "ir")
        self._modality = modality
        self.kind = "infrared images" if modality == "ir" else "images"
        first = self.source[0]
        if not first["label"]:
            raise ValueError(f"the records of {self.name} have no labels to predict")
        self._check(first["id"], first["label"], bool(first[modality]))

    def embeddings(self, params: Any, labels: list[str]) -> np.ndarray:
        """Embed all images: float32 [N, D], rows of length 1; their labels are added to `labels`.

        Raises:
          ValueError: a record has no label, or no infrared image to classify.
        """
        stream = self._encoder.image_stream(params, self._images(labels), self._modality)
        return np.concatenate(list(stream))

    def _images(self, labels: list[str]) -> Iterator[np.ndarray]:
        for batch in self:
            there = batch["ir_mask"] if self._modality == "ir" else np.ones(len(batch["id"]), bool)
            for found in zip(batch["id"], batch["label"], there, strict=True):
                self._check(*found)
            labels += batch["label"]
            yield batch[self._modality]

    def _check(self, record_id: str, label: str, there: bool) -> None:
        if not label:
            raise ValueError(f"record {record_id!r} of {self.name} has no label")
        if not there:
            raise ValueError(
                f"record {record_id!r} of {self.name} has no infrared image, which modality='ir' "
                "needs"
            )
