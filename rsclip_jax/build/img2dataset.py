"""What img2dataset has fetched: its webdataset and files formats, read as they are.

A shard NNNNN has NNNNN.parquet with a row for every URL, fetched or not (key, url, status, ...),
and its images in NNNNN.tar, or in the directory NNNNN/. Without the Parquet file its JSON members
tell of the images that were fetched.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from rsclip_jax.build import files
from rsclip_jax.data.sources import InputError

_IMAGES = (".jpg", ".png", ".webp")
SUCCESS = "success"


def shards(directory: str) -> list[str]:
    """Return the shards in a directory: their paths without suffix.

    Raises:
      InputError: there is none.
    """
    stems = {
        os.path.splitext(path)[0]
        for path in files.list_files(directory)
        if path.endswith((".parquet", ".tar"))
    }
    if files.is_local(directory) and os.path.isdir(directory):
        stems |= {e.path for e in os.scandir(directory) if e.is_dir() and e.name.isdigit()}
    if not stems:
        raise InputError(
            f"{directory} holds no shards of img2dataset (00000.parquet with 00000.tar or 00000/)"
        )
    return sorted(stems)


def read_shard(shard: str) -> Iterator[dict[str, Any]]:
    """Yield what img2dataset tells of each URL, and `image`: a reference, "" if it was not fetched.

    Args:
      shard: path without suffix.
    """
    images: dict[str, str] = {}
    told: list[dict[str, Any]] = []
    if files.exists(f"{shard}.tar"):
        images, told = _read_tar(f"{shard}.tar", not files.exists(f"{shard}.parquet"))
    elif files.is_local(shard) and os.path.isdir(shard):
        images, told = _read_folder(shard, not files.exists(f"{shard}.parquet"))
    for row in _parquet_rows(f"{shard}.parquet") if files.exists(f"{shard}.parquet") else told:
        image = images.get(row.get("key", ""), "")
        yield row | {"image": image if row.get("status", SUCCESS) == SUCCESS else ""}


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    with files.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in parquet.schema_arrow.names if name != "jpg"]
        for batch in parquet.iter_batches(1000, columns=names):
            yield from batch.to_pylist()


def _read_tar(path: str, read_json: bool) -> tuple[dict[str, str], list[dict[str, Any]]]:
    images, told = {}, []
    try:
        with files.open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, suffix = os.path.splitext(member.name)
                if suffix in _IMAGES:
                    images[key] = files.reference(path, member.offset_data, member.size)
                elif suffix == ".json" and read_json:
                    content = tar.extractfile(member)
                    told.append({"key": key} | json.load(content) if content else {"key": key})
    except tarfile.TarError as error:
        raise InputError(f"{path} is damaged ({error}): fetch its shard again") from error
    return images, told


def _read_folder(path: str, read_json: bool) -> tuple[dict[str, str], list[dict[str, Any]]]:
    images, told = {}, []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        key, suffix = os.path.splitext(entry.name)
        if suffix in _IMAGES:
            images[key] = entry.path
        elif suffix == ".json" and read_json:
            with open(entry.path, encoding="utf-8") as file:
                told.append({"key": key} | json.load(file))
    return images, told
