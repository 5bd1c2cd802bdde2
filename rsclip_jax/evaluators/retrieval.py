"""Image-text retrieval: recall at K in both directions, as numbers and as an evaluator."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rsclip_jax.data import images
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.examples import Examples
from rsclip_jax.evaluators.pictures import save_retrieval_picture
from rsclip_jax.evaluators.recall import (
    KS,
    Ranks,
    bootstrap,
    checked,
    oracle,
    recall_names,
    wrong_answers_ahead,
)
from rsclip_jax.evaluators.texts import (
    caption_groups,
    normalise,
    record_texts,
    tokenizer_for,
)


def retrieval_metrics(
    image_embeddings: ArrayLike,
    text_embeddings: ArrayLike,
    text_image_index: ArrayLike,
    ks: Sequence[int] = KS,
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

    Answers as similar (to 1e-6) as the best right one are in random order, and the result is the
    expectation over all orders: what a sort of similarities that leaves ties to chance finds on
    average. `retrieval_ranks(...).worst_case()` gives the recalls with the wrong ones first.

    Exact for any number of rows: the similarity matrix is computed in blocks.

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
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={tuple(ks)}: expected at least one K, each 1 or more")
    return retrieval_ranks(
        image_embeddings, text_embeddings, text_image_index, text_groups
    ).metrics(ks)


def retrieval_ranks(
    image_embeddings: ArrayLike,
    text_embeddings: ArrayLike,
    text_image_index: ArrayLike,
    text_groups: ArrayLike | None = None,
) -> Ranks:
    """Return what `retrieval_metrics` and `recall.bootstrap` are computed from; see the former."""
    zimg = checked("image_embeddings", image_embeddings)
    ztxt = checked("text_embeddings", text_embeddings)
    if zimg.shape[1] != ztxt.shape[1]:
        raise ValueError(
            "image_embeddings and text_embeddings must have the same width, got "
            f"{zimg.shape} and {ztxt.shape}"
        )
    image = _image_index(text_image_index, len(zimg), len(ztxt))
    text = np.arange(len(ztxt))
    if text_groups is not None:
        ztxt, image, text = _merge(ztxt, image, np.asarray(text_groups))
    owner = image[np.unique(text, return_index=True)[1]]
    return Ranks(
        ("i2t", "t2i"), "mean_recall", *wrong_answers_ahead(zimg, ztxt, image, text), owner
    )


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


FIELDS = {"short": "text", "long": "text_long"}
# What each protocol puts before its metrics' names, and what it says of itself.
PROTOCOLS = {
    "any": (
        "",
        "any of an image's captions counts, equal captions of other images do not; searched among "
        "all images, and all captions",
    ),
    "multi": (
        "multi_",
        "equal captions are merged, all their images count; searched among all images, and the "
        "merged captions",
    ),
    "skyscript": (
        "skyscript_",
        'SkyScript: captions begin with "a satellite image. ", equal ones are merged, all their '
        "images count; searched among all images, and the merged captions",
    ),
}
SKYSCRIPT_PREFIX = "a satellite image. "
TIES = (
    "equal similarities (to 1e-6), such as those of repeated captions, are in random order: the "
    "numbers are the expectation over all orders, those named worst have every wrong answer of a "
    "tie first"
)
# Of images alone.
IMAGE_TIES = TIES.replace(", such as those of repeated captions,", "")


class Retrieval:
    """Evaluator `{"type": "retrieval", "data": ..., "split": ..., ...}`.

    Metrics, in percent: `i2t_R@K`, `t2i_R@K` (K = 1, 5, 10) and `mean_recall`; those of long
    captions begin with `long_`, those of other protocols than "any" with their names
    (`long_multi_i2t_R@1`). Where ties change a number, those of their worst order follow
    (`multi_worst_i2t_R@1`). See `retrieval_metrics`. Numbers of different protocols must not be
    compared.

    Args:
      config: the whole configuration; data directory, tokenizer, token lengths and
        `input.long_caption` are read from it.
      encoder: what embeds images and texts.
      data, split: a data set with captions.
      texts: "short", all captions of an image at `config.input.lengths.text` tokens; "long", its
        long captions, or one composed of its captions, at `config.input.lengths.text_long`.
      protocols: "any", the papers' own; "multi", equal captions (up to case and white space) of
        other images count as right; "skyscript", SkyScript's and FarSLIP's.
      limit: only the first so many records; 0 for all.
    """

    protocol = "any"  # of the rows that name none

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        texts: Sequence[str] = ("short", "long"),
        protocols: Sequence[str] = ("any", "multi"),
        limit: int = 0,
    ):
        _choose("texts", texts, tuple(FIELDS))
        _choose("protocols", protocols, tuple(PROTOCOLS))
        self._protocols = tuple(protocols)
        self.metrics = tuple(
            f"{'long_' * (kind == 'long')}{PROTOCOLS[protocol][0]}{metric}"
            for kind in texts
            for protocol in protocols
            for metric in (
                *(*recall_names("i2t", "t2i"), "mean_recall"),
                *(("i2t_mean", "t2i_mean") if protocol == "skyscript" else ()),
            )
        )
        self._encoder = encoder
        self._long_caption = config.input.get("long_caption", "auto")
        self._lengths = {kind: config.input.lengths.get(FIELDS[kind]) for kind in texts}
        self._tokenizers = {kind: tokenizer_for(config, FIELDS[kind]) for kind in texts}
        self._examples = Examples(config, encoder, data, split, limit=limit)
        for kind in texts:  # fail before the training, not at its first evaluation
            self._record_texts(kind, self._examples.source[0])
        self._texts: dict[tuple[str, str], _Texts] = {}  # by kind and prefix
        self._composed = 0
        self._latest: tuple[np.ndarray, np.ndarray] | None = None
        self._ranks: dict[str, Ranks] = {}

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics."""
        (zimg,) = self._examples.embed(params, "image")
        self._read_texts()
        ztxt: dict[tuple[str, str], np.ndarray] = {}
        self._ranks = {}
        for key, texts in self._texts.items():
            ztxt[key] = self._encoder.text(params, texts.ids)
        for kind, protocol in itertools.product(self._tokenizers, self._protocols):
            key = (kind, _prefix(protocol))
            texts = self._texts[key]
            groups = None if protocol == "any" else texts.groups
            ranks = retrieval_ranks(zimg, ztxt[key], texts.image_index, groups)
            name = ("long_" if kind == "long" else "") + PROTOCOLS[protocol][0]
            self._ranks[name] = ranks
            found = ranks.metrics()
            for metric, value in (found | ranks.worst_case()).items():
                yield name + metric, value
            if protocol == "skyscript":  # what FarSLIP's tables show
                for side in ranks.names:
                    mean = np.mean([found[f"{side}_R@{k}"] for k in KS])
                    yield f"{name}{side}_mean", float(mean)
        self._latest = (zimg, next(iter(ztxt.values())))

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        lines = []
        for kind, length in self._lengths.items():
            texts = self._texts[kind, _prefix(self._protocols[0])]
            distinct = len(np.unique(caption_groups(texts.captions)))
            some = kind == "long" and self._composed
            composed = f"; {self._composed:,} composed of short ones" if some else ""
            lines.append(
                f"{self._examples.name}: {len(self._examples):,} images, {len(texts.captions):,} "
                f"{kind} captions, {distinct:,} of them distinct; {texts.cut or 'none'} cut at "
                f"{length} tokens{composed}"
            )
        return [*lines, *(f"{name}: {PROTOCOLS[name][1]}" for name in self._protocols), TIES]

    def details(self) -> dict[str, Any]:
        """Return what a report says beside the metrics of the latest run."""
        found: dict[str, Any] = {"size": len(self._examples), "intervals": {}, "oracle": {}}
        for kind in self._lengths:
            texts = self._texts[kind, _prefix(self._protocols[0])]
            groups = caption_groups(texts.captions)
            if "any" in self._protocols and len(np.unique(groups)) < len(texts.captions):
                best = oracle(texts.image_index, groups)
                name = "long_" if kind == "long" else ""
                found["oracle"] |= {name + metric: value for metric, value in best.items()}
        for name, ranks in self._ranks.items():
            intervals = bootstrap([ranks])
            found["intervals"] |= {name + metric: ends for metric, ends in intervals.items()}
        return found

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

    def _read_texts(self) -> None:
        """Collect and tokenise the texts, once."""
        if self._texts:
            return
        lines = {
            kind: [self._record_texts(kind, record) for record in self._examples.records]
            for kind in self._tokenizers
        }
        taken = self._long_caption != "compose"
        self._composed = sum(not (taken and r["long_captions"]) for r in self._examples.records)
        prefixes = dict.fromkeys(map(_prefix, self._protocols))
        self._texts = {
            (kind, prefix): _Texts(lines[kind], tokenizer, prefix)
            for kind, tokenizer in self._tokenizers.items()
            for prefix in prefixes
        }


class _Texts:
    """The texts of one kind of all images, flat; `cut` of them are longer than the model reads."""

    def __init__(self, by_image: list[list[str]], tokenizer: Any, prefix: str):
        self.captions = [prefix + line for lines in by_image for line in lines]
        self.image_index = np.repeat(np.arange(len(by_image)), [len(lines) for lines in by_image])
        self.groups = caption_groups(self.captions, str if prefix else normalise)
        self.ids = tokenizer(self.captions)
        self.cut = int((tokenizer.lengths(self.captions) > self.ids.shape[1]).sum())


def _prefix(protocol: str) -> str:
    return SKYSCRIPT_PREFIX if protocol == "skyscript" else ""


def _choose(field: str, given: Sequence[str], possible: tuple[str, ...]) -> None:
    if isinstance(given, str) or not given or set(given) - set(possible):
        raise ValueError(f"{field}={given!r}: expected a tuple with one or more of {possible}")
