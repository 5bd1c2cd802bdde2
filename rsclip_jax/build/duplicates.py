"""Near-duplicate images: by perceptual hash, and by nearest neighbours of embeddings."""

import dataclasses
import hashlib
import heapq
from collections.abc import Iterator

import apache_beam as beam
import faiss
import numpy as np

from rsclip_jax.build.components import Components
from rsclip_jax.build.hashes import HashClusters
from rsclip_jax.build.rows import Row
from rsclip_jax.build.shuffle import CoGroupByKey, GroupByKey
from rsclip_jax.build.stages import DROPPED
from rsclip_jax.build.survivor import Member, Priority, member_of

_SAMPLE_PER_CELL = 64  # vectors that a cell's centre is fitted to


@dataclasses.dataclass
class HashDuplicates(beam.PTransform):
    """Decide which rows of near-equal images go: one of each cluster of hashes stays.

    Attributes:
      radius: greatest number of bits of 64 in which linked hashes differ.
      priority: the fields of `Priority`.
      sources: rows of others are not looked at; None: all are.
    """

    radius: int
    priority: dict
    sources: list[str] | None = None

    def expand(self, rows):
        return (
            rows
            | "of sources" >> beam.Filter(_of, self.sources)
            | "hashes" >> beam.Map(_hashed)
            | HashClusters(self.radius)
            | "cluster" >> GroupByKey()
            | "survivor" >> beam.FlatMap(_others, Priority(**self.priority))
        )


@dataclasses.dataclass
class EmbeddingDuplicates(beam.PTransform):
    """Decide which rows of images with near-equal embeddings go, as fastdup does for RS5M.

    Each image is linked with those of its k nearest neighbours whose cosine is at least
    `threshold`; one of each connected component stays. With more than one cell the neighbours are
    looked for in the cells nearest to the image (an inverted file whose cells are workers'):
    near-duplicates lie in the same or in neighbouring ones.

    Attributes:
      threshold: least cosine. The paper does not tell fastdup's.
      priority: the fields of `Priority`.
      sources: rows of others are not looked at.
      neighbours: k; 5 in the paper.
      cells: 1 is exact, and one worker's; take one for every few thousand images.
      probes: in how many cells an image is looked for.
    """

    threshold: float
    priority: dict
    sources: list[str]
    neighbours: int = 5
    cells: int = 1
    probes: int = 4

    def expand(self, rows):
        wanted = rows | "of sources" >> beam.Filter(_of, self.sources)
        vectors = wanted | "embeddings" >> beam.Map(_vector)
        if self.cells == 1:
            placed = vectors | "one cell" >> beam.Map(lambda vector: (0, (True, vector)))
        else:
            centres = (
                vectors
                | "sampled"
                >> beam.combiners.Top.Smallest(self.cells * _SAMPLE_PER_CELL, key=_by_hash)
                | "centres" >> beam.Map(cell_centres, self.cells)
            )
            placed = (
                vectors
                # The centres are known when all rows were read: until then they wait in files.
                | "vectors by id" >> GroupByKey()
                | "cells" >> beam.FlatMap(_place, beam.pvalue.AsSingleton(centres), self.probes)
            )
        edges = (
            placed
            | "cell" >> GroupByKey()
            | "search" >> beam.FlatMap(_search, self.neighbours, self.threshold)
            | "by image" >> GroupByKey()
            | "nearest" >> beam.FlatMap(_nearest, self.neighbours)
        )
        roots = (
            edges
            | beam.CombineGlobally(Components())
            | "roots" >> beam.FlatMap(lambda roots: roots)
        )
        members = wanted | "members" >> beam.Map(lambda row: (row["id"], member_of(row)))
        return (
            {"root": roots, "member": members}
            | "by id" >> CoGroupByKey()
            | "in a cluster" >> beam.FlatMap(_in_cluster)
            | "cluster" >> GroupByKey()
            | "survivor" >> beam.FlatMap(_others, Priority(**self.priority))
        )


def _of(row: Row, sources: list[str] | None) -> bool:
    return sources is None or row["source"] in sources


def _hashed(row: Row) -> tuple[str, Member]:
    return row["phash"], member_of(row)


def _others(element, priority: Priority):
    for name, kept, held_out in priority.leavers(list(element[1])):
        what = "near duplicate of a held-out row" if held_out else "near duplicate"
        yield name, {DROPPED: f"{what}: of {kept}"}


def near_vectors(
    stored: np.ndarray, queries: np.ndarray, neighbours: int, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (query, stored, cosine) of the nearest stored vectors of each query, by faiss.

    Args:
      stored: float32 [N, D] of length 1.
      queries: float32 [M, D] of length 1.
      neighbours: at most so many for each query.
      threshold: least cosine.
    """
    index = faiss.IndexFlatIP(stored.shape[1])
    index.add(stored)
    cosines, found = index.search(queries, min(neighbours, len(stored)))
    for query, place in np.argwhere((found >= 0) & (cosines >= threshold)):
        yield int(query), int(found[query, place]), float(cosines[query, place])


def cell_centres(sample: list[tuple[str, bytes]], cells: int) -> np.ndarray:
    """Fit the centres of cells to a sample of (id, embedding): float32 [cells, D], of length 1.

    Raises:
      ValueError: the sample is smaller than the number of cells.
    """
    if len(sample) < cells:
        raise ValueError(f"{cells} cells for {len(sample)} images: take fewer cells")
    sample = sorted(sample)
    vectors = np.stack([_floats(data) for _, data in sample])
    fit = faiss.Kmeans(
        vectors.shape[1], cells, niter=10, seed=0, spherical=True, min_points_per_centroid=1
    )
    fit.train(vectors)
    assert fit.centroids is not None  # after `train`
    return fit.centroids


def _floats(data: bytes) -> np.ndarray:
    vector = np.frombuffer(data, np.float16).astype(np.float32)
    return vector / np.linalg.norm(vector)


def _vector(row: Row) -> tuple[str, bytes]:
    if "embedding" not in row:
        raise ValueError(f"row {row['id']!r} has no embedding: a stage before must make them")
    return row["id"], row["embedding"]


def _by_hash(vector: tuple[str, bytes]) -> bytes:
    return hashlib.sha256(vector[0].encode()).digest()


def _place(element, centres: np.ndarray, probes: int):
    """(cell, (whether it is stored there, (id, embedding))) for the cells nearest to a vector."""
    name, found = element
    for data in found:
        near = np.argsort(-(centres @ _floats(data)), kind="stable")[:probes]
        for place, cell in enumerate(near):
            yield int(cell), (place == 0, (name, data))


def _search(element, neighbours: int, threshold: float):
    """Yield (id, (cosine, id of a neighbour)) of one cell."""
    members = sorted(element[1], key=lambda member: member[1][0])
    vectors = np.stack([_floats(data) for _, (_, data) in members])
    home = [number for number, (stored, _) in enumerate(members) if stored]
    names = [name for _, (name, _) in members]
    if home:
        # One more, for each finds itself.
        for query, found, cosine in near_vectors(vectors[home], vectors, neighbours + 1, threshold):
            if query != home[found]:
                yield names[query], (cosine, names[home[found]])


def _nearest(element, neighbours: int):
    name, found = element
    for _, other in heapq.nlargest(neighbours, found):
        yield name, other


def _in_cluster(element):
    for root in element[1]["root"]:
        for member in element[1]["member"]:
            yield root, member
