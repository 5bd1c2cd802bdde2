"""The records an evaluator runs over, in order, decoded once where memory allows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from rsclip_jax.data import pipeline, records
from rsclip_jax.encoder import Encoder

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
        self._image_size = encoder.image_size
        self._batch_size = encoder.batch_size
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

    def labelled_images(self, labels: list[str]) -> Iterator[np.ndarray]:
        """Yield the images in batches, and add the labels of each to `labels`.

        Raises:
          ValueError: a record has no label.
        """
        for batch in self:
            for record_id, label in zip(batch["id"], batch["label"], strict=True):
                if not label:
                    raise ValueError(f"record {record_id!r} of {self.name} has no label")
            labels += batch["label"]
            yield batch["image"]

    def _batches(self) -> Iterator[dict[str, Any]]:
        return pipeline.eval_batches(
            self.source,
            image_size=self._image_size,
            batch_size=self._batch_size,
            stop=len(self),
            ir=self._ir,
        )
