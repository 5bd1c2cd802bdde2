"""The row: what is known of one sample while a data set is built.

A row is a plain dict with some of the FIELDS; what is not known is absent (None in Parquet). Images
are not in it but referred to (`files.read_image`), so that a row has about a kilobyte and can be
shuffled. Every row has the fields of BASE.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsclip_jax.build import files

Row = dict[str, Any]

# What every row has, and what it is where nothing is known.
BASE: dict[str, Any] = {
    "id": "",
    "image": "",  # reference; "": not fetched (yet)
    "ir": "",  # reference to the infrared image; "": none
    "captions": [],
    "long_captions": [],
    "ir_captions": [],
    "label": "",
    "source": "",  # the data set it comes from: laion2b, fmow, rsicd, ...
    "split": "",
    "url": "",
    "meta": "{}",  # JSON object of what the source tells besides: place, time, boxes, ...
}
_TEXT, _TEXTS, _NUMBER = pa.string(), pa.list_(pa.string()), pa.float64()
FIELDS: dict[str, pa.DataType] = {
    **{name: _TEXTS if value == [] else _TEXT for name, value in BASE.items()},
    # Image checks. Hashes are hexadecimal: SHA-256 of the bytes, 64-bit perceptual hash.
    "width": pa.int32(),
    "height": pa.int32(),
    "image_bytes": pa.int64(),  # of the image, and of the infrared one
    "sha256": _TEXT,
    "phash": _TEXT,
    "ir_sha256": _TEXT,
    "ir_phash": _TEXT,
    "embedding": pa.binary(),  # of the image: float16 [D]
    # Scores.
    "clip_score": _NUMBER,
    "detector_score": _NUMBER,
    "caption_scores": pa.list_(_NUMBER),  # of each caption with the image
    "long_caption_scores": pa.list_(_NUMBER),
    # Captioning: candidates best first, and JSON of where each text comes from.
    "candidates": _TEXTS,
    "candidate_scores": pa.list_(_NUMBER),
    "place": _TEXT,  # "City, Country" where the image was taken
    "places": _TEXTS,  # named in the captions
    "provenance": _TEXT,
}
SCHEMA = pa.schema(FIELDS)
DROPPED_SCHEMA = pa.schema({"id": _TEXT, "source": _TEXT, "reason": _TEXT})
_BATCH = 1000  # rows turned to Python at a time


def new_row(**fields: Any) -> Row:
    """Return a row with the fields given, and BASE for the others of it.

    Raises:
      ValueError: a field that no row has, or no id.
    """
    row = {name: [] if value == [] else value for name, value in BASE.items()} | fields
    check_row(row)
    return row


def check_row(row: Row) -> None:
    """Raise ValueError unless it has an id, all of BASE, and no field beyond FIELDS."""
    if unknown := sorted(set(row) - set(FIELDS)):
        raise ValueError(
            f"row {row.get('id')!r} has the unknown fields {unknown}: add them to FIELDS in "
            "rsclip_jax/build/rows.py, or put them into meta"
        )
    if missing := sorted(set(BASE) - set(row)):
        raise ValueError(f"row {row.get('id')!r} lacks {missing}: make rows with new_row")
    if not row["id"]:
        raise ValueError(f"a row of {row['source']!r} without id: {row!r:.200}")


def with_meta(row: Row, **more: Any) -> Row:
    """Return a row whose meta has the keys given besides its own."""
    meta = json.loads(row["meta"]) | more
    return row | {"meta": json.dumps(meta, ensure_ascii=False, sort_keys=True)}


def write_rows(path: str, rows: Sequence[Row]) -> None:
    """Write a Parquet file of rows, whole or not at all.

    Raises:
      ValueError: see `check_row`; or a value of the wrong type.
    """
    for row in rows:
        check_row(row)
    try:
        table = pa.Table.from_pylist(list(rows), SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a row among {rows[0]['id']!r}...: {error}") from error
    _write(path, table)


def write_dropped(path: str, dropped: Sequence[tuple[str, str, str]]) -> None:
    """Write a Parquet file of (id, source, reason)."""
    names = DROPPED_SCHEMA.names
    rows = [dict(zip(names, values, strict=True)) for values in dropped]
    _write(path, pa.Table.from_pylist(rows, DROPPED_SCHEMA))


def _write(path: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    files.write(path, buffer.getvalue())


def read_rows(path: str, fields: Sequence[str] | None = None) -> Iterator[Row]:
    """Read a Parquet file, a few rows at a time; what is not known of a row is absent from it.

    Args:
      fields: read no others; default: all.

    Raises:
      FileNotFoundError, ValueError: see `open_parquet`.
    """
    with open_parquet(path) as parquet:
        for batch in parquet.iter_batches(_BATCH, columns=list(fields) if fields else None):
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None}


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, which may show only where it is read.
    """
    with files.open_read(path) as file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise ValueError(
                f"{path} is damaged or no Parquet file ({error}): write or fetch it again"
            ) from error
