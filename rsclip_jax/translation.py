"""The one way from RGB images to infrared ones: evaluation and the building of data use it."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from rsclip_jax.models.translator import Translator, translate
from rsclip_jax.sharding import batch_sharding, batch_shards, make_mesh, on_mesh, replicated

SEED = 0  # of the noise of bridges
OVERLAP = 32  # pixels that neighbouring tiles share


class Translation:
    """Translates images with whatever parameters it is given.

    The result of an image depends on nothing else: all have the same noise.

    Args:
      model: see `models.translator`.
      mesh: batches are split over it; None for one device. With several processes every process
        passes the same images and receives all results.
      batch_size: images per call, rounded up to a multiple of the parts of a batch.

    Attributes:
      image_size: side of the images in pixels.
      before_batch: is called before each batch; what it raises ends the work.
    """

    def __init__(
        self, model: Translator, mesh: jax.sharding.Mesh | None = None, batch_size: int = 32
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        self.before_batch: Callable[[], None] = lambda: None
        self.image_size = model.image_size
        mesh = mesh or make_mesh(devices=jax.devices()[:1])
        shards = batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._sharding = batch_sharding(mesh)

        def apply(params: Any, images: jax.Array) -> jax.Array:
            with on_mesh(mesh):
                ir = translate(model, params, images, jax.random.key(SEED))
            return jax.numpy.clip(jax.numpy.rint(127.5 * (ir[..., 0] + 1)), 0, 255)

        self._apply = jax.jit(apply, out_shardings=replicated(mesh))

    def infrared(self, params: Any, images: np.ndarray) -> np.ndarray:
        """Translate images uint8 [N, S, S, 3] of `image_size` into uint8 [N, S, S]."""
        results = []
        for start in range(0, len(images), self.batch_size):
            self.before_batch()
            batch = images[start : start + self.batch_size]
            padded = np.zeros((self.batch_size, *batch.shape[1:]), np.uint8)
            padded[: len(batch)] = batch
            placed = jax.make_array_from_callback(padded.shape, self._sharding, padded.__getitem__)
            results.append(np.asarray(self._apply(params, placed))[: len(batch)].astype(np.uint8))
        return np.concatenate(results)

    def whole(self, params: Any, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Translate images uint8 [H, W, 3] of any sizes, tile by tile: uint8 [H, W], in order.

        Tiles overlap, and fade into each other there. Batches of tiles cross images; an image is
        drawn when its tiles are due, so that, however many there are, few are held.
        """
        tiles: list[np.ndarray] = []
        homes: list[tuple[_Mosaic, slice, slice]] = []
        waiting: collections.deque[_Mosaic] = collections.deque()

        def translate_tiles() -> Iterator[np.ndarray]:
            made = self.infrared(params, np.stack(tiles))
            for (mosaic, rows, cols), tile in zip(homes, made, strict=True):
                mosaic.add(tile, rows, cols)
            tiles.clear()
            homes.clear()
            while waiting and not waiting[0].missing:
                yield waiting.popleft().picture()

        for image in images:
            mosaic = _Mosaic(image.shape[:2], self.image_size)
            waiting.append(mosaic)
            lacking = [(0, max(self.image_size - n, 0)) for n in image.shape[:2]]
            if any(after for _, after in lacking):
                image = np.pad(image, [*lacking, (0, 0)], "symmetric")
            for rows, cols in mosaic.places:
                tiles.append(image[rows, cols])
                homes.append((mosaic, rows, cols))
                if len(tiles) == self.batch_size:
                    yield from translate_tiles()
        if tiles:
            yield from translate_tiles()


class _Mosaic:
    """Adds up the tiles of an image, each weighted by how far its pixels are from its border.

    Args:
      shape: (H, W) of the image.
      size: side of the tiles, that of the image at least.

    Attributes:
      places: the rows and columns of its tiles.
      missing: how many of them were not added yet.
    """

    def __init__(self, shape: tuple[int, int], size: int):
        self._shape = shape
        self._fade = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).clip(max=OVERLAP)
        padded = [max(length, size) for length in shape]
        starts = [tile_starts(length, size) for length in padded]
        self.places = [
            (slice(y, y + size), slice(x, x + size)) for y in starts[0] for x in starts[1]
        ]
        self.missing = len(self.places)
        self._total = np.zeros(padded, np.float32)
        # Tiles lie on a grid: the sum of their weights is a product, too.
        self._weights = [np.zeros(length, np.float32) for length in padded]
        for weights, of in zip(self._weights, starts, strict=True):
            for start in of:
                weights[start : start + size] += self._fade

    def add(self, tile: np.ndarray, rows: slice, cols: slice) -> None:
        """Add a tile [S, S] at its place."""
        self._total[rows, cols] += np.outer(self._fade, self._fade) * tile.astype(np.float32)
        self.missing -= 1

    def picture(self) -> np.ndarray:
        """Return the image of all tiles: uint8 [H, W]."""
        self._total /= self._weights[0][:, None]
        self._total /= self._weights[1]
        height, width = self._shape
        return np.rint(self._total, out=self._total)[:height, :width].astype(np.uint8)


def tile_starts(length: int, size: int) -> list[int]:
    """Return where tiles of `size` start that cover `length` pixels, sharing `OVERLAP` or more.

    Small tiles share a quarter.
    """
    step = size - min(OVERLAP, size // 4)
    count = max(-(-(length - size) // step), 0) + 1
    return [round(i) for i in np.linspace(0, length - size, count)]
