"""What img2dataset has fetched: its webdataset and files formats, read as they are.

A shard NNNNN has NNNNN.parquet with a row for every URL, fetched or not (key, url, status, ...),
and its images in NNNNN.tar, or in the directory NNNNN/. Without the Parquet file its JSON members
tell of the images that were fetched.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsclip_jax.build import files
from rsclip_jax.build.rows import open_parquet
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tables import json_row
from rsclip_jax.data.tar_members import find_problem, read_members

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
    """Yield what img2dataset tells of each URL.

    With it come `image`, a reference, "" if it was not fetched or must not be read, and `problem`:
    why it must not, or why what is told is unreadable; "".

    Args:
      shard: path without suffix.
    """
    found = _Shard()
    has_table = files.exists(f"{shard}.parquet")
    if files.exists(f"{shard}.tar"):
        _read_tar(f"{shard}.tar", not has_table, found)
    elif files.is_local(shard) and os.path.isdir(shard):
        _read_folder(shard, not has_table, found)
    for row in _parquet_rows(f"{shard}.parquet") if has_table else found.told:
        key = row.get("key", "")
        image = found.images.get(key, "") if row.get("status", SUCCESS) == SUCCESS else ""
        problem = found.problems.get(key, "")
        yield row | {"image": "" if problem else image, "problem": problem}


@dataclasses.dataclass
class _Shard:
    """What lies in a shard, by key: references of images, problems; and the rows of its JSON."""

    images: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    told: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add_json(self, key: str, data: bytes) -> None:
        row = json_row(data.decode(errors="replace"))
        if isinstance(row, str):
            self.problems.setdefault(key, row)
            row = {}
        self.told.append(row | {"key": key})


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    with open_parquet(path) as parquet:
        names = [name for name in parquet.schema_arrow.names if name != "jpg"]
        for batch in parquet.iter_batches(1000, columns=names):
            yield from batch.to_pylist()


def _read_tar(path: str, read_json: bool, found: _Shard) -> None:
    wanted = (*_IMAGES, ".json") if read_json else _IMAGES
    places: dict[str, tuple[int, int]] = {}  # of the JSON, read after the headers
    with files.open_read(path) as file:
        for _, member in read_members(file, path):
            key, suffix = os.path.splitext(member.name)
            if suffix not in wanted:
                continue
            if problem := find_problem(member):
                found.problems[key] = problem
            if suffix in _IMAGES:
                found.images[key] = files.reference(path, member.offset_data, member.size)
            else:
                places[key] = member.offset_data, 0 if problem else member.size
        for key, (offset, size) in places.items():
            file.seek(offset)
            found.add_json(key, file.read(size))


def _read_folder(path: str, read_json: bool, found: _Shard) -> None:
    wanted = (*_IMAGES, ".json") if read_json else _IMAGES
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        key, suffix = os.path.splitext(entry.name)
        if suffix not in wanted:
            continue
        if not entry.is_file(follow_symlinks=False):
            found.problems[key] = "not a regular file, as img2dataset writes them: " + entry.name
        if suffix in _IMAGES:
            found.images[key] = entry.path
        else:
            data = b"" if key in found.problems else Path(entry.path).read_bytes()
            found.add_json(key, data)
