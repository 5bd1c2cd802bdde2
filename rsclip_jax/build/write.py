"""Rows to a TFDS data set, the same as `rsclip_jax.prepare` writes; its shards are workers' work.

A record's place follows from the SHA-256 of its id, so that the same rows make the same data set,
whoever wrote which shard.
"""

import base64
import collections
import hashlib
import json
import os
import pickle
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
from array_record.python import array_record_module

from rsclip_jax import atomic
from rsclip_jax.build import files
from rsclip_jax.build.chance import digest
from rsclip_jax.build.rows import Row
from rsclip_jax.build.runners import Progress, Runner
from rsclip_jax.build.shuffle import GroupByKey
from rsclip_jax.build.stages import ReadRows, StageError, Table, failure
from rsclip_jax.data import records
from rsclip_jax.data.image_check import inspect_image, shrink
from rsclip_jax.data.ingest import Outcome
from rsclip_jax.data.schema import LIST_FIELDS, serialize
from rsclip_jax.data.summary import Summary

_GUESS = 100_000  # bytes of an image that nobody has measured
_USED = ("id", "image", "ir", "label", "source", "split", *LIST_FIELDS, "sha256", "ir_sha256")
_MAX_PIXELS = 2**40  # sizes were checked before


def write_dataset(
    table: Table,
    output: str,
    name: str,
    runner: Runner,
    *,
    describe: Callable[[Mapping[str, Summary]], Mapping[str, str]],
    resize: int = 0,
    overwrite: bool = False,
    shard_bytes: int = records.SHARD_BYTES,
) -> str:
    """Write the rows of a table as OUTPUT/NAME/1.0.0, which appears complete or not at all.

    Args:
      describe: from what was written of each source (and, under "", of all) to files of text that
        are put beside the shards: name -> content.
      resize: shorter side in pixels of the images stored, 0 to keep the original bytes.

    Returns:
      The directory of the data set.

    Raises:
      StageError: an image cannot be read any more, or is not what it was when it was checked.
      FileExistsError, DatasetBusyError: see `records.DatasetWriter`.
    """
    if not files.is_local(output):
        raise ValueError(
            f"--config.output={output}: the data set is written to a directory that this machine "
            "and the workers have mounted; copy it to the bucket afterwards"
        )
    shards = _shards(table, shard_bytes)
    with (
        atomic.writing(files.join(output, name)),
        records.DatasetWriter(
            output, name, description="Built by rsclip_jax.build.", overwrite=overwrite
        ) as writer,
    ):
        directory = str(writer.directory.absolute())
        notes_path = files.join(directory, "notes.json")
        scratch = files.join(directory, "shuffle")
        with (
            failure("write"),
            Progress("write", directory, len(table)),
            runner.pipeline("write", sum(shards.values()), scratch) as pipeline,
        ):
            (
                pipeline
                | "read" >> ReadRows(table.paths)
                | "place" >> beam.Map(_place, shards)
                | "shards" >> GroupByKey()
                | "write" >> beam.Map(_write_shard, directory, resize)
                | "all" >> beam.GroupByKey()
                | "commit" >> beam.Map(_commit, notes_path)
            )
        if not files.exists(notes_path):
            raise StageError("stage write: no row is left, there is nothing to write")
        notes = sorted(json.loads(files.read_text(notes_path)), key=lambda note: note["shard"])
        os.remove(notes_path)
        summaries = {"": Summary(name)}
        for note in notes:
            # Pickled by the workers of this run, seconds ago.
            for source, part in pickle.loads(base64.b64decode(note["summaries"])).items():
                summaries.setdefault(source, Summary(source)).update(part)
                summaries[""].update(part)
        if summaries[""].records.total() != len(table):
            raise StageError(
                f"stage write: {summaries[''].records.total():,} records of {len(table):,} rows"
            )
        for split in sorted(shards):
            of = [note for note in notes if note["split"] == split]
            paths = [Path(note["path"]) for note in of]
            lengths = [note["length"] for note in of]
            writer.adopt(split, paths, lengths, sum(note["bytes"] for note in of))
        kept = {Path(note["path"]).name for note in notes}
        for left in Path(directory).iterdir():
            if left.name.startswith("shard-"):  # of bundles that were done again
                assert left.name not in kept  # those have their names by now
                left.unlink()
        numbers = json.dumps(summaries[""].as_dict(), indent=2)
        (writer.directory / "summary.json").write_text(numbers + "\n", encoding="utf-8")
        for file, text in describe(summaries).items():
            (writer.directory / file).write_text(text, encoding="utf-8")
    return str(Path(output) / name / records.VERSION)


