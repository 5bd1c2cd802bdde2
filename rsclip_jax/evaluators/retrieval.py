"""Image-text retrieval: recall at K in both directions, as numbers and as an evaluator."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rsclip_jax.data import images
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.examples import Examples
from rsclip_jax.evaluators.pictures import save_retrieval_picture
from rsclip_jax.evaluators.texts import (
    caption_groups,
    record_texts,
    records_of,
    tokenizer_for,
)

# Similarities that differ by less are a tie. float32 cannot tell them apart: one caption encoded
# at two places of a batch gives embeddings that differ by as much.
TIE = 1e-6
IMAGE_BLOCK, TEXT_BLOCK = 1024, 4096
PAIR_BLOCK = 8192


def retrieval_metrics(
    image_embeddings: ArrayLike,
    text_embeddings: ArrayLike,
    text_image_index: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    *,
    text_groups: ArrayLike | None = None,
) -> dict[str, float]:
    """Compute recall at K of both retrieval directions.

    Image to text: the share of images with at least one of their texts among the K most similar
    texts. Text to image: the share of texts with one of their images among the K most similar
    images. By default the image of a text is the one it was written for, and an equal text of
    another image counts as wrong: the protocol of the RSICD and RSITMD tables (RemoteCLIP,
    GeoRSCLIP, LRSCLIP). With `text_groups` the multi-positive protocol of SkyScript and FarSLIP:
    texts of one group are merged to one text (the embedding of the first), whose images are those
    of all the merged texts.

    Ties are broken pessimistically: a right answer ranks behind every wrong one that is as similar
    (to 1e-6), so that collapsed embeddings score zero and the order of the data cannot matter.

    The similarity matrix is computed in blocks (24 MiB), once for both directions.

    Args:
      image_embeddings: [N, D], L2-normalised: the similarity is the inner product.
      text_embeddings: [M, D], L2-normalised.
      text_image_index: [M] integers in [0, N), the image that each text belongs to; every image
        needs at least one text.
      ks: the values of K.
      text_groups: [M] integers, equal for equal texts (see `texts.caption_groups`).

    Returns:
      "i2t_R@K" and "t2i_R@K" for every K, and "mean_recall", their mean; in percent.

    Raises:
      ValueError: shapes that do not fit, an image without text, a text without image, embeddings
        that are not finite.
    """
    zimg = _embeddings("image_embeddings", image_embeddings)
    ztxt = _embeddings("text_embeddings", text_embeddings)
    if zimg.shape[1] != ztxt.shape[1]:
        raise ValueError(
            "image_embeddings and text_embeddings must have the same width, got "
            f"{zimg.shape} and {ztxt.shape}"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={tuple(ks)}: expected at least one K, each 1 or more")
    pair_image = _image_index(text_image_index, len(zimg), len(ztxt))
    pair_text = np.arange(len(ztxt))
    if text_groups is not None:
        ztxt, pair_image, pair_text = _merge(ztxt, pair_image, np.asarray(text_groups))
    wrong_i2t, wrong_t2i = _wrong_answers_ahead(zimg, ztxt, pair_image, pair_text)
    metrics = {}
    for k in ks:
        metrics[f"i2t_R@{k}"] = 100.0 * float(np.mean(wrong_i2t < k))
        metrics[f"t2i_R@{k}"] = 100.0 * float(np.mean(wrong_t2i < k))
    metrics["mean_recall"] = float(np.mean(list(metrics.values())))
    return metrics


def _embeddings(name: str, values: ArrayLike) -> np.ndarray:
    z = np.ascontiguousarray(np.asarray(values), np.float32)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"{name} must be a non-empty matrix [items, width], got shape {z.shape}")
    if not np.isfinite(z).all():
        bad = int((~np.isfinite(z).all(axis=1)).sum())
        raise ValueError(
            f"{name}: {bad} of {len(z)} rows hold NaN or infinity; has the training diverged?"
        )
    return z


def _image_index(values: ArrayLike, images: int, texts: int) -> np.ndarray:
    index = np.asarray(values)
    if index.shape != (texts,) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"text_image_index must hold one integer for each of the {texts} texts, got "
            f"{index.dtype} of shape {index.shape}"
        )
    if index.min() < 0 or index.max() >= images:
        wrong = int(((index < 0) | (index >= images)).sum())
        raise ValueError(
            f"text_image_index: {wrong} texts have no image; indices must lie in [0, {images}), "
            f"got {index.min()} to {index.max()}"
        )
    silent = np.flatnonzero(np.bincount(index, minlength=images) == 0)
    if silent.size:
        raise ValueError(
            f"{silent.size} of {images} images have no text (the first: {silent[:5].tolist()}); "
            "leave them out, retrieval from an image needs one right answer"
        )
    return index.astype(np.int64)


def _merge(
    ztxt: np.ndarray, image: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the texts of each group; return their embeddings and the (image, text) pairs."""
    if groups.shape != image.shape:
        raise ValueError(
            f"text_groups must hold one value for each of the {len(image)} texts, got shape "
            f"{groups.shape}"
        )
    _, first, text = np.unique(groups, return_index=True, return_inverse=True)
    pairs = np.unique(np.stack([image, text], axis=1), axis=0)
    return ztxt[first], pairs[:, 0], pairs[:, 1]


