"""The one way from RGB images to infrared ones: evaluation and the building of data use it."""

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
    """

    def __init__(
        self, model: Translator, mesh: jax.sharding.Mesh | None = None, batch_size: int = 32
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
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
            batch = images[start : start + self.batch_size]
            padded = np.zeros((self.batch_size, *batch.shape[1:]), np.uint8)
            padded[: len(batch)] = batch
            placed = jax.make_array_from_callback(padded.shape, self._sharding, padded.__getitem__)
            results.append(np.asarray(self._apply(params, placed))[: len(batch)].astype(np.uint8))
        return np.concatenate(results)

    def whole(self, params: Any, images: list[np.ndarray]) -> list[np.ndarray]:
        """Translate images uint8 [H, W, 3] of any sizes, tile by tile: uint8 [H, W].

        Tiles overlap, and fade into each other there.
        """
        size = self.image_size
        padded = [
            np.pad(image, [(0, max(size - n, 0)) for n in image.shape[:2]] + [(0, 0)], "symmetric")
            for image in images
        ]
        places = [
            (number, slice(y, y + size), slice(x, x + size))
            for number, image in enumerate(padded)
            for y in tile_starts(image.shape[0], size)
            for x in tile_starts(image.shape[1], size)
        ]
        tiles = self.infrared(params, np.stack([padded[n][rows, cols] for n, rows, cols in places]))
        fade = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).clip(max=OVERLAP)
        weight = np.outer(fade, fade).astype(np.float64)
        totals = [np.zeros(image.shape[:2]) for image in padded]
        weights = [np.zeros(image.shape[:2]) for image in padded]
        for (number, rows, cols), tile in zip(places, tiles, strict=True):
            totals[number][rows, cols] += weight * tile
            weights[number][rows, cols] += weight
        return [
            np.rint(total / weight).astype(np.uint8)[: image.shape[0], : image.shape[1]]
            for total, weight, image in zip(totals, weights, images, strict=True)
        ]


def tile_starts(length: int, size: int) -> list[int]:
    """Return where tiles of `size` start that cover `length` pixels, sharing `OVERLAP` or more.

    Small tiles share a quarter.
    """
    step = size - min(OVERLAP, size // 4)
    count = max(-(-(length - size) // step), 0) + 1
    return [round(i) for i in np.linspace(0, length - size, count)]
