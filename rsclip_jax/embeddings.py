"""Embeddings of a data set as Parquet shards with a card; an interrupted export continues.

A row is one embedding: `id`, `split`, `label` ("" if none), `caption` (the text it was made from;
null for images), `modality`, `vector` (L2-normalised, fixed-size list). A shard holds all rows of
some consecutive records. `card.json` beside the shards says what they were made with, and whether
all of them are there. The SHA-256 of each shard lies beside it, as `sha256sum --check` reads it.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from tqdm import tqdm

from rsclip_jax import atomic, distributed, host
from rsclip_jax.data import pipeline, records
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.texts import TEXT_FIELDS, record_texts, records_of, tokenizer_for

CARD = "card.json"
IMAGE_FIELDS = ("image", "ir")
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
KEY = b"rsclip_jax.export"  # in a shard's metadata: the fingerprint of what it is part of


def export_embeddings(
    encoder: Encoder,
    params: Any,
    config: Any,
    *,
    model: str,
    step: int,
    dataset: str,
    output: str | os.PathLike,
    splits: Sequence[str] = (),
    modalities: Sequence[str] = (),
    dtype: str = "float32",
    shard_size: int = 8192,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embed a data set and write it to OUTPUT; shards that are already there are kept.

    Every shard appears whole or not at all, and names in its metadata the parameters, data and
    settings it was made with; one that does not match is made again. Several processes share the
    shards out among them.

    Args:
      encoder, params, config: the model, its parameters and the configuration of its run; data
        directory, tokenizer, token lengths and `input.long_caption` are read from the latter.
      model: where the parameters come from, for the card.
      step: their training step.
      dataset: name of a prepared data set under `config.input.data_dir`.
      output: directory, for this export alone.
      splits: () for all of the data set.
      modalities: any of image, ir, text, text_long, text_ir; () for image and the text fields of
        `config.input.lengths`. A record without a modality gets no row of it.
      dtype: "float32" or "float16", of the vectors.
      shard_size: records (not rows) of a shard.
      overwrite: replace an export that was made otherwise.

    Returns:
      The card, as written to OUTPUT/card.json.

    Raises:
      FileNotFoundError: no such data set.
      ValueError: no such split, modality or dtype; or OUTPUT holds another export, which the
        message compares with this one.
    """
    modalities = tuple(modalities) or ("image", *config.input.lengths)
    possible = (*IMAGE_FIELDS, *TEXT_FIELDS)
    if unknown := [name for name in modalities if name not in possible]:
        raise ValueError(f"unknown modalities {unknown}: expected any of {', '.join(possible)}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size}: expected 1 or more records")
    tokenizers = {name: tokenizer_for(config, name) for name in modalities if name in TEXT_FIELDS}
    long_caption = config.input.get("long_caption", "auto")
    data_dir = config.input.data_dir
    fingerprint = records.dataset_fingerprint(data_dir, dataset)
    splits = tuple(splits) or _splits(data_dir, dataset)
    sources = {split: records.open_source(data_dir, dataset, split) for split in splits}
    if jax.process_count() > 1:
        encoder, params = encoder.on_own_devices(params)
    made_with = {
        "step": step,
        "params_sha256": params_digest(params),
        "dataset": dataset,
        "dataset_fingerprint": fingerprint,
        "splits": list(splits),
        "modalities": list(modalities),
        "dtype": dtype,
        "shard_size": shard_size,
        "image_size": encoder.image_size,
        "tokenizer": config.tokenizer,
        "lengths": {name: tokenizers[name].context_length for name in tokenizers},
        "long_caption": long_caption,
    }
    shards = list(_plan({split: len(source) for split, source in sources.items()}, shard_size))
    card = {
        "complete": False,
        "model": str(model),
        "made_with": made_with,
        "width": encoder.embed_dim,
        "normalized": True,
        "records": {split: len(source) for split, source in sources.items()},
        "shards": [name for name, *_ in shards],
        "config": config.to_dict(),
    }
    output = Path(output)
    first = jax.process_index() == 0
    with _alone(output) if first else contextlib.nullcontext():
        if first:
            _claim(output, card, overwrite)
        distributed.gather("claimed")  # the others wait for it
        digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
        schema = _schema(encoder.embed_dim, dtype, digest)
        own = shards[jax.process_index() :: jax.process_count()]
        written: list[tuple[str, dict[str, int]]] = []  # the rows of each shard, by modality
        with tqdm(
            total=sum(stop - start for *_, start, stop in own),
            unit=" records",
            desc=f"export {dataset}",
            disable=not first,
        ) as bar:
            for name, split, start, stop in own:
                counts = _finished(output / name, digest)
                if counts is None:
                    wanted = [field for field in modalities if field in IMAGE_FIELDS]
                    batches = _batches(encoder, sources[split], start, stop, wanted, bar)
                    columns = _embed(encoder, params, batches, wanted, tokenizers, long_caption)
                    counts = _write(output / name, schema, split, columns)
                else:
                    bar.update(stop - start)
                written.append((split, counts))
        rows = {split: dict.fromkeys(modalities, 0) for split in splits}
        for split, counts in itertools.chain.from_iterable(distributed.gather(written)):
            for modality, count in counts.items():
                rows[split][modality] += count
        for modality in modalities:
            if not any(counts[modality] for counts in rows.values()):
                logging.warning("%s: no record has %r, so it has no rows", dataset, modality)
        card |= {"complete": True, "rows": rows}
        if first:
            _write_card(output, card)
    return card


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep a second export out of a directory; a process that dies lets go of it.

    Raises:
      ValueError: another export is in it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w", encoding="utf-8") as file:
        try:
            host.lock(file, output)
        except BlockingIOError as error:
            raise ValueError(
                f"another process exports to {output}; give another --output"
            ) from error
        yield


