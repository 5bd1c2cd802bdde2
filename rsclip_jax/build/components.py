"""Connected components of pairs that come from many workers."""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import scipy.sparse


class Forest:
    """Union-find over nodes that can be ordered; the root of a component is its least node."""

    def __init__(self, parents: dict | None = None):
        self._parents: dict = parents if parents is not None else {}

    def find(self, node: Any) -> Any:
        """Return the root of a node, itself if it was never joined."""
        root = node
        while (above := self._parents.get(root, root)) != root:
            root = above
        while node != root:  # so that the next search is short
            self._parents[node], node = root, self._parents.get(node, root)
        return root

    def join(self, one: Any, other: Any) -> None:
        """Put two nodes into one component."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parents[high] = self._parents[low] = low

    def parents(self) -> dict:
        """Return node -> node above, of all nodes that were joined."""
        return self._parents


class Components(beam.CombineFn):
    """Combine pairs (node, node) into the list of (node, root) of all nodes that they name.

    One worker holds all nodes in the end: about 200 bytes each.
    """

    def create_accumulator(self):
        return {}

    def add_input(self, parents, pair):
        Forest(parents).join(*pair)
        return parents

    def merge_accumulators(self, accumulators):
        accumulators = iter(accumulators)
        merged = Forest(next(accumulators))
        for parents in accumulators:
            for pair in parents.items():
                merged.join(*pair)
        return merged.parents()

    def extract_output(self, parents):
        forest = Forest(parents)
        return [(node, forest.find(node)) for node in list(parents)]


def star_edges(count: int, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return fewest pairs with the components of many: each node with the first of its component.

    Args:
      count: number of nodes 0, 1, ...
      blocks: int [N, 2] each, of nodes that belong together.

    Returns:
      int [M, 2] with M < count.
    """
    stars = np.empty((0, 2), np.int64)
    waiting: list[np.ndarray] = []
    held = 0

    def joined() -> np.ndarray:
        edges = np.concatenate([stars, *waiting])
        graph = scipy.sparse.coo_matrix((np.ones(len(edges), bool), edges.T), (count, count))
        labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
        _, first, back = np.unique(labels, return_index=True, return_inverse=True)
        nodes = np.arange(count)
        new = np.stack([first[back], nodes], axis=1)
        return new[new[:, 0] != new[:, 1]]

    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held > 2**22:  # there may be count² / 2 pairs
            stars, waiting, held = joined(), [], 0
    return joined() if waiting else stars
