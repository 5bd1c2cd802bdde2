"""Data sets of records (`schema.py`), written and read as TFDS ArrayRecord shards.

A data set lives in DATA_DIR/NAME/1.0.0/. `tfds.builder_from_directory` opens it too; nothing here
needs TensorFlow.
"""

import bisect
import contextlib
import difflib
import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf.message import DecodeError

from rsclip_jax import atomic, host
from rsclip_jax.data.schema import FIELDS, check_name, features, parse, serialize

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20


class DatasetBusyError(RuntimeError):
    """Two processes write the same data set."""


class _SplitWriter:
    """Writes the shards of one split; no shard grows much beyond `shard_bytes`."""

    def __init__(self, template: tfds.core.ShardedFileTemplate, shard_bytes: int):
        self._template = template
        self._shard_bytes = shard_bytes
        self._writer: array_record_module.ArrayRecordWriter | None = None
        self._open_bytes = 0
        self._lengths: list[int] = []
        self._bytes = 0

    def _unfinished_path(self, index: int) -> Path:
        # The name proper tells how many shards there are, which is known at the end only.
        return Path(self._template.data_dir) / f"{self._template.split}-{index:05d}.unfinished"

    def write(self, serialized: bytes) -> None:
        if self._writer is None:
            path = self._unfinished_path(len(self._lengths))
            # Random access costs one read per record only with one record per group.
            self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            self._lengths.append(0)
            self._open_bytes = 0
        self._writer.write(serialized)
        self._lengths[-1] += 1
        self._open_bytes += len(serialized)
        self._bytes += len(serialized)
        if self._open_bytes >= self._shard_bytes:
            self._close_shard()

    def adopt(self, shards: Sequence[Path], lengths: Sequence[int], size: int) -> None:
        for index, path in enumerate(shards):
            path.rename(self._unfinished_path(index))
        self._lengths, self._bytes = list(lengths), size

    def _close_shard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()  # Here at the latest it tells that the disk is full.
            except RuntimeError as error:
                raise OSError(f"cannot write a shard of {self._template.split}: {error}") from error

    def close(self) -> tfds.core.SplitInfo:
        """Finish the last shard and give all of them their names."""
        self._close_shard()
        count = len(self._lengths)
        for index in range(count):
            path = self._template.sharded_filepath(shard_index=index, num_shards=count)
            check_shard(self._unfinished_path(index), self._lengths[index])
            self._unfinished_path(index).rename(path)
        return tfds.core.SplitInfo(
            name=self._template.split,
            shard_lengths=self._lengths,
            num_bytes=self._bytes,
            filename_template=self._template,
        )

    def abandon(self) -> None:
        """Let go of the shard being written, whose data are thrown away."""
        with contextlib.suppress(OSError):
            self._close_shard()


