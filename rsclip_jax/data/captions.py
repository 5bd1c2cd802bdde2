"""Which of a record's texts a training sample is paired with."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsclip_jax.data import class_names

TEXT_FIELDS = ("text", "text_long", "text_ir")
CAPTION_CHOICES = ("random", "first")
LONG_CAPTION_CHOICES = ("auto", "record", "compose")
IR_TEXT_SOURCES = ("caption", "ir_caption", "mixed")
LABEL_SENTENCE = "a remote sensing image of {}"


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """How the texts of a batch are chosen from a record.

    A record without captions but with a label is captioned "a remote sensing image of LABEL", the
    label as words (`class_names.words`).

    Attributes:
      caption: "random" draws one of the record's texts, "first" takes the first.
      long_caption: where `text_long` comes from. "record": the record's long captions; "compose":
        its distinct captions joined, in random order with caption="random"; "auto": the record's
        long captions where there are any, else composed.
      ir_text_source: where `text_ir`, the text of the infrared image, comes from. "caption": it is
        `text`, and the batch has no field of its own for it; "ir_caption": the record's
        infrared-aware captions; "mixed": half of the time these, where there are any, else what
        `text` is.
      ir: whether the batch has infrared images, with a mask for records that have none.
      label_words: False leaves labels as they are written.
    """

    caption: str = "random"
    long_caption: str = "auto"
    ir_text_source: str = "ir_caption"
    ir: bool = False
    label_words: bool = True

    # How many random numbers `choose` needs, one for each field.
    draws = len(TEXT_FIELDS)

    def __post_init__(self):
        for field, choices in (
            ("caption", CAPTION_CHOICES),
            ("long_caption", LONG_CAPTION_CHOICES),
            ("ir_text_source", IR_TEXT_SOURCES),
        ):
            if (given := getattr(self, field)) not in choices:
                expected = " or ".join(f'"{choice}"' for choice in choices)
                raise ValueError(f"{field} is {given!r}: expected {expected}")

    def fields(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """Return which of `input.lengths` a training batch holds."""
        shared = self.ir_text_source == "caption"
        return {k: n for k, n in lengths.items() if not (shared and k == "text_ir")}

    def choose(self, record: Mapping[str, Any], field: str, draws: Sequence[float]) -> str:
        """Return the text of one record for one field of the batch.

        Args:
          record: see data/records.py.
          field: one of TEXT_FIELDS.
          draws: `TextChoice.draws` numbers, uniform in [0, 1).

        Raises:
          ValueError: the record has no such text.
        """
        draw = draws[TEXT_FIELDS.index(field)]
        if field == "text":
            return self._one_of(self._captions(record), draw)
        if field == "text_long":
            return self._long(record, draw)
        if self.ir_text_source == "mixed":
            if draw < 0.5 or not record["ir_captions"]:
                return self.choose(record, "text", draws)
            return self._one_of(record["ir_captions"], 2 * draw - 1)
        if record["ir_captions"]:
            return self._one_of(record["ir_captions"], draw)
        if self.ir and not record["ir"]:
            return ""  # `ir_mask` keeps it out of the loss.
        raise ValueError(
            'it has no infrared caption (field "ir_captions"), which input.lengths asks for '
            'with text_ir; input.ir_text_source="mixed" takes a caption then, "caption" always'
        )

    def _long(self, record: Mapping[str, Any], draw: float) -> str:
        if record["long_captions"] and self.long_caption != "compose":
            return self._one_of(record["long_captions"], draw)
        if self.long_caption == "record":
            raise ValueError(
                'it has no long caption (field "long_captions"); prepare the data with some, or '
                'set input.long_caption to "auto" or "compose" to join its short captions'
            )
        # `random`'s generator is made three times as fast as NumPy's.
        rng = random.Random(int(draw * 2**53)) if self.caption == "random" else None
        return compose_long(self._captions(record), rng)

    def _captions(self, record: Mapping[str, Any]) -> Sequence[str]:
        if record["captions"]:
            return record["captions"]
        if label := record["label"]:
            return (LABEL_SENTENCE.format(class_names.words(label) if self.label_words else label),)
        raise ValueError('it has neither captions nor a label (fields "captions" and "label")')

    def _one_of(self, texts: Sequence[str], draw: float) -> str:
        return texts[int(draw * len(texts))] if self.caption == "random" else texts[0]


def compose_long(
    captions: Sequence[str], rng: np.random.Generator | random.Random | None = None
) -> str:
    """Join the distinct captions of an image into one text, each as a sentence.

    Args:
      captions: those that differ only in case or in the stop at their end count as one.
      rng: shuffles the sentences; None keeps their order.

    Returns:
      The text; "" if there is no caption.
    """
    sentences: dict[str, str] = {}
    for caption in captions:
        bare = caption.strip().rstrip(". ")
        if bare:
            sentences.setdefault(bare.casefold(), bare if bare[-1] in "!?" else bare + ".")
    order = list(sentences.values())
    if rng is not None:
        rng.shuffle(order)
    return " ".join(order)