def params_digest(params: Any) -> str:
    """Return the SHA-256 of all parameters: names, shapes, types and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _splits(data_dir: str, dataset: str) -> tuple[str, ...]:
    builder = tfds.builder_from_directory(Path(data_dir) / dataset / records.VERSION)
    return tuple(sorted(builder.info.splits))


def _plan(records_of_split: dict[str, int], size: int) -> Iterator[tuple[str, str, int, int]]:
    """Yield (file name, split, first record, end) of each shard."""
    for split, length in records_of_split.items():
        count = -(-length // size)
        for k in range(count):
            name = f"{split}-{k:05d}-of-{count:05d}.parquet"
            yield name, split, k * size, min((k + 1) * size, length)


def _claim(output: Path, card: dict[str, Any], overwrite: bool) -> None:
    """Make `output` the place of this export: new, or begun with the same `made_with`."""
    path = output / CARD
    if path.exists():
        old = _read_card(path) or card
        before, now = old["made_with"], card["made_with"]
        differing = [key for key in now if before.get(key) != now[key]]
        if differing and not overwrite:
            raise ValueError(
                f"{output} holds another export:\n"
                + "\n".join(f"  {k}: {before.get(k)} there, {now[k]} now" for k in differing)
                + "\nUse another --output, or replace it with --overwrite."
            )
        if differing:
            for name in old["shards"]:
                (output / name).unlink(missing_ok=True)
                _sum_path(output / name).unlink(missing_ok=True)
    elif strangers := sorted(p.name for p in output.glob("*.parquet")):
        raise ValueError(
            f"{output} holds Parquet files without a {CARD} ({strangers[0]}, ...): use another "
            "--output"
        )
    _write_card(output, card)


def _read_card(path: Path) -> dict[str, Any] | None:
    """Return a card, None if it is damaged: each shard names what it is part of as well."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(card["made_with"], dict) and isinstance(card["shards"], list):
            return card
        raise ValueError("not as an export writes it")
    except (ValueError, KeyError, TypeError) as error:
        atomic.set_aside(path, error)
        return None


def _write_card(output: Path, card: dict[str, Any]) -> None:
    atomic.write(output / CARD, json.dumps(card, indent=2) + "\n")


def _schema(width: int, dtype: str, digest: str) -> pa.Schema:
    text = [(name, pa.string()) for name in ("id", "split", "label", "caption", "modality")]
    return pa.schema([*text, ("vector", pa.list_(DTYPES[dtype], width))], metadata={KEY: digest})


