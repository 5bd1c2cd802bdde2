"""Grouping by key. On the local runner it goes through files.

Beam's local runner holds what it groups in the memory of one process, about a kilobyte for each
small pair. Here workers write their pairs to files, cut into PARTS by a hash of the key, and what
Beam groups are the places of the parts; then a part at a time is read. Other runners group by their
own means.
"""

import collections
import os
import pickle
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

PARTS = 128  # a worker holds one of them at a time: of five million rows, 40,000
HELD = 16 * 2**20  # bytes that a worker gathers before it writes them
_PAIR = 150  # bytes of Python's for a pair

Place = tuple[str, str, int, int]  # tag, path, offset, size


class CoGroupByKey(beam.PTransform):
    """{tag: (key, value)} -> (key, {tag: values}), as Beam's own; keys are texts or numbers."""

    def expand(self, tagged):
        scratch = getattr(next(iter(tagged.values())).pipeline.runner, "scratch", "")
        if not scratch:
            return tagged | beam.CoGroupByKey()
        # Written before they are put together: the runner would hold them for that too.
        written = [
            pairs | f"write {tag}" >> beam.ParDo(_WriteParts(tag, scratch))
            for tag, pairs in tagged.items()
        ]
        return (
            written
            | beam.Flatten()
            | "parts" >> beam.GroupByKey()
            | "read" >> beam.FlatMap(_read_part, list(tagged))
        )


class GroupByKey(beam.PTransform):
    """(key, value) -> (key, values), as Beam's own; keys are texts or numbers."""

    def expand(self, pairs):
        return {"values": pairs} | CoGroupByKey() | beam.Map(_only_values)


def _only_values(element):
    return element[0], element[1]["values"]


def _part_of(key: str | int) -> int:
    if not isinstance(key, str | int):
        raise TypeError(f"key {key!r}: expected a text or a number")
    return zlib.crc32(str(key).encode(errors="surrogatepass")) % PARTS


class _WriteParts(beam.DoFn):
    """(key, value) -> (part, where pairs of it lie)."""

    def __init__(self, tag: str, directory: str):
        self._tag = tag
        self._directory = directory

    def start_bundle(self):
        self._parts: dict[int, list[tuple[str | int, bytes]]] = collections.defaultdict(list)
        self._size = 0

    def process(self, pair):
        key, value = pair
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._parts[_part_of(key)].append((key, data))
        self._size += len(data) + _PAIR
        if self._size >= HELD:
            yield from self._flush()

    def finish_bundle(self):
        for found in self._flush() if self._parts else ():
            yield WindowedValue(found, MIN_TIMESTAMP, [GlobalWindow()])

    def _flush(self) -> list[tuple[int, Place]]:
        places: list[tuple[int, Place]] = []
        path = os.path.join(self._directory, uuid.uuid4().hex)
        with open(path, "wb") as file:
            for part, pairs in self._parts.items():
                data = pickle.dumps(pairs, pickle.HIGHEST_PROTOCOL)
                places.append((part, (self._tag, path, file.tell(), len(data))))
                file.write(data)
        self.start_bundle()
        return places


def _read_part(element: tuple[int, Any], tags: list[str]) -> Iterator[tuple[Any, Any]]:
    groups: dict[str | int, list[tuple[str, bytes]]] = collections.defaultdict(list)
    for tag, path, offset, size in element[1]:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        for key, value in pickle.loads(data):  # written by a worker of this very pipeline
            groups[key].append((tag, value))
    for key, pairs in groups.items():
        found: dict[str, list] = {tag: [] for tag in tags}
        for tag, value in pairs:
            found[tag].append(pickle.loads(value))
        yield key, found