def _wrong_answers_ahead(
    zimg: np.ndarray, ztxt: np.ndarray, pair_image: np.ndarray, pair_text: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count, for each image [N] and each text [M], wrong answers as similar as its best right one.

    `pair_image`, `pair_text`: [P], the right (image, text) pairs, each once.
    """
    n, m = len(zimg), len(ztxt)
    best_img = np.full(n, -np.inf, np.float32)
    best_txt = np.full(m, -np.inf, np.float32)
    for start in range(0, len(pair_image), PAIR_BLOCK):
        i, j = pair_image[start : start + PAIR_BLOCK], pair_text[start : start + PAIR_BLOCK]
        similarity = np.einsum("pd,pd->p", zimg[i], ztxt[j])
        np.maximum.at(best_img, i, similarity)
        np.maximum.at(best_txt, j, similarity)
    img_norm, txt_norm = np.linalg.norm(zimg, axis=1), np.linalg.norm(ztxt, axis=1)
    best_img -= TIE * img_norm * txt_norm.max()
    best_txt -= TIE * txt_norm * img_norm.max()

    # Pairs in the order in which the blocks come, so that each block finds its own in one slice.
    block = (pair_image // IMAGE_BLOCK) * (m // TEXT_BLOCK + 1) + pair_text // TEXT_BLOCK
    order = np.argsort(block, kind="stable")
    block, pair_image, pair_text = block[order], pair_image[order], pair_text[order]

    ahead_img, ahead_txt = np.zeros(n, np.int64), np.zeros(m, np.int64)
    similarity_buffer = np.empty((min(n, IMAGE_BLOCK), min(m, TEXT_BLOCK)), np.float32)
    ahead_buffer = np.empty(similarity_buffer.shape, bool)
    for i0 in range(0, n, IMAGE_BLOCK):
        i1 = min(i0 + IMAGE_BLOCK, n)
        for j0 in range(0, m, TEXT_BLOCK):
            j1 = min(j0 + TEXT_BLOCK, m)
            similarity = similarity_buffer[: i1 - i0, : j1 - j0]
            ahead = ahead_buffer[: i1 - i0, : j1 - j0]
            np.matmul(zimg[i0:i1], ztxt[j0:j1].T, out=similarity)
            key = (i0 // IMAGE_BLOCK) * (m // TEXT_BLOCK + 1) + j0 // TEXT_BLOCK
            own = slice(*np.searchsorted(block, [key, key + 1]))
            similarity[pair_image[own] - i0, pair_text[own] - j0] = -np.inf
            np.greater_equal(similarity, best_img[i0:i1, None], out=ahead)
            # Row by row: count_nonzero of a contiguous row is vectorised, with an axis it is not.
            ahead_img[i0:i1] += [np.count_nonzero(row) for row in ahead]
            np.greater_equal(similarity, best_txt[j0:j1], out=ahead)
            for r in range(0, i1 - i0, 255):  # 255 rows: their sum still fits a byte
                ahead_txt[j0:j1] += np.add.reduce(ahead[r : r + 255].view(np.uint8), dtype=np.uint8)
    return ahead_img, ahead_txt


FIELDS = {"short": "text", "long": "text_long"}
PROTOCOLS = ("any", "multi")


class Retrieval:
    """Evaluator `{"type": "retrieval", "data": ..., "split": ..., ...}`.

    Metrics, in percent: `i2t_R@K`, `t2i_R@K` (K = 1, 5, 10) and `mean_recall`; those of long
    captions begin with `long_`, those of the multi-positive protocol with `multi_`
    (`long_multi_i2t_R@1`). See `retrieval_metrics`.

    Args:
      config: the whole configuration; data directory, tokenizer, token lengths and
        `input.long_caption` are read from it.
      encoder: what embeds images and texts.
      data, split: a data set with captions.
      texts: "short", all captions of an image at `config.input.lengths.text` tokens; "long", its
        long captions, or one composed of its captions, at `config.input.lengths.text_long`.
      protocols: "any", the papers' own; "multi", equal captions of other images count as right.
      limit: only the first so many records; 0 for all.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        texts: Sequence[str] = ("short", "long"),
        protocols: Sequence[str] = PROTOCOLS,
        limit: int = 0,
    ):
        _choose("texts", texts, tuple(FIELDS))
        _choose("protocols", protocols, PROTOCOLS)
        self._protocols = tuple(protocols)
        self._encoder = encoder
        self._long_caption = config.input.get("long_caption", "auto")
        self._tokenizers = {kind: tokenizer_for(config, FIELDS[kind]) for kind in texts}
        self._examples = Examples(
            config.input.data_dir,
            data,
            split,
            image_size=encoder.image_size,
            batch_size=encoder.batch_size,
            limit=limit,
        )
        for kind in texts:  # fail before the training, not at its first evaluation
            self._record_texts(kind, self._examples.source[0])
        self._texts: dict[str, _Texts] = {}
        self._latest: tuple[np.ndarray, np.ndarray] | None = None

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics."""
        zimg = np.concatenate(list(self._encoder.image_stream(params, self._images())))
        self._latest = None
        for kind, texts in self._texts.items():
            ztxt = self._encoder.text(params, texts.ids)
            self._latest = self._latest or (zimg, ztxt)
            for protocol in self._protocols:
                prefix = {"short": "", "long": "long_"}[kind] + {"any": "", "multi": "multi_"}[
                    protocol
                ]
                groups = texts.groups if protocol == "multi" else None
                metrics = retrieval_metrics(zimg, ztxt, texts.image_index, text_groups=groups)
                for name, value in metrics.items():
                    yield prefix + name, value

    def picture(self, path: str | os.PathLike) -> None:
        """Draw examples of the latest run (of its first kind of text) into a PNG file.

        Raises:
          RuntimeError: there has been no run.
        """
        if self._latest is None:
            raise RuntimeError("no retrieval to draw yet: call run(params) to its end first")
        texts = next(iter(self._texts.values()))
        save_retrieval_picture(
            path,
            lambda index: images.decode(self._examples.source[index]["image"]),
            texts.captions,
            *self._latest,
            texts.image_index,
            title=self._examples.name,
        )

    def _record_texts(self, kind: str, record: dict[str, Any]) -> list[str]:
        texts = record_texts(record, FIELDS[kind], self._long_caption)
        if not texts:
            hint = ", or set config.input.long_caption='auto'" if kind == "long" else ""
            raise ValueError(
                f"record {record['id']!r} of {self._examples.name} has no {kind} caption to "
                f"retrieve; leave {kind!r} out of this evaluator's texts{hint}"
            )
        return texts

    def _images(self) -> Iterator[np.ndarray]:
        """Yield the images in batches; the first pass collects and tokenises the texts as well."""
        lines: dict[str, list[list[str]]] = {kind: [] for kind in self._tokenizers}
        for batch in self._examples:
            if not self._texts:
                for kind in lines:
                    lines[kind] += [self._record_texts(kind, r) for r in records_of(batch)]
            yield batch["image"]
        if not self._texts:
            self._texts = {
                kind: _Texts(lines[kind], tokenizer) for kind, tokenizer in self._tokenizers.items()
            }


class _Texts:
    """The texts of one kind of all images, flat."""

    def __init__(self, by_image: list[list[str]], tokenizer: Any):
        self.captions = [line for lines in by_image for line in lines]
        self.image_index = np.repeat(np.arange(len(by_image)), [len(lines) for lines in by_image])
        self.groups = caption_groups(self.captions)
        self.ids = tokenizer(self.captions)


def _choose(field: str, given: Sequence[str], possible: tuple[str, ...]) -> None:
    if isinstance(given, str) or not given or set(given) - set(possible):
        raise ValueError(f"{field}={given!r}: expected a tuple with one or more of {possible}")