def _finished(path: Path, digest: str) -> dict[str, int] | None:
    """Return the rows by modality of a shard that is whole and made with the same; else None."""
    if not path.exists():
        return None
    known = _sum_path(path)
    line = f"{_sha256(path)}  {path.name}\n"
    if known.exists() and known.read_text(encoding="utf-8", errors="replace") != line:
        print(f"{path} is not what was written (its SHA-256 differs): it is made again")
        return None
    try:
        with pq.ParquetFile(path) as shard:
            if (shard.schema_arrow.metadata or {}).get(KEY) != digest.encode():
                return None
            counts = shard.read(["modality"]).column("modality").value_counts().to_pylist()
    except (OSError, pa.ArrowInvalid):  # cut off, and without a sum
        return None
    if not known.exists():
        print(f"{path} has no SHA-256 beside it: it is kept as it is, and gets one")
        atomic.write(known, line)
    return {item["values"]: item["counts"] for item in counts}


def _sum_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _batches(
    encoder: Encoder,
    source: records.RecordSource,
    start: int,
    stop: int,
    wanted: Sequence[str],
    bar: tqdm,
) -> Iterator[dict[str, Any]]:
    """Read records [start, stop) as `pipeline.eval_batches` does, counting them."""
    if not wanted:  # texts alone: nothing to decode
        for index in range(start, stop):
            yield {field: [value] for field, value in source[index].items()}
            bar.update()
        return
    for batch in pipeline.eval_batches(
        source,
        image_size=encoder.image_size,
        batch_size=encoder.batch_size,
        start=start,
        stop=stop,
        ir="ir" in wanted,
    ):
        yield batch
        bar.update(len(batch["id"]))


def _embed(
    encoder: Encoder,
    params: Any,
    batches: Iterable[dict[str, Any]],
    wanted: Sequence[str],
    tokenizers: dict[str, Any],
    long_caption: str,
) -> dict[str, tuple[list[dict[str, Any]], list[str | None], np.ndarray]]:
    """Embed the records of `batches`: modality -> (record, caption, vector) of each of its rows."""
    found: list[dict[str, Any]] = []
    images: dict[str, tuple[list, list]] = {name: ([], []) for name in wanted}
    for batch in batches:
        here = records_of(batch)
        found += here
        for name, (owners, vectors) in images.items():
            present = batch["ir_mask"] if name == "ir" else np.ones(len(here), bool)
            if present.any():
                owners += [record for record, p in zip(here, present, strict=True) if p]
                vectors.append(getattr(encoder, name)(params, batch[name][present]))
    columns: dict[str, tuple[list, list, np.ndarray]] = {
        name: (owners, [None] * len(owners), np.concatenate(vectors))
        for name, (owners, vectors) in images.items()
        if owners
    }
    for name, tokenizer in tokenizers.items():
        texts = [(r, t) for r in found for t in record_texts(r, name, long_caption)]
        if texts:
            owners, captions = map(list, zip(*texts, strict=True))
            columns[name] = (owners, captions, encoder.text(params, tokenizer(captions)))
    return columns


def _write(path: Path, schema: pa.Schema, split: str, columns: dict[str, Any]) -> dict[str, int]:
    """Write a shard whole; return its rows by modality."""
    kind = schema.field("vector").type
    tables = [schema.empty_table()]
    for modality, (owners, captions, vectors) in columns.items():
        dtype = np.float16 if kind.value_type == pa.float16() else np.float32
        flat = pa.array(vectors.astype(dtype).ravel())
        values = {
            "id": [record["id"] for record in owners],
            "split": [split] * len(owners),
            "label": [record["label"] for record in owners],
            "caption": captions,
            "modality": [modality] * len(owners),
            "vector": pa.FixedSizeListArray.from_arrays(flat, type=kind),
        }
        tables.append(pa.table(values, schema=schema))
    with atomic.replacing(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
        # Before the shard, which then has one whenever it is there.
        atomic.write(_sum_path(path), f"{_sha256(temporary)}  {path.name}\n")
    return {modality: len(owners) for modality, (owners, *_) in columns.items()}
