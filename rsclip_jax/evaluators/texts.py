"""Which texts of a record an evaluator or an export reads, and when two texts are the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rsclip_jax.data.captions import compose_long
from rsclip_jax.data.text import make_tokenizer

# Text field of a batch -> the record's field it is drawn from.
TEXT_FIELDS = {"text": "captions", "text_long": "long_captions", "text_ir": "ir_captions"}


def record_texts(record: Mapping[str, Any], field: str, long_caption: str = "auto") -> list[str]:
    """Return all texts of one record for one text field, in the record's order; none is [].

    Args:
      record: a dict with captions, long_captions, ir_captions.
      field: "text", "text_long" or "text_ir".
      long_caption: as `config.input.long_caption`: "record" takes the record's long captions,
        "compose" one text made of its distinct captions, "auto" the former where there are any.
    """
    texts = record[TEXT_FIELDS[field]]
    if field == "text_long":
        if long_caption == "compose" or (long_caption == "auto" and not texts):
            texts = [compose_long(record["captions"])]
    return [text for text in texts if text.strip()]


def records_of(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split the lists of a batch of `pipeline.eval_batches` into one dict for each record.

    Where the batch has infrared images, `ir` tells whether the record has one.
    """
    fields = ("id", "label", "captions", "long_captions", "ir_captions")
    columns = {field: batch[field] for field in fields}
    if "ir_mask" in batch:
        columns["ir"] = batch["ir_mask"].tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def tokenizer_for(config: Any, field: str) -> Any:
    """Make the tokenizer of a text field from `config.tokenizer` and `config.input.lengths`.

    Raises:
      ValueError: the model was configured without this field, or has another vocabulary.
    """
    lengths = config.input.lengths
    if field not in lengths:
        raise ValueError(
            f"config.input.lengths has no {field!r} (it has {', '.join(lengths) or 'nothing'}): "
            f"add it with its number of tokens, or do without the {TEXT_FIELDS[field]}"
        )
    tokenizer = make_tokenizer(config.tokenizer, lengths[field])
    model = config.get("model")
    if model and (tokenizer.vocab_size > model.vocab_size or tokenizer.eot_id != model.eot_id):
        raise ValueError(
            f"the model has {model.vocab_size:,} tokens and reads texts at token {model.eot_id}, "
            f"the tokenizer {config.tokenizer!r} has {tokenizer.vocab_size:,} and ends them with "
            f"{tokenizer.eot_id}: texts of this model cannot be encoded, only its images"
        )
    return tokenizer


def normalise(caption: str) -> str:
    """Return the caption without differences of case and white space."""
    return " ".join(caption.casefold().split())


def caption_groups(captions: Sequence[str], key: Callable[[str], str] = normalise) -> np.ndarray:
    """Return [M] integers, equal for captions that `key` makes equal."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key(c), len(numbers)) for c in captions], np.int64)
