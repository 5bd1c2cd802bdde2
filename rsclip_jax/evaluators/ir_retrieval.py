"""FusionRS's retrieval between infrared, RGB and text."""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rsclip_jax.data import images
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.examples import Examples
from rsclip_jax.evaluators.pictures import save_pairs_picture
from rsclip_jax.evaluators.recall import (
    Ranks,
    bootstrap,
    checked,
    recall_names,
    wrong_answers_ahead,
)
from rsclip_jax.evaluators.retrieval import IMAGE_TIES, TIES
from rsclip_jax.evaluators.texts import caption_groups, record_texts, tokenizer_for

FIELDS = {"caption": "text", "ir_caption": "text_ir"}
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # weights of RGB in the late fusion; the rest is infrared's


class IrRetrieval:
    """Evaluator `{"type": "ir_retrieval", "data": ..., "split": ..., "texts": ...}`.

    Metrics, in percent: `ir2t_R@K`, `t2ir_R@K` and their mean `text_mean`; `rgb2ir_R@K`,
    `ir2rgb_R@K` and their mean `pair_mean`; `mean_recall`, the mean of the two means, which is
    FusionRS's Mean R. K = 1, 5, 10. Captions with the same key (`caption_key`) are right for all
    their images, but stay in the gallery each; the infrared image of an RGB image is its own only.
    Ties are as in `retrieval`: in random order, with their worst case as `worst_...`.

    With a `fusion_split` also `rgb2t_R@K`, `t2rgb_R@K`, `rgb_mean`, and `fused2t_R@K`,
    `t2fused_R@K`, `fused_mean` of the late fusion `normalise(a * zimg + (1 - a) * zir)`, whose a,
    one of `ALPHAS`, is `fused_alpha`. FusionRS describes them but has published no such number;
    they are no part of `mean_recall`.

    Args:
      config, encoder: see `evaluators.build`.
      data, split: a data set whose records all have an infrared image.
      texts: "caption", as published; "ir_caption", the infrared-aware ones; "none" for the pairs
        alone, which then are `mean_recall`'s whole.
      fusion_split: the split of `data` that chooses a, by the mean recall of fused images and
        texts; of equals the least. "none" leaves the fusion out.
      limit: only the first so many records of each split; 0 for all.
    """

    protocol = "fusionrs"

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        texts: str = "caption",
        fusion_split: str = "none",
        limit: int = 0,
    ):
        if texts not in (*FIELDS, "none"):
            raise ValueError(f"texts={texts!r}: expected one of {', '.join(FIELDS)}, none")
        self._field = FIELDS.get(texts, "")
        of_texts = (*recall_names("ir2t", "t2ir"), "text_mean") if self._field else ()
        of_pairs = (*recall_names("rgb2ir", "ir2rgb"), "pair_mean", "mean_recall")
        of_fusion = (
            *(*recall_names("rgb2t", "t2rgb"), "rgb_mean"),
            *(*recall_names("fused2t", "t2fused"), "fused_mean"),
        )
        self.metrics = (*of_texts, *of_pairs, *(of_fusion if fusion_split != "none" else ()))
        self._encoder = encoder
        self._tokenizer = tokenizer_for(config, self._field) if self._field else None
        self._examples = Examples(config, encoder, data, split, limit=limit, ir=True)
        self._validation: Examples | None = None
        if fusion_split != "none":
            if not self._field:
                raise ValueError(
                    f"fusion_split={fusion_split!r} with texts='none': images are fused to search "
                    "texts; give texts='caption', or fusion_split='none'"
                )
            self._validation = Examples(config, encoder, data, fusion_split, limit=limit, ir=True)
            if self._validation.source.overlaps(self._examples.source):
                raise ValueError(
                    f"fusion_split={fusion_split!r}, split={split!r}: the fusion would be chosen "
                    f"on records that it is then reported on; give another split of {data!r}"
                )
        for examples in filter(None, (self._examples, self._validation)):
            self._check(examples.source[0], examples.name)  # fail before the training, not within
        self._latest: _Embedded | None = None
        self._ranks: list[Ranks] = []
        self._fusion_ranks: list[Ranks] = []
        self._sweep: dict[float, float] = {}  # alpha -> mean recall on the validation split

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics."""
        z = self._embed(params, self._examples)
        self._latest = z
        same = np.arange(len(z.ir))
        pairs = wrong_answers_ahead(z.rgb, z.ir, same, same)
        self._ranks = [Ranks(("rgb2ir", "ir2rgb"), "pair_mean", *pairs, same)]
        if self._field:
            self._ranks.insert(0, z.ranks(z.ir, ("ir2t", "t2ir"), "text_mean"))
        means = []
        for one in self._ranks:
            metrics = one.metrics()
            yield from (metrics | one.worst_case()).items()
            means.append(metrics[one.mean])
        yield "mean_recall", float(np.mean(means))
        if self._validation is not None:
            yield from self._late_fusion(z, self._embed(params, self._validation))

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        captions = self._latest.captions if self._latest else []
        distinct = len(set(map(caption_key, captions)))
        texts = f", {len(captions):,} captions, {distinct:,} of them distinct" if captions else ""
        lines = [
            f"{self._examples.name}: {len(self._examples):,} pairs{texts}",
            "fusionrs: the infrared image of an RGB image is its own only; searched among all "
            "pairs",
        ]
        if captions:
            lines[1] += (
                " and all captions; equal captions (NFKC, case, punctuation, white space apart) "
                "are right for all their images"
            )
            lines.append(TIES)
        elif any(one.worst_case() for one in self._ranks):
            lines.append(IMAGE_TIES)
        if self._validation is None:
            return lines
        name, size, alpha = self._validation.name, len(self._validation), _best(self._sweep)
        listed = ", ".join(f"{a:g}: {value:.2f}" for a, value in self._sweep.items())
        return [
            *lines,
            f"late fusion: normalise(a * RGB + (1 - a) * infrared) with a = {alpha:g}, chosen on "
            f"{name} ({size:,} pairs) by the mean recall of fused images and texts ({listed})",
            "RGB and fused images with texts are no part of mean_recall, and FusionRS has "
            "published no number of theirs",
        ]

    def details(self) -> dict[str, Any]:
        """Return what a report says beside the metrics of the latest run.

        `fusion`, where there is one: the alpha, the split that chose it and its mean recalls there.
        """
        intervals = bootstrap(self._ranks)
        found: dict[str, Any] = {
            "size": len(self._examples),
            "intervals": {"mean_recall": intervals[self._ranks[0].mean], **intervals},
        }
        if self._validation is None:
            return found
        for one in self._fusion_ranks:
            found["intervals"] |= bootstrap([one])
        sweep = {f"{a:g}": value for a, value in self._sweep.items()}
        chosen = {"alpha": _best(self._sweep), "chosen_on": self._validation.name}
        return {**found, "fusion": {**chosen, "mean_recall": sweep}}

    def picture(self, path: str | os.PathLike) -> None:
        """Draw pairs of the latest run, found and missed, into a PNG file.

        Raises:
          RuntimeError: there has been no run.
        """
        if self._latest is None:
            raise RuntimeError("no retrieval to draw yet: call run(params) to its end first")

        def at(field: str) -> Callable[[int], np.ndarray]:
            return lambda index: images.decode(self._examples.source[index][field])

        z = self._latest
        save_pairs_picture(path, at("image"), at("ir"), z.rgb, z.ir, title=self._examples.name)

    def _late_fusion(self, z: "_Embedded", validation: "_Embedded") -> Iterator[tuple[str, float]]:
        names = ("fused2t", "t2fused")

        def fused(z: _Embedded, alpha: float) -> Ranks:
            return z.ranks(fuse(z.rgb, z.ir, alpha), names, "fused_mean")

        self._sweep = {a: fused(validation, a).metrics()["fused_mean"] for a in ALPHAS}
        alpha = _best(self._sweep)
        self._fusion_ranks = [z.ranks(z.rgb, ("rgb2t", "t2rgb"), "rgb_mean"), fused(z, alpha)]
        for one in self._fusion_ranks:
            yield from (one.metrics() | one.worst_case()).items()
        yield "fused_alpha", alpha

    def _embed(self, params: Any, examples: Examples) -> "_Embedded":
        captions: list[str] = []
        owner: list[int] = []
        zrgb, zir = examples.embed(params, "image", "ir")
        for number, record in enumerate(examples.records):
            texts = self._check(record, examples.name)
            captions += texts
            owner += [number] * len(texts)
        ztxt = None
        if self._tokenizer is not None:
            ztxt = checked("texts", self._encoder.text(params, self._tokenizer(captions)))
        return _Embedded(
            checked("image embeddings", zrgb),
            checked("ir embeddings", zir),
            ztxt,
            captions,
            np.array(owner, np.int64),
        )

    def _check(self, record: dict[str, Any], data: str) -> list[str]:
        """Return the captions of a record that has all it needs."""
        texts = record_texts(record, self._field) if self._field else []
        absent = [] if record["ir"] else ["infrared image"]
        if self._field and not texts:
            absent.append("caption")
        if absent:
            alone = "; texts='none' compares images alone" if record["ir"] else ""
            raise ValueError(
                f"record {record['id']!r} of {data} has no {absent[0]}, which "
                f"retrieval between infrared, RGB and text needs{alone}"
            )
        return texts


@dataclasses.dataclass(frozen=True)
class _Embedded:
    """The embeddings of a split: `rgb`, `ir` [N, D], `txt` [M, D], and `owner` [M] of the texts."""

    rgb: np.ndarray
    ir: np.ndarray
    txt: np.ndarray | None  # None where the pairs alone are asked for
    captions: list[str]
    owner: np.ndarray

    def ranks(self, z: np.ndarray, names: tuple[str, str], mean: str) -> Ranks:
        """Rank images [N, D] and texts among each other."""
        assert self.txt is not None
        right = _equal_pairs(self.owner, caption_groups(self.captions, caption_key))
        return Ranks(names, mean, *wrong_answers_ahead(z, self.txt, *right), self.owner)


def fuse(zrgb: np.ndarray, zir: np.ndarray, alpha: float) -> np.ndarray:
    """Return `alpha * zrgb + (1 - alpha) * zir` [N, D], scaled to length 1 (FusionRS)."""
    z = alpha * zrgb + (1 - alpha) * zir
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def _best(sweep: dict[float, float]) -> float:
    return max(sweep, key=lambda alpha: (sweep[alpha], -alpha))


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
