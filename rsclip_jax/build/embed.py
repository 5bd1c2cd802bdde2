"""Embeddings of images by a CLIP model, kept in the rows."""

import dataclasses
import functools

import apache_beam as beam
import numpy as np

from rsclip_jax.build.batches import each_batch, of_sources
from rsclip_jax.build.models import preprocess_rows, shared_clip
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop


class Embedder:
    """Gives rows the `embedding` of their image: float16 [D], of length 1.

    Args:
      model: what `rsclip_jax.load` reads.
    """

    def __init__(self, model: str):
        self._clip = shared_clip(model)

    def __call__(self, rows: list[Row]) -> list[Row | Drop]:
        """Return the rows with their embeddings, or why they go."""
        kept, arrays, dropped = preprocess_rows(rows, [self._clip])
        results: list[Row | Drop] = [dropped.get(index, row) for index, row in enumerate(rows)]
        if kept:
            vectors = self._clip.encode_image(arrays[0]).astype(np.float16)
            for index, vector in zip(kept, vectors, strict=True):
                results[index] = rows[index] | {"embedding": vector.tobytes()}
        return results


@dataclasses.dataclass
class Embed(beam.PTransform):
    """Give rows the embedding of their image; see `Embedder`.

    Attributes:
      model: what `rsclip_jax.load` reads.
      sources: rows of others stay as they are.
      batch_size: images that a worker embeds at a time.
    """

    model: str
    sources: list[str]
    batch_size: int = dataclasses.field(default=64, compare=False)

    def expand(self, rows):
        make = functools.partial(Embedder, self.model)
        wanted = functools.partial(of_sources, self.sources)
        return rows | each_batch(make, wanted, self.batch_size)