def _shards(table: Table, shard_bytes: int) -> dict[str, int]:
    """Return split -> number of shards."""
    sizes: collections.Counter[str] = collections.Counter()
    for row in table.read(["split", "image_bytes"]):
        sizes[row["split"] or "train"] += row.get("image_bytes", _GUESS) + 1
    return {split: -(-size // shard_bytes) for split, size in sizes.items()}


def _place(row: Row, shards: dict[str, int]) -> tuple[str, Row]:
    split = row["split"] or "train"
    number = int.from_bytes(digest(row["id"])[:8], "big") * shards[split] >> 64
    return f"{split}-{number:05d}", {key: row[key] for key in _USED if key in row}


def _write_shard(element, directory: str, resize: int) -> tuple[int, dict[str, Any]]:
    place, rows = element
    split = place.rpartition("-")[0]
    summaries: dict[str, Summary] = {}
    path = files.join(directory, f"shard-{place}-{uuid.uuid4().hex}.unfinished")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")  # see records.py
    length = size = 0
    seen = set()
    for row in sorted(rows, key=lambda row: digest(row["id"])):
        if row["id"] in seen:
            raise ValueError(f"the id {row['id']!r} has several rows")
        seen.add(row["id"])
        image = _image(row, "image", "sha256", resize)
        ir = _image(row, "ir", "ir_sha256", resize) if row["ir"] else b""
        example = {field: row[field] for field in ("id", "label", "source", *LIST_FIELDS)}
        example |= {"image": image, "ir": ir}
        record = serialize(example)
        writer.write(record)
        outcome = Outcome("", 0, row["id"], "", split)
        outcome.size, outcome.remarks = inspect_image(image, _MAX_PIXELS)
        if ir:
            remarks = inspect_image(ir, _MAX_PIXELS)[1]
            outcome.remarks += [f"{remark} (infrared)" for remark in remarks]
        outcome.describe(example)
        summaries.setdefault(row["source"], Summary(row["source"])).add(outcome)
        length, size = length + 1, size + len(record)
    try:
        writer.close()  # Here at the latest it tells that the disk is full.
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    whole = path.removesuffix(".unfinished") + f"-{length}.array_record"
    os.rename(path, whole)
    packed = base64.b64encode(pickle.dumps(summaries)).decode()
    note = {"shard": place, "split": split, "path": whole, "length": length, "bytes": size}
    return 0, note | {"summaries": packed}


def _image(row: Row, field: str, digest: str, resize: int) -> bytes:
    try:
        data = files.read_image(row[field])
    except OSError as error:
        raise ValueError(f"row {row['id']!r}: its image can no longer be read: {error}") from error
    if digest in row and hashlib.sha256(data).hexdigest() != row[digest]:
        raise ValueError(
            f"row {row['id']!r}: {row[field]} has changed since it was checked; delete the tables "
            "of the stages to have it checked again"
        )
    return shrink(data, resize) if resize else data


def _commit(element, path: str) -> None:
    # A bundle may be done twice, and both files be there.
    notes = {note["shard"]: note for note in element[1]}
    files.write(path, json.dumps(list(notes.values())).encode())
