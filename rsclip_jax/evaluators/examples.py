"""The records an evaluator runs over, embedded in order, decoded once where memory allows."""

import itertools
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from rsclip_jax import distributed
from rsclip_jax.data import pipeline, records
from rsclip_jax.encoder import SILENT_S, Encoder
from rsclip_jax.evaluators.texts import records_of

MODALITIES = ("image", "ir")  # of what is classified
LOOKED_AT = 64  # records, for one that has what is asked for
CACHE_BYTES = 256 * 2**20


class Examples:
    """One split of a data set; embed its images as often as wanted.

    Decoded images are kept between passes where all of them fit into 256 MiB; otherwise every
    pass decodes anew. Of several processes each reads the records whose images its devices embed.

    Args:
      config: the whole configuration, of which `input.data_dir` is read.
      encoder: what the images are for: their size and number in a batch.
      data, split: which records.
      limit: only the first so many records; 0 for all.
      ir: with the infrared images.

    Attributes:
      records: what `texts.records_of` tells of each record, known once they have been embedded.

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
        size = len(self) * 3 * encoder.image_size**2 * (1 + ir)
        self._keep = size <= CACHE_BYTES * jax.process_count()
        self._kept: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self._length

    def embed(self, params: Any, *fields: str) -> list[np.ndarray]:
        """Embed all images, in each of the fields "image" and "ir" asked for: float32 [N, D]."""
        read: list[dict[str, Any]] = []
        copies = itertools.tee(self._batches(read), len(fields))
        streams = [
            self._encoder.image_stream(params, map(itemgetter(field), batches), field)
            for field, batches in zip(fields, copies, strict=True)
        ]
        z = [np.concatenate(parts) for parts in zip(*zip(*streams, strict=True), strict=True)]
        if not self.records:
            own = [(place, record) for place, record in enumerate(read) if record["id"] is not None]
            everywhere = itertools.chain.from_iterable(distributed.gather(own))
            self.records = [record for _, record in sorted(everywhere, key=itemgetter(0))]
        return z

    def _batches(self, read: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches of `pipeline.eval_batches`, their records are added to `read`."""
        if self._kept:
            yield from self._kept
            return
        kept = []
        with tqdm(
            total=len(self),
            unit=" images",
            desc=self.name,
            delay=SILENT_S,
            leave=False,
            disable=jax.process_index() != 0,
        ) as progress:
            for batch in self._decoded():
                if self._keep:
                    kept.append(batch)
                read += records_of(batch)
                yield batch
                progress.update(len(batch["id"]))
        self._kept = kept

    def _decoded(self) -> Iterator[dict[str, Any]]:
        size = min(self._encoder.batch_size, len(self))
        return pipeline.eval_batches(
            self.source,
            image_size=self._encoder.image_size,
            batch_size=size,
            stop=len(self),
            ir=self._ir,
            own=self._encoder.own_rows(size) if jax.process_count() > 1 else None,
        )


class LabelledExamples(Examples):
    """Images of one modality with their labels, for classification.

    Args:
      config, encoder, data, split, limit: see `Examples`.
      modality: "image", or "ir" for the infrared images.

    Raises:
      ValueError: see `Examples`; unknown modality, a first record without a label, or no infrared
        image among the first LOOKED_AT records.
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
        if not self.source[0]["label"]:
            raise ValueError(f"the records of {self.name} have no labels to predict")
        looked_at = range(min(LOOKED_AT, len(self)))
        if not any(self.source[i][modality] for i in looked_at):
            raise ValueError(
                f"none of the first {len(looked_at)} records of {self.name} has an infrared image, "
                "which modality='ir' needs: give modality='image', or data prepared with them"
            )

    def embeddings(self, params: Any) -> tuple[np.ndarray, list[str]]:
        """Embed all images: float32 [N, D], rows of length 1, and the N labels.

        Records without an infrared image are left out where these are classified, and counted in
        `kind`.

        Raises:
          ValueError: a record has no label.
        """
        (z,) = self.embed(params, self._modality)
        for record in self.records:
            if not record["label"]:
                raise ValueError(f"record {record['id']!r} of {self.name} has no label")
        there = np.array([record.get(self._modality, True) for record in self.records], bool)
        if not there.all():
            self.kind = f"infrared images (left out: {(~there).sum():,} records without one)"
        labels = [record["label"] for record, kept in zip(self.records, there, strict=True) if kept]
        return z[there], labels
