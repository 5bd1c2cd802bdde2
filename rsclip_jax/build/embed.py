"""Embeddings of images by a CLIP model, kept in the rows."""

import dataclasses

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from rsclip_jax.build import files
from rsclip_jax.build.rows import Row
from rsclip_jax.data import images


@dataclasses.dataclass
class Embed(beam.PTransform):
    """Give rows the `embedding` of their image: float16 [D], of length 1.

    Attributes:
      model: what `rsclip_jax.load` reads.
      sources: rows of others stay as they are.
      batch_size: images that a worker embeds at a time.
    """

    model: str
    sources: list[str]
    batch_size: int = dataclasses.field(default=64, compare=False)

    def expand(self, rows):
        return rows | beam.ParDo(_Embed(self.model, self.sources, self.batch_size))


class _Embed(beam.DoFn):
    def __init__(self, model: str, sources: list[str], batch_size: int):
        self._model, self._sources, self._batch_size = model, sources, batch_size

    def setup(self):
        from rsclip_jax.loading import load  # a worker's work, not its start

        self._clip = load(self._model)

    def start_bundle(self):
        self._held: list[Row] = []

    def process(self, row: Row):
        if row["source"] not in self._sources:
            yield row
            return
        self._held.append(row)
        if len(self._held) == self._batch_size:
            yield from self._flush()

    def finish_bundle(self):
        for row in self._flush():
            yield WindowedValue(row, MIN_TIMESTAMP, [GlobalWindow()])

    def _flush(self) -> list[Row]:
        held, self._held = self._held, []
        if not held:
            return []
        pixels = [images.decode(files.read_image(row["image"])) for row in held]
        vectors = self._clip.encode_image(pixels).astype(np.float16)
        return [
            row | {"embedding": vector.tobytes()} for row, vector in zip(held, vectors, strict=True)
        ]
