"""The one way from images and texts to embeddings: evaluators and export both use it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

from rsclip_jax.sharding import batch_sharding, batch_shards, make_mesh, on_mesh, replicated

# Texts are cut to one of these lengths (or to their own): few lengths, few compilations.
TEXT_BUCKETS = (16, 32, 64, 128)
SILENT_S = 10  # seconds until slow work shows its progress


class Encoder:
    """Embeds images and token ids with whatever parameters it is given.

    The parameters are an argument of every call, so that the training loop can pass its live ones.
    A shape is compiled once: the last, short batch is padded with zeros.

    Args:
      model: the Linen module; `model.apply({"params": params}, image=..., normalize=...)` returns
        `zimg`, with `ir=` `zir`, with `text=` `ztxt`, each [B, D]; its
        `image_size` and `embed_dim` are S and D.
      mesh: see `sharding.make_mesh`; batches are split over it. None for one device. With several
        processes every process passes the same input and receives all embeddings; of the batches of
        `image_stream` only its `own_rows` are read, the others may be anything.
      batch_size: items per call and process, rounded up to a multiple of the parts of a batch.

    Attributes:
      before_batch: is called before each batch; what it raises ends the work.
    """

    def __init__(
        self, model: nn.Module, mesh: jax.sharding.Mesh | None = None, batch_size: int = 256
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        self.before_batch: Callable[[], None] = lambda: None
        self._model = model
        self.image_size = model.image_size
        self.embed_dim = model.embed_dim
        self._mesh = mesh
        self._shards = batch_shards(mesh) if mesh else 1
        self._sharding = batch_sharding(mesh) if mesh else None
        self.batch_size = self._whole(batch_size * (jax.process_count() if mesh else 1))
        self._apply = jax.jit(
            self._embed,
            static_argnames=("field", "normalize"),
            out_shardings=replicated(mesh) if mesh else None,
        )

    def own_rows(self, number: int) -> np.ndarray:
        """Tell which of `number` rows, of a stream's largest batch, this process embeds: bool."""
        own = np.full(self._size(number), self._sharding is None)
        if self._sharding is not None:
            for index in self._sharding.addressable_devices_indices_map(own.shape).values():
                own[index] = True
        return own[:number]

    def on_own_devices(self, params: Any) -> tuple["Encoder", Any]:
        """Return an encoder for the devices of this process alone, and the parameters on them.

        All processes must call this; each can then embed what the others do not.
        """
        if self._mesh is None or jax.process_count() == 1:
            return self, params
        whole = jax.jit(lambda x: x, out_shardings=replicated(self._mesh))(params)
        mesh = make_mesh(devices=jax.local_devices())
        own = jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), replicated(mesh)), whole)
        return Encoder(self._model, mesh, self.batch_size // jax.process_count()), own

    def image(self, params: Any, images: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        """Embed RGB images uint8 [N, S, S, 3]: float32 [N, D], rows of length 1.

        `normalize=False` gives the embeddings as the tower leaves them.
        """
        return self._all(params, "image", images, normalize)

    def ir(self, params: Any, images: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        """Embed infrared images; see `image`."""
        return self._all(params, "ir", images, normalize)

    def image_stream(
        self, params: Any, batches: Iterable[np.ndarray], field: str = "image"
    ) -> Iterator[np.ndarray]:
        """Embed batches of images as they come; yields one float32 [b, D] for each.

        Args:
          batches: uint8 [b, S, S, 3], b <= batch_size. The next one is drawn and sent to the device
            before the embeddings of the one before are waited for.
          field: "image" or "ir".
        """
        pending, size = None, 0
        for batch in batches:
            size = max(size, self._size(len(batch)))
            following = self._dispatch(params, field, batch, True, size)
            if pending is not None:
                yield _fetch(*pending)
            pending = following
        if pending is not None:
            yield _fetch(*pending)

    def text(self, params: Any, ids: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        """Embed token ids int32 [N, L]: float32 [N, D], rows of length 1.

        Texts are encoded at a bucketed length just above their own. This is exact: the tower is
        causal and read at the first end-of-text token, so the padding behind cannot matter.
        """
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(f"expected token ids of shape [N, L], got {ids.shape}")
        # Short texts together: a batch is as long as its longest text.
        lengths = _lengths(ids)
        order = np.argsort(lengths, kind="stable")
        z = self._all(params, "text", ids[order], normalize)
        back = np.empty_like(z)
        back[order] = z
        return back

    def _all(self, params: Any, field: str, rows: np.ndarray, normalize: bool) -> np.ndarray:
        if len(rows) == 0:
            raise ValueError(f"nothing to encode: {field} has shape {rows.shape}")
        size = self._size(len(rows))
        pending, out = None, []
        starts = tqdm(
            range(0, len(rows), size),
            desc=field,
            unit=" batches",
            delay=SILENT_S,
            leave=False,
            disable=jax.process_index() != 0,
        )
        for start in starts:
            batch = rows[start : start + size]
            if field == "text":
                batch = batch[:, : _bucket(int(_lengths(batch).max()), batch.shape[1])]
            following = self._dispatch(params, field, batch, normalize, size)
            if pending is not None:
                out.append(_fetch(*pending))
            pending = following
        assert pending is not None  # there was a row, hence a batch
        return np.concatenate([*out, _fetch(*pending)])

    def _size(self, number: int) -> int:
        # One batch of few rows is padded to a power of two only: a handful of queries stays cheap.
        return min(self.batch_size, self._whole(1 << (number - 1).bit_length()))

    def _whole(self, size: int) -> int:
        return -(-size // self._shards) * self._shards

    def _dispatch(
        self, params: Any, field: str, batch: np.ndarray, normalize: bool, size: int
    ) -> tuple[jax.Array, int]:
        """Start the computation of one batch, padded to `size`; return it and its true length."""
        if len(batch) > size:
            raise ValueError(f"a batch of {len(batch)} is larger than the encoder's {size}")
        self.before_batch()
        padded = batch
        if len(batch) < size:
            padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
            padded[: len(batch)] = batch
        placed: np.ndarray | jax.Array = padded
        if self._sharding is not None:
            placed = jax.make_array_from_callback(
                padded.shape, self._sharding, lambda index: padded[index]
            )
        return self._apply(params, placed, field=field, normalize=normalize), len(batch)

    def _embed(self, params: Any, rows: jax.Array, *, field: str, normalize: bool) -> jax.Array:
        inputs: dict[str, Any] = {field: rows}
        with on_mesh(self._mesh):
            out: Any = self._model.apply({"params": params}, **inputs, normalize=normalize)
        return out[{"image": "zimg", "ir": "zir", "text": "ztxt"}[field]]


def _fetch(z: jax.Array, length: int) -> np.ndarray:
    return np.asarray(z, np.float32)[:length]


def _lengths(ids: np.ndarray) -> np.ndarray:
    """Return [N] lengths to which each row can be cut: its tokens and one padding column.

    Padding is what repeats to the end of the row, whatever its id; one of it stays because it may
    be the end-of-text token itself, of which the first is read.
    """
    changes = np.zeros(ids.shape, bool)  # the first column stands for "no change at all"
    changes[:, 0] = True
    np.not_equal(ids[:, 1:], ids[:, :-1], out=changes[:, 1:])
    return ids.shape[1] - np.argmax(changes[:, ::-1], axis=1)


def _bucket(length: int, limit: int) -> int:
    return min([b for b in TEXT_BUCKETS if b >= length] + [limit])
