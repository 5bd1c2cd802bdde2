"""Zero-shot classification: class names in prompts, the nearest one wins."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators import prompts
from rsclip_jax.evaluators.examples import Examples
from rsclip_jax.evaluators.texts import tokenizer_for


class TextEncoder(Protocol):
    """What turns texts into embeddings."""

    def encode_text(self, texts: list[str], normalize: bool = True) -> ArrayLike:
        """Return [N, D]; `normalize=False`: as the text tower leaves them."""


def classifier_weights(
    clip: TextEncoder,
    class_names: Sequence[str],
    templates: Sequence[str] | str,
    normalize_each: bool = False,
) -> np.ndarray:
    """Make the weights of a zero-shot classifier.

    Args:
      clip: encodes the prompts.
      class_names: C names, put into the templates as they are.
      templates: T strings with "{}" where the name goes, or the name of a published list
        ("georsclip", "skyscript", "plain").
      normalize_each: False averages the embeddings of a class's prompts as the text tower leaves
        them, as GeoRSCLIP does (its inference_tool.py); True scales each to unit length first, as
        CLIP does.

    Returns:
      float32 [C, D], rows of length 1; the logits of images [N, D] are `zimg @ weights.T`.

    Raises:
      ValueError: no class, a template without "{}", embeddings that are not finite.
    """
    if not class_names:
        raise ValueError("class_names is empty: there is nothing to tell apart")
    patterns = prompts.templates(templates)
    texts = [pattern.replace("{}", name) for name in class_names for pattern in patterns]
    if "normalize" in inspect.signature(clip.encode_text).parameters:
        z = clip.encode_text(texts, normalize=False)
    else:
        z = clip.encode_text(texts)
    z_CxTxD = np.asarray(z, np.float64).reshape(len(class_names), len(patterns), -1)
    if normalize_each:
        z_CxTxD = z_CxTxD / np.linalg.norm(z_CxTxD, axis=2, keepdims=True)
    mean_CxD = z_CxTxD.mean(axis=1)
    weights = mean_CxD / np.linalg.norm(mean_CxD, axis=1, keepdims=True)
    if not np.isfinite(weights).all():
        raise ValueError(
            "the prompts' embeddings are zero, NaN or infinite; has training diverged?"
        )
    return weights.astype(np.float32)


def accuracies(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Compute the accuracies of a classifier, in percent.

    A tie counts as wrong: the right class ranks behind every class with an equal logit.

    Args:
      logits: [N, C].
      labels: [N] integers in [0, C).

    Returns:
      `top1`; `top5` where there are more than five classes; `mean_class`, the mean over the
      classes that occur of their own top-1 accuracy (mean per-class recall).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if not np.isfinite(logits).all():
        raise ValueError("the image embeddings hold NaN or infinity; has the training diverged?")
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = (logits >= own).sum(axis=1) - 1
    result = {"top1": float(np.mean(ahead < 1))}
    if logits.shape[1] > 5:
        result["top5"] = float(np.mean(ahead < 5))
    count = np.bincount(labels, minlength=logits.shape[1])
    right = np.bincount(labels, weights=ahead < 1, minlength=logits.shape[1])
    result["mean_class"] = float(np.mean(right[count > 0] / count[count > 0]))
    return {name: 100 * value for name, value in result.items()}


class ZeroShot:
    """Evaluator `{"type": "zero_shot", "data": ..., "split": ..., ...}`; metrics: `accuracies`.

    Args:
      config: the whole configuration; data directory and tokenizer are read from it.
      encoder: what embeds images and prompts.
      data, split: a labelled data set.
      templates: "georsclip" (105 prompts), "skyscript" (2), "plain" (1), or a tuple of templates.
      class_names: words for the classes; () takes the data set's labels, "_" and "/" turned into
        spaces, lower case. Otherwise the words of the sorted labels, one for each, or, in any
        order and with further classes among them, names that include every label.
      normalize_each: see `classifier_weights`.
      limit: only the first so many records; 0 for all. Without `class_names` the classes are those
        of the records that are read.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        templates: str | Sequence[str] = "georsclip",
        class_names: Sequence[str] = (),
        normalize_each: bool = False,
        limit: int = 0,
    ):
        self._templates = prompts.templates(templates)
        self._given_names = tuple(class_names)
        self._normalize_each = normalize_each
        self._encoder = encoder
        self._tokenizer = tokenizer_for(config, "text")
        self._examples = Examples(
            config.input.data_dir,
            data,
            split,
            image_size=encoder.image_size,
            batch_size=encoder.batch_size,
            limit=limit,
        )
        if not self._examples.source[0]["label"]:
            raise ValueError(f"the records of {self._examples.name} have no labels to predict")

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics, in percent."""
        labels: list[str] = []
        zimg = np.concatenate(list(self._encoder.image_stream(params, self._images(labels))))
        names, index = class_index(labels, self._given_names)
        weights = classifier_weights(
            _Side(self._encoder, params, self._tokenizer),
            names,
            self._templates,
            self._normalize_each,
        )
        yield from accuracies(zimg @ weights.T, index).items()

    def _images(self, labels: list[str]) -> Iterator[np.ndarray]:
        for batch in self._examples:
            for record_id, label in zip(batch["id"], batch["label"], strict=True):
                if not label:
                    raise ValueError(f"record {record_id!r} of {self._examples.name} has no label")
            labels += batch["label"]
            yield batch["image"]


def class_index(
    labels: Sequence[str], given_names: Sequence[str] = ()
) -> tuple[list[str], np.ndarray]:
    """Return the class names that go into the prompts and the class of each label, [N] integers.

    Raises:
      ValueError: `given_names` can be matched to the labels neither by name nor by number, or two
        classes have the same name.
    """
    present = sorted(set(labels))
    names = list(given_names) or [prompts.readable(label) for label in present]
    position = {prompts.readable(name): number for number, name in enumerate(names)}
    if len(position) < len(names):
        raise ValueError(f"two classes have the same name in {', '.join(names)}")
    if all(prompts.readable(label) in position for label in present):
        return names, np.array([position[prompts.readable(label)] for label in labels])
    if len(names) != len(present):
        raise ValueError(
            f"class_names has {len(names)} names for {len(present)} labels; give one for each of "
            f"{', '.join(present)}, in this order"
        )
    return names, np.searchsorted(present, labels)


class _Side:
    """The text side of an encoder with its parameters and tokenizer."""

    def __init__(self, encoder: Encoder, params: Any, tokenizer: Any):
        self._encoder, self._params, self._tokenizer = encoder, params, tokenizer

    def encode_text(self, texts: list[str], normalize: bool = True) -> np.ndarray:
        return self._encoder.text(self._params, self._tokenizer(texts), normalize=normalize)
