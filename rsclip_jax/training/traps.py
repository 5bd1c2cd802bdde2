"""Settings that run but probably do not do what the user wants; named before the first step."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from rsclip_jax.data import directions
from rsclip_jax.data.assemble import Source, from_config
from rsclip_jax.data.captions import LABEL_SENTENCE, TEXT_FIELDS, TextChoice
from rsclip_jax.data.records import BadRecordError
from rsclip_jax.data.schema import LIST_FIELDS
from rsclip_jax.data.text import make_tokenizer
from rsclip_jax.data.views import Augmentation
from rsclip_jax.training import fields
from rsclip_jax.training.step import compared_fields

LOOKED_AT = 64  # records of each data set, evenly spaced
FINE_TUNING_LR = 1e-5  # random weights hardly move below it


def traps(config: ConfigDict, sources: Mapping[str, Source], total_steps: int) -> Iterator[str]:
    """Yield a line for each setting of a resolved config that will hurt the run.

    Args:
      sources: the training data, see `pipeline.open_sources`.
      total_steps: of the run.
    """
    yield from fields.unusual(config)
    if config.warmup_steps >= total_steps:
        yield (
            f"config.warmup_steps={config.warmup_steps} of {total_steps} steps: the learning "
            f"rate never comes down from its rise to config.lr={config.lr:g}; set "
            f"--config.warmup_steps={total_steps // 10}"
        )
    if config.task != "clip":
        return
    batch = config.input.batch_size
    weights = dict(config.input.data)
    for name, source in sources.items():
        share = weights[name] / sum(weights.values())
        if batch * share > len(source):
            mixed = len(sources) > 1
            part = f", {batch * share:.0f} by weight" if mixed else ""
            lighter = f", or a smaller config.input.data.{name}" if mixed else ""
            yield (
                f"config.input.batch_size={batch}{part} of {len(source)} records in {name!r}: an "
                "image comes several times in a batch, which has fewer negatives (its own copies "
                f"are none); set --config.input.batch_size to {int(len(source) / share)} at most"
                f"{lighter}"
            )
    frozen = any(factor is None for _, factor in config.schedule)
    if not config.init_from and not frozen and config.lr < FINE_TUNING_LR:
        yield (
            f"config.lr={config.lr:g} is a rate of fine-tuning, but the weights are random "
            "(config.init_from is empty): name a trained model, --config.init_from=PATH, or set "
            "--config.lr=5e-4 or so"
        )
    yield from _of_records(config, sources)


def _of_records(config: ConfigDict, sources: Mapping[str, Source]) -> Iterator[str]:
    records = [
        record
        for source in sources.values()
        for index in range(0, len(source), -(-len(source) // LOOKED_AT))
        if (record := _read(source, index, config))
    ]
    seen = f"{len(records)} sampled records"
    compared = compared_fields(config)
    if "ir" in compared and not any(record["ir"] for record in records):
        yield (
            f"config.loss_pairs compares infrared images, but none of {seen} has one: these terms "
            "learn nothing; prepare the data with its infrared column or leave the terms out"
        )
    pairs = sum(bool(record["ir"]) for record in records)
    if "ir" not in compared and pairs:
        yield (
            f"{pairs} of {seen} have an infrared image, which training does not use: no pair "
            "of config.loss_pairs has 'ir' (configs/fusionrs.py trains on them)"
        )
    bare = sum(not record["captions"] for record in records)
    if bare and "text" in compared.values():
        yield (
            f"{bare} of {seen} have no caption: their text is {LABEL_SENTENCE.format('LABEL')!r}"
        )
    yield from _of_directions(config, records)
    choice = dataclasses.replace(from_config(TextChoice, config.input), caption="first")
    for field in sorted(set(TEXT_FIELDS) & set(compared.values())):
        length = config.input.lengths[field]
        texts = []
        for record in records:
            try:
                texts.append(choice.choose(record, field, [0.0] * choice.draws))
            except ValueError:
                continue  # the pipeline refuses such a record, and says why
        if cut := int((make_tokenizer(config.tokenizer, length).lengths(texts) > length).sum()):
            yield (
                f"config.input.lengths.{field}={length} tokens cut {cut} of {len(texts)} sampled "
                f"texts ({100 * cut / len(texts):.0f}%): the tokens behind are not learned"
            )


def _read(source: Source, index: int, config: ConfigDict) -> Mapping | None:
    """Read a record, None for a damaged one where training passes over some."""
    try:
        return source[index]
    except BadRecordError as error:
        if config.input.max_bad_records:
            return None
        raise BadRecordError(
            f"{error} (--config.input.max_bad_records=N passes over N such records)"
        ) from error


def _of_directions(config: ConfigDict, records: Sequence[Mapping]) -> Iterator[str]:
    augmentation = from_config(Augmentation, config.input)
    texts = [[text for field in LIST_FIELDS for text in record[field]] for record in records]
    named = [some for some in texts if any(map(directions.has_direction, some))]
    if not (named and augmentation.turns()):
        return
    stuck = sum(
        any(directions.turned(text, lambda way: (-way[1], way[0])) is None for text in some)
        for some in named
    )
    done = {
        "off": "flips and turns make them wrong; --config.input.augment_text=turn turns the words "
        "as well, =leave leaves such images as they are",
        "leave": "these are not flipped or turned (config.input.augment_text)",
        "turn": "flips and right angles turn the words as well (config.input.augment_text), "
        f"except where no words are sure: right angles leave {stuck} of these as they are",
    }
    yield (
        f"texts of {len(named)} of {len(records)} sampled records "
        f"({len(named) / len(records):.0%}) name a direction, such as left, upper or north: "
        f"{done[augmentation.augment_text]}"
    )
