"""`rsclip_jax.load`: any checkpoint, ready to embed images and texts."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from PIL import Image

from rsclip_jax import sharding
from rsclip_jax.data import images
from rsclip_jax.data.text import Tokenizer, make_tokenizer
from rsclip_jax.encoder import Encoder
from rsclip_jax.host import available_cores, local_path, regular_file
from rsclip_jax.models import clip
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.state import refit

BATCH_SIZE = 256


def load(
    path: str | os.PathLike,
    activation: str | None = None,
    context_length: int | None = None,
    image_size: int | None = None,
) -> "Clip":
    """Load a model: a workdir of ours, or weights of OpenAI, open_clip, Hugging Face or Long-CLIP.

    Args:
      path: a workdir, a file (.safetensors, .pt, .bin), or a directory of Hugging Face or
        open_clip.
      activation: "quick_gelu" or "gelu", or whose weights they are ("openai", "laion", ...:
        `rsclip_jax.weights.PRESETS`); None takes what the files say, else the architecture's own.
      context_length: another number of text positions; more are made by knowledge-preserved
        stretching.
      image_size: another size in pixels; positions are resampled bicubically.

    Raises:
      FileNotFoundError, ValueError: nothing there that can be read, a translator, or the URL of a
        bucket.
    """
    path = local_path(path, "path")
    mesh = sharding.make_mesh()
    config, params, _ = load_for_inference(
        path, mesh=mesh, activation=activation, clip_for="rsclip_jax.load"
    )
    if context_length is not None or image_size is not None:
        config, params = refit(config, params, context_length, image_size)
        params = jax.device_put(params, sharding.replicated(mesh))
    return Clip(config, params, mesh)


class Clip:
    """A model with its preprocessing and tokenizer. Its methods may be called from many threads.

    Embeddings are float32 NumPy arrays [N, D] with rows of length 1.

    Attributes:
      config: what the model was made from (`config.model`).
      params: its parameters.
      tokenizer: a callable, list of strings -> int32 [N, L]; None where the vocabulary is unknown.
      logit_scale: what training multiplied cosine similarities with.
    """

    def __init__(self, config: ConfigDict, params: Any, mesh: jax.sharding.Mesh | None = None):
        self.config = config
        self.params = params
        self.logit_scale = float(np.exp(params["t"]))
        model = clip.build(config.model)
        self._encoder = Encoder(model, mesh, BATCH_SIZE)
        tokenizer = make_tokenizer(config.tokenizer, config.model.context_length)
        fits = tokenizer.vocab_size == model.vocab_size and tokenizer.eot_id == model.eot_id
        self.tokenizer: Tokenizer | None = tokenizer if fits else None

    def encode_image(self, inputs: Any) -> np.ndarray:
        """Embed RGB images.

        Args:
          inputs: one or a sequence of paths, PIL images or uint8 arrays [H, W, 3], of any size;
            or an array float32 [N, S, S, 3], resized and normalised (see `preprocess`).

        Raises:
          ValueError: what cannot be decoded, or an array of another shape or type.
        """
        return self._encode("image", inputs)

    def encode_ir(self, inputs: Any) -> np.ndarray:
        """Embed infrared images, given as in `encode_image`; grey becomes three equal channels."""
        return self._encode("ir", inputs)

    def encode_text(
        self, texts: str | Sequence[str] | ArrayLike, normalize: bool = True
    ) -> np.ndarray:
        """Embed texts, given as strings or as token ids, integers [N, L].

        `normalize=False` gives the embeddings as the tower leaves them.

        Raises:
          ValueError: strings for a model of an unknown vocabulary; ids or a length that it has not.
        """
        rows: list[Any] = [texts] if isinstance(texts, str) else list(texts)  # type: ignore[arg-type]
        if not rows:
            return self._nothing()
        if all(isinstance(row, str) for row in rows):
            if self.tokenizer is None:
                raise ValueError(
                    f"this model has {self.config.model.vocab_size} tokens, which are not those of "
                    f"the tokenizer {self.config.tokenizer!r}: give token ids, integers [N, L]"
                )
            length = self.tokenizer.context_length
            if cut := int((self.tokenizer.lengths(rows) > length).sum()):
                logging.warning("%d of %d texts are cut at %d tokens", cut, len(rows), length)
            return self._encoder.text(self.params, self.tokenizer(rows), normalize=normalize)
        return self._encoder.text(self.params, self._ids(texts), normalize=normalize)

    def similarity(self, image: Any, text: Any) -> np.ndarray:
        """Return cosine similarities [N, M] of images and texts, or of their embeddings."""
        zimg = image if _is_embeddings(image) else self.encode_image(image)
        ztxt = text if _is_embeddings(text) else self.encode_text(text)
        return zimg @ ztxt.T

    def preprocess(self, image: Any) -> np.ndarray:
        """Return one image (path, PIL image, uint8 array) as float32 [S, S, 3], normalised."""
        mean, std = (np.array(self.config.model[k], np.float32) for k in ("mean", "std"))
        return (self._pixels(image).astype(np.float32) / 255 - mean) / std

    def _encode(self, field: str, inputs: Any) -> np.ndarray:
        if isinstance(inputs, np.ndarray | jax.Array) and inputs.dtype.kind == "f":
            floats = np.asarray(inputs, np.float32)
            size = self._encoder.image_size
            if floats.shape[1:] != (size, size, 3):
                raise ValueError(
                    f"a float array of shape {floats.shape}: expected preprocessed images "
                    f"[N, {size}, {size}, 3]"
                )
            encode = getattr(self._encoder, field)
            return encode(self.params, floats) if len(floats) else self._nothing()
        path_or_pil = isinstance(inputs, str | os.PathLike | Image.Image)
        listed = [inputs] if path_or_pil or getattr(inputs, "ndim", 0) in (2, 3) else inputs
        batches = list(self._encoder.image_stream(self.params, self._batches(listed), field))
        return np.concatenate(batches) if batches else self._nothing()

    def _batches(self, inputs: Sequence[Any]) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(available_cores()) as pool:
            for start in range(0, len(inputs), BATCH_SIZE):
                yield np.stack(list(pool.map(self._pixels, inputs[start : start + BATCH_SIZE])))

    def _pixels(self, image: Any) -> np.ndarray:
        """Return uint8 [S, S, 3]."""
        if isinstance(image, str | os.PathLike):
            try:
                image = images.decode(regular_file(Path(image)).read_bytes())
            except ValueError as error:
                raise ValueError(f"{os.fspath(image)}: {error}") from error
        if getattr(image, "dtype", np.dtype(np.uint8)).kind == "f":
            raise ValueError(
                "a float array among the images: stack preprocessed images into one array "
                "[N, S, S, 3], and give raw pixels as uint8"
            )
        return images.eval_preprocess(images.to_rgb8(image), self._encoder.image_size)

    def _ids(self, ids: ArrayLike) -> np.ndarray:
        array = np.asarray(ids)
        model = self.config.model
        if array.ndim != 2 or array.dtype.kind not in "iu" or array.shape[1] > model.context_length:
            raise ValueError(
                f"texts of type {array.dtype} and shape {array.shape}: expected strings, or "
                f"integers [N, L] with L <= {model.context_length}"
            )
        if array.min() < 0 or array.max() >= model.vocab_size:
            raise ValueError(
                f"token ids from {array.min()} to {array.max()}: this model has 0 to "
                f"{model.vocab_size - 1}"
            )
        return array.astype(np.int32)

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, self._encoder.embed_dim), np.float32)


def _is_embeddings(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f"
