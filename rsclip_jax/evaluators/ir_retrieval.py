"""FusionRS's retrieval between infrared, RGB and text."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np

from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.examples import Examples
from rsclip_jax.evaluators.recall import Ranks, bootstrap, checked, wrong_answers_ahead
from rsclip_jax.evaluators.retrieval import TIES
from rsclip_jax.evaluators.texts import caption_groups, record_texts, records_of, tokenizer_for

FIELDS = {"caption": "text", "ir_caption": "text_ir"}


class IrRetrieval:
    """Evaluator `{"type": "ir_retrieval", "data": ..., "split": ..., "texts": ...}`.

    Metrics, in percent: `ir2t_R@K`, `t2ir_R@K` and their mean `text_mean`; `rgb2ir_R@K`,
    `ir2rgb_R@K` and their mean `pair_mean`; `mean_recall`, the mean of the two means, which is
    FusionRS's Mean R. K = 1, 5, 10. Captions with the same key (`caption_key`) are right for all
    their images, but stay in the gallery each; the infrared image of an RGB image is its own only.

    Args:
      config, encoder: see `evaluators.build`.
      data, split: a data set whose records all have an infrared image.
      texts: "caption", as published; "ir_caption", the infrared-aware ones; "none" for the pairs
        alone, which then are `mean_recall`'s whole.
      limit: only the first so many records; 0 for all.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        texts: str = "caption",
        limit: int = 0,
    ):
        if texts not in (*FIELDS, "none"):
            raise ValueError(f"texts={texts!r}: expected one of {', '.join(FIELDS)}, none")
        self._field = FIELDS.get(texts, "")
        self._encoder = encoder
        self._tokenizer = tokenizer_for(config, self._field) if self._field else None
        self._examples = Examples(config, encoder, data, split, limit=limit, ir=True)
        self._captions: list[str] = []
        self._owner: list[int] = []
        self._ranks: list[Ranks] = []
        self._check(self._examples.source[0])  # fail before the training, not within

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics."""
        self._captions, self._owner = [], []
        found: dict[str, list[np.ndarray]] = {"image": [], "ir": []}
        for batch in self._examples:
            self._collect(batch)
            found["image"].append(self._encoder.image(params, batch["image"]))
            found["ir"].append(self._encoder.ir(params, batch["ir"]))
        zrgb, zir = (checked(f"{name} embeddings", np.concatenate(z)) for name, z in found.items())
        same = np.arange(len(zir))
        pairs = wrong_answers_ahead(zrgb, zir, same, same)
        self._ranks = [Ranks(("rgb2ir", "ir2rgb"), "pair_mean", *pairs, same)]
        if self._tokenizer is not None:
            ztxt = checked("texts", self._encoder.text(params, self._tokenizer(self._captions)))
            owner = np.array(self._owner)
            right = _equal_pairs(owner, caption_groups(self._captions, caption_key))
            ranks = wrong_answers_ahead(zir, ztxt, *right)
            self._ranks.insert(0, Ranks(("ir2t", "t2ir"), "text_mean", *ranks, owner))
        means = []
        for one in self._ranks:
            metrics = one.metrics()
            yield from metrics.items()
            means.append(metrics[one.mean])
        yield "mean_recall", float(np.mean(means))

    def details(self) -> dict[str, Any]:
        """Return what a report says beside the metrics of the latest run."""
        keys = len(set(map(caption_key, self._captions)))
        texts = f", {len(self._captions):,} captions, {keys:,} of them distinct"
        intervals = bootstrap(self._ranks)
        return {
            "size": len(self._examples),
            "data": [
                f"{self._examples.name}: {len(self._examples):,} pairs"
                f"{texts if self._captions else ''}"
            ],
            "protocol": [
                "FusionRS: equal captions (NFKC, case, punctuation, white space apart) are right "
                "for all their images",
                TIES,
            ],
            "intervals": {"mean_recall": intervals[self._ranks[0].mean], **intervals},
        }

    def _collect(self, batch: dict[str, Any]) -> None:
        number = self._owner[-1] + 1 if self._owner else 0
        for record, there in zip(records_of(batch), batch["ir_mask"], strict=True):
            texts = self._check({**record, "ir": there})
            self._captions += texts
            self._owner += [number] * len(texts)
            number += 1

    def _check(self, record: dict[str, Any]) -> list[str]:
        """Return the captions of a record that has all it needs."""
        texts = record_texts(record, self._field) if self._field else []
        absent = [] if record["ir"] else ["infrared image"]
        if self._field and not texts:
            absent.append("caption")
        if absent:
            raise ValueError(
                f"record {record['id']!r} of {self._examples.name} has no {absent[0]}, which "
                "retrieval between infrared, RGB and text needs"
            )
        return texts


def caption_key(caption: str) -> str:
    """Return what FusionRS compares captions by: NFKC, case folded, words and digits alone."""
    folded = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", folded).split())


def _equal_pairs(owner: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all (image, text) pairs, each once, where the image has a text equal to this one."""
    group, image = np.unique(np.stack([groups, owner]), axis=1)  # sorted by the group
    first = np.searchsorted(group, groups)
    count = np.searchsorted(group, groups, side="right") - first
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return image[np.repeat(first, count) + place], np.repeat(np.arange(len(groups)), count)