class DatasetWriter:
    """Write a data set atomically: OUTPUT/NAME appears, complete, when the `with` block ends.

    Until then everything lies in the hidden sibling OUTPUT/.NAME.incomplete. An exception removes
    it; what a killed process left is removed by the next writer.

    Args:
      output: directory of the data sets; made if absent.
      name: letters, digits, underscores.
      description: one line kept in the data set's dataset_info.json.
      overwrite: replace an existing OUTPUT/NAME (only when the new one is complete).
      shard_bytes: a shard is closed once it holds as many bytes.

    Raises:
      ValueError: impossible name. FileExistsError: OUTPUT/NAME exists and `overwrite` is False.
      DatasetBusyError: another process is writing the same data set at this moment.
    """

    def __init__(
        self,
        output: str | os.PathLike,
        name: str,
        *,
        description: str = "",
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ):
        check_name("data set", name)
        self._name = name
        self._description = description
        self._overwrite = overwrite
        self._shard_bytes = shard_bytes
        self._output = Path(output)
        self._final = self._output / name
        self._temporary = self._output / f".{name}.incomplete"
        self._replaced = self._output / f".{name}.replaced"
        self._splits: dict[str, _SplitWriter] = {}
        self._lock: int | None = None
        check_absent(output, name, overwrite)

    @property
    def directory(self) -> Path:
        """Where the files of the data set lie until it is complete; more may be put beside them."""
        return self._temporary / VERSION

    def __enter__(self) -> "DatasetWriter":
        self._output.mkdir(parents=True, exist_ok=True)
        self._temporary.mkdir(exist_ok=True)
        self._lock = os.open(self._temporary, os.O_RDONLY)
        try:
            # The lock dies with the process, so a leftover is told from a data set in the making.
            host.lock(self._lock, self._output)
        except BlockingIOError:
            os.close(self._lock)
            raise DatasetBusyError(
                f"another process is writing {self._final} at this moment"
            ) from None
        self._recover()
        for leftover in self._temporary.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self.directory.mkdir()
        return self

    def _recover(self) -> None:
        """Undo or finish a replacement that was cut off between its two renames."""
        if self._replaced.exists():
            if self._final.exists():
                shutil.rmtree(self._replaced)
            else:
                self._replaced.rename(self._final)

    def write(self, split: str, serialized: bytes) -> None:
        """Append one record, encoded by `serialize`, to a split."""
        if split not in self._splits:
            check_name("split", split)
            self._splits[split] = _SplitWriter(self._template(split), self._shard_bytes)
        self._splits[split].write(serialized)

    def _template(self, split: str) -> tfds.core.ShardedFileTemplate:
        return tfds.core.ShardedFileTemplate(
            data_dir=self.directory,
            dataset_name=self._name,
            split=split,
            filetype_suffix="array_record",
        )

    def adopt(self, split: str, shards: Sequence[Path], lengths: Sequence[int], size: int) -> None:
        """Make a split of shards that others have written into `directory`, in this order.

        Args:
          lengths: number of records in each.
          size: bytes of all records.
        """
        check_name("split", split)
        self._splits[split] = _SplitWriter(self._template(split), self._shard_bytes)
        self._splits[split].adopt(shards, lengths, size)

    def __exit__(self, kind, error, trace) -> None:
        assert self._lock is not None  # since `__enter__`
        committed = False
        try:
            if kind is None:
                self._commit()
                committed = True
        finally:
            for split in self._splits.values():
                split.abandon()
            if not committed:
                shutil.rmtree(self._temporary, ignore_errors=True)
            os.close(self._lock)

    def _commit(self) -> None:
        if not self._splits:
            raise ValueError(f"no record was written to {self._final}: there is nothing to keep")
        infos = [self._splits[split].close() for split in sorted(self._splits)]
        identity = tfds.core.dataset_info.DatasetIdentity(
            name=self._name,
            version=tfds.core.Version(VERSION),
            data_dir=str(self.directory),
            module_name="rsclip_jax.data.records",
        )
        info = tfds.core.DatasetInfo(
            builder=identity, description=self._description, features=features()
        )
        info.set_file_format("array_record")
        info.set_splits(tfds.core.splits.SplitDict(infos))
        info.write_to_directory(self.directory)
        for path in [*self.directory.iterdir(), self.directory]:
            _sync(path)
        check_absent(self._output, self._name, self._overwrite)
        if self._final.exists():
            self._final.rename(self._replaced)
        self._temporary.rename(self._final)
        _sync(self._output)
        shutil.rmtree(self._replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file or directory to disk, so that the rename cannot outrun its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_absent(output: str | os.PathLike, name: str, overwrite: bool) -> None:
    """Raise FileExistsError if data set OUTPUT/NAME exists and may not be replaced."""
    if (Path(output) / name).exists() and not overwrite:
        raise FileExistsError(
            f"{Path(output) / name} exists already; choose another name or output directory, or "
            "replace it with --overwrite (overwrite=True from Python)"
        )


def write_dataset(
    output: str | os.PathLike,
    name: str,
    examples_by_split: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    description: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a data set from records in memory or drawn from iterators, and return its directory.

    Args:
      examples_by_split: split name -> records (see `serialize`), consumed one at a time.
      output, name, description, overwrite: see `DatasetWriter`.

    Raises:
      ValueError: no record at all, an empty split, or an id that appears twice.
    """
    seen: set[str] = set()
    with (
        atomic.writing(Path(output) / name),
        DatasetWriter(output, name, description=description, overwrite=overwrite) as writer,
    ):
        for split, examples in examples_by_split.items():
            count = len(seen)
            for example in examples:
                if example.get("id") in seen:
                    raise ValueError(f"record id {example['id']!r} appears twice in {name!r}")
                writer.write(split, serialize(example))
                seen.add(example["id"])
            if len(seen) == count:
                raise ValueError(f"split {split!r} of {name!r} has no record")
    return Path(output) / name / VERSION


class BadRecordError(ValueError):
    """A record that cannot be read or used.

    Grain's worker processes pass this class on, so that `errors.told` knows it for a user's error.
    """


class RecordSource:
    """Random access to the records of one split: `len(source)`, `source[i]` -> dict (see above).

    Picklable (Grain sends it to worker processes) and safe to read from several threads.

    Args:
      shards: (path, first record, number of records) of each file in order.
      title: what error messages call it.
    """

    def __init__(self, shards: Sequence[tuple[str, int, int]], title: str):
        self._shards = list(shards)
        self._ends = list(itertools.accumulate(count for _, _, count in self._shards))
        self._title = title
        self._open_readers()

    def _open_readers(self) -> None:
        self._readers: list = [None] * len(self._shards)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self._title}, which has {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        path, first, count = self._shards[shard]
        if self._readers[shard] is None:
            with self._lock:
                if self._readers[shard] is None:
                    self._readers[shard] = array_record_module.ArrayRecordReader(
                        path, "readahead_buffer_size:0"
                    )
        position = first + index - (self._ends[shard] - count)
        try:
            # As a range: read([position]) takes ten times as long, and longer in larger shards.
            return parse(self._readers[shard].read(position, position + 1)[0])
        except (RuntimeError, ValueError, LookupError, DecodeError) as error:
            raise BadRecordError(
                f"record {index:,} of {self._title} is damaged (number {position:,} in the shard "
                f"{path}): {error}"
            ) from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def overlaps(self, other: "RecordSource") -> bool:
        """Tell whether a record is in both, as in "train" and "train[:10%]"."""
        return any(
            mine == theirs and max(first, start) < min(first + count, start + length)
            for mine, first, count in self._shards
            for theirs, start, length in other._shards
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_ends": self._ends, "_title": self._title}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_readers()

    def __repr__(self) -> str:
        return f"RecordSource({self._title}, {len(self)} records)"


def open_source(data_dir: str | os.PathLike, name: str, split: str) -> RecordSource:
    """Open one split of a prepared data set.

    Args:
      data_dir: directory that holds the data sets.
      name: name of the data set.
      split: a split such as "train", or part of one in TFDS's notation: "train[:10%]".

    Raises:
      FileNotFoundError: no such data set, or a shard of it is missing.
      ValueError: no such split, a damaged shard, or a TFDS data set with another schema.
    """
    directory = _dataset_directory(data_dir, name)
    info = tfds.builder_from_directory(directory).info
    if missing := sorted(set(FIELDS) - set(info.features)):
        raise ValueError(
            f"{directory} is a TFDS data set, but its records lack {missing}; "
            f"prepare it with {_prepare_command(data_dir, name)}"
        )
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        draw = " (prepare --hold_out=val=0.1 draws one)" if split == "val" else ""
        raise ValueError(
            f"data set {name!r} in {data_dir} has no split {split!r}; it has "
            f"{', '.join(sorted(info.splits))}{draw}"
        ) from error
    for instruction in instructions:
        check_shard(Path(instruction.filename), instruction.examples_in_shard)
    shards = [(i.filename, i.skip, i.take) for i in instructions]
    return RecordSource(shards, f"{name}/{split}")


def check_shard(path: Path, length: int) -> None:
    """Raise FileNotFoundError or ValueError unless a shard is there with all its records."""
    if not path.exists():
        raise FileNotFoundError(f"shard {path} is missing: copy it again or prepare the data anew")
    found = 0
    if path.stat().st_size:
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()  # 0 for a truncated file, whose close() would raise
        if reader.ok():
            reader.close()
    if found != length:
        raise ValueError(
            f"shard {path} is damaged: it holds {found} records instead of {length} (a copy that "
            "was cut off?); copy it again or prepare the data anew"
        )


def dataset_fingerprint(data_dir: str | os.PathLike, name: str) -> str:
    """Return 16 hexadecimal digits that change when the data set does.

    Hashes dataset_info.json and the names and sizes of the shards, not their content: it takes
    milliseconds for any size.
    """
    directory = _dataset_directory(data_dir, name)
    digest = hashlib.sha256((directory / "dataset_info.json").read_bytes())
    for path in sorted(directory.glob("*.array_record-*")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()[:16]


def _dataset_directory(data_dir: str | os.PathLike, name: str) -> Path:
    directory = Path(data_dir) / name / VERSION
    if (directory / "dataset_info.json").exists():
        return directory
    if os.path.isfile(data_dir):
        raise FileNotFoundError(
            f"{os.fspath(data_dir)} is a file: expected the directory that holds the data set "
            f"{name!r}"
        )
    present = sorted(
        path.parents[1].name for path in Path(data_dir).glob(f"*/{VERSION}/dataset_info.json")
    )
    near = difflib.get_close_matches(name, present, n=1)
    raise FileNotFoundError(
        f"no data set {name!r} in {os.fspath(data_dir)!r}; there "
        + (f"are: {', '.join(present)}" if present else "is none")
        + (f" (did you mean {near[0]!r}?)" if near else "")
        + f". Make it with: {_prepare_command(data_dir, name)}"
    )


def _prepare_command(data_dir: str | os.PathLike, name: str) -> str:
    return (
        "python -m rsclip_jax.prepare --format=jsonl --input=CAPTIONS.jsonl --images=FOLDER "
        f"--output={os.fspath(data_dir)} --name={name}"
    )
