"""Zero-shot classification: class names in prompts, the nearest one wins."""

import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import ArrayLike

from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators import class_lists, prompts
from rsclip_jax.evaluators.class_index import class_index
from rsclip_jax.evaluators.confusion_picture import save_confusion_picture
from rsclip_jax.evaluators.examples import LabelledExamples
from rsclip_jax.evaluators.texts import tokenizer_for

SAID = 100  # classes that the log names


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
        (`prompts.json`: "georsclip", "skyscript", "plain", ...).
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


def confusion(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Count images by true class (row) and predicted class (column): integers [C, C].

    As in `accuracies`, a tie counts as wrong: one of the other classes is then the predicted one.
    """
    logits, labels = np.array(logits, np.float64), np.asarray(labels)
    rows, classes = np.arange(len(labels)), logits.shape[1]
    logits[rows, labels] = np.nextafter(logits[rows, labels], -np.inf)
    predicted = logits.argmax(axis=1)
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def wilson(percent: float, number: int) -> list[float]:
    """Return the 95 % Wilson interval [low, high] of a share in percent, seen in `number` draws."""
    p, z = percent / 100, 1.959964
    middle = (p + z * z / (2 * number)) / (1 + z * z / number)
    half = z * np.sqrt(p * (1 - p) / number + z * z / (4 * number**2)) / (1 + z * z / number)
    return [100 * float(middle - half), 100 * float(middle + half)]


class ZeroShot:
    """Evaluator `{"type": "zero_shot", "data": ..., "split": ..., ...}`; metrics: `accuracies`.

    Args:
      config: the whole configuration; data directory and tokenizer are read from it.
      encoder: what embeds images and prompts.
      data, split: a labelled data set; the split "all" is all of it.
      protocol: whose prompts, and whether they are scaled before they are averaged: "georsclip"
        (105), "skyscript" (2), "clip_eurosat", "clip_resisc45", "plain", "thermal" (3, worded for
        infrared images) (`prompts.json`). Numbers of different protocols must not be compared.
      modality: "image", or "ir": the infrared images of the records are classified.
      class_list: "labels" takes the data set's labels for class names, as words
        (`data.class_names.words`); a name of `class_lists`, such as "aid", the words published for
        that data set.
      class_names: own words in their place (see `class_index`): names that include every label, in
        any order and with further classes among them; one for each of the sorted labels; or, sure
        in any case, "LABEL=WORDS" for each label.
      label_words: False leaves the labels of class_list="labels" as they are written.
      templates: a tuple of own templates in place of the protocol's.
      limit: only the first so many records; 0 for all. The classes of "labels" are those of the
        records that are read.
    """

    metrics = ("top1", "top5", "mean_class")

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        protocol: str = "georsclip",
        modality: str = "image",
        class_list: str = "labels",
        class_names: Sequence[str] = (),
        label_words: bool = True,
        templates: Sequence[str] = (),
        limit: int = 0,
    ):
        published = prompts.templates(protocol)
        self._templates = prompts.templates(templates) if templates else published
        self._prompts = prompts.PROTOCOLS[protocol]
        self.protocol = "own templates" if templates else protocol
        if class_names and class_list != "labels":
            raise ValueError(f"class_list={class_list!r} and class_names: expected one of them")
        self._label_words = label_words
        self._given_names = class_list if class_list != "labels" else tuple(class_names)
        self._encoder = encoder
        self._tokenizer = tokenizer_for(config, "text")
        self._examples = LabelledExamples(
            config, encoder, data, split, modality=modality, limit=limit
        )
        first = self._examples.source[0]["label"]
        if class_list != "labels":  # an unknown list, or one of another data set
            class_lists.match(class_list, [first])
        elif not class_names:  # labels that are numbers
            class_index([first], (), label_words)
        self._names: list[str] = []
        self._confusion = np.zeros((0, 0), np.int64)
        self._metrics: dict[str, float] = {}

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics, in percent."""
        zimg, labels = self._examples.embeddings(params)
        known = self._names
        self._names, index = class_index(labels, self._given_names, self._label_words)
        if not known and jax.process_index() == 0:
            print(_named(self._examples.name, self._names, labels, index), flush=True)
        weights = classifier_weights(
            _Side(self._encoder, params, self._tokenizer),
            self._names,
            self._templates,
            self._prompts["normalize_each"],
        )
        logits = zimg @ weights.T
        self._confusion = confusion(logits, index)
        self._metrics = accuracies(logits, index)
        yield from self._metrics.items()

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        number, name, kind = self._confusion.sum(), self._examples.name, self._examples.kind
        own = self.protocol == "own templates"
        own_ones = f"{len(self._templates)} in the place of the next, averaged like them; "
        return [
            f"{name}: {number:,} {kind}, {len(self._names)} classes",
            f"{self.protocol}: {own_ones if own else ''}{self._prompts['source']}",
            "a class whose logit equals the right one's ranks before it",
        ]

    def details(self) -> dict[str, Any]:
        """Return what a report says beside the metrics of the latest run.

        `confusion` counts the images of each true class (row) by predicted class (column).
        """
        images = self._confusion.sum(axis=1)
        return {
            "size": int(images.sum()),
            "intervals": {
                name: wilson(self._metrics[name], int(images.sum()))
                for name in ("top1", "top5")
                if name in self._metrics
            },
            "class_names": self._names,
            "confusion": self._confusion.tolist(),
        }

    def picture(self, path: str | os.PathLike) -> None:
        """Draw the confusion matrix of the latest run into a PNG file."""
        title = f"{self._examples.name}, {self._examples.kind}"
        save_confusion_picture(path, self._names, self._confusion, title=title)


def _named(data: str, names: list[str], labels: list[str], index: np.ndarray) -> str:
    """Say what the prompts call the classes, and which labels that are written otherwise are."""
    own: dict[int, list[str]] = {}
    for label, place in sorted(set(zip(labels, index.tolist(), strict=True))):
        if label != names[place]:
            own.setdefault(place, []).append(label)
    said = [
        f"{x} ({', '.join(own[place])})" if place in own else x for place, x in enumerate(names)
    ]
    more = f", and {len(said) - SAID:,} more" if len(said) > SAID else ""
    return f"{data}: the prompts name {', '.join(said[:SAID])}{more}"


class _Side:
    """The text side of an encoder with its parameters and tokenizer."""

    def __init__(self, encoder: Encoder, params: Any, tokenizer: Any):
        self._encoder, self._params, self._tokenizer = encoder, params, tokenizer

    def encode_text(self, texts: list[str], normalize: bool = True) -> np.ndarray:
        return self._encoder.text(self._params, self._tokenizer(texts), normalize=normalize)
