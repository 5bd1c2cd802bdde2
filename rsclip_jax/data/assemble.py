"""Records -> arrays of a training batch: the part of the input pipeline that costs time."""

import bisect
import collections
import dataclasses
import math
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import numpy as np

from rsclip_jax.data import directions, images, views
from rsclip_jax.data.captions import TextChoice
from rsclip_jax.data.records import BadRecordError
from rsclip_jax.host import available_cores

Tokenizer = Callable[[list[str]], np.ndarray]

# Random numbers of a sample: those of its geometry, then those of its texts.
DRAWS = views.GEOMETRY_DRAWS + TextChoice.draws
# A thread takes so many samples at a time, fewer where a batch would not keep all threads busy.
_TASK_SAMPLES = 32


class Source(Protocol):
    """Random access to records: a `records.RecordSource`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class Assemble:
    """Make the batch of a step from the indices of its samples, in parallel.

    Index i belongs to the last source that starts at or before i. Picklable, for worker processes.

    Args:
      sources, input_config, image_size, tokenizers: see `pipeline.dataset_of_sources`.
      seed: of the random numbers.
      host_index, host_count: sample i of this host is sample i * host_count + host_index of the
        global batch.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        input_config: Mapping[str, Any],
        image_size: int,
        tokenizers: Mapping[str, Tokenizer],
        *,
        seed: int,
        host_index: int,
        host_count: int,
    ):
        self._names = list(sources)
        self._sources = list(sources.values())
        sizes = [len(source) for source in self._sources]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._image_size = image_size
        self._seed = seed
        self._host_index = host_index
        self._host_count = host_count
        self._ir = bool(input_config["ir"])
        self._ir_view = input_config["ir_view"]
        self._augmentation = from_config(views.Augmentation, input_config)
        # Of samples whose texts name a direction.
        self._of_directions = self._augmentation.of_directions()
        self._choice = from_config(TextChoice, input_config)
        self._lengths = self._choice.fields(input_config["lengths"])
        if missing := sorted(set(self._lengths) - set(tokenizers)):
            raise ValueError(f"input.lengths asks for {missing}, but no tokenizer was given for it")
        self._tokenizers = {field: tokenizers[field] for field in self._lengths}
        for field, length in self._lengths.items():
            if (shape := np.shape(self._tokenizers[field]([""]))) != (1, length):
                raise ValueError(
                    f"the tokenizer of {field!r} makes rows of {shape[1:]} tokens, but "
                    f"input.lengths asks for {length}"
                )
        cores = available_cores() // max(input_config["workers"], 1)
        self._threads = input_config["threads"] or max(cores, 1)
        self._most_bad = input_config.get("max_bad_records", 0)
        self._bad: set[int] = set()  # indices of records that are passed over
        self._make_pool()
        # A setting that does not go with the data should fail now, not in the middle of an epoch.
        self._assemble(self.starts, np.zeros((len(self.starts), DRAWS)))

    def _make_pool(self) -> None:
        self._lock = threading.Lock()
        self._images = _Recycled((self._image_size, self._image_size, 3))
        self._pool = futures.ThreadPoolExecutor(self._threads, thread_name_prefix="input")

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("_pool", "_images", "_lock")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_pool()

    def __call__(self, step: int, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the batch of a step: arrays [b, ...], row i from the sample with indices[i]."""
        rng = np.random.default_rng((self._seed, step))
        draws = rng.random((len(indices) * self._host_count, DRAWS))
        return self._assemble(indices, draws[self._host_index :: self._host_count])

    def _assemble(self, indices: Sequence[int], draws: np.ndarray) -> dict[str, np.ndarray]:
        count = len(indices)
        batch = {"record": np.array(indices, np.int32), "image": self._images.take(count)}
        if self._ir:
            batch["ir"] = self._images.take(count)
            batch["ir_mask"] = np.empty(count, bool)
        for field, length in self._lengths.items():
            batch[field] = np.empty((count, length), np.int32)
        task_samples = min(_TASK_SAMPLES, math.ceil(count / (2 * self._threads)))
        tasks = [
            self._pool.submit(self._fill, batch, slice(row, row + task_samples), indices, draws)
            for row in range(0, count, task_samples)
        ]
        try:
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
        return batch

    def _fill(
        self, batch: dict[str, np.ndarray], rows: slice, indices: Sequence[int], draws: np.ndarray
    ) -> None:
        """Write some rows of the batch.

        First all records are read, then all texts chosen, then all images made: sample by sample,
        each stage finds its code and data evicted from the caches, which costs 80 us a sample.
        """
        own = [self._good(index) for index in indices[rows]]
        while True:
            try:
                texts = self._fill_from(batch, rows, own, draws[rows].tolist())
                break
            except _BadRecord as bad:
                self._pass_over(bad)
                own = [self._good(index) for index in own]
        for field, chosen in texts.items():
            batch[field][rows] = self._tokenizers[field](chosen)
        batch["record"][rows] = own

    def _fill_from(
        self, batch: dict[str, np.ndarray], rows: slice, indices: Sequence[int], draws: list
    ) -> dict[str, list[str]]:
        """Write the images of some rows, and return their texts."""
        texts: dict[str, list[str]] = {field: [] for field in self._lengths}
        records: list[Mapping[str, Any]] = []
        try:
            for i in range(len(indices)):
                number, place = self._locate(indices[i])
                records.append(self._sources[number][place])
            for i in range(len(indices)):
                for field, chosen in texts.items():
                    chosen.append(
                        self._choice.choose(records[i], field, draws[i][views.GEOMETRY_DRAWS :])
                    )
            for i in range(len(indices)):
                geometry = self._draw_geometry(records[i], draws[i], texts, i)
                self._see(records[i], geometry, batch, rows.start + i)
        except ValueError as error:
            if i == len(records):  # not even read; the source says where it lies
                raise _BadRecord(indices[i], str(error)) from error
            name = self._names[self._locate(indices[i])[0]]
            of = f"record {records[i]['id']!r} of data set {name!r}"
            raise _BadRecord(indices[i], f"{of}: {error}") from error
        return texts

    def _good(self, index: int) -> int:
        """Return the index itself, or the next of its source that is not passed over."""
        number, place = self._locate(index)
        size = len(self._sources[number])
        while (good := self.starts[number] + place) in self._bad:
            place = (place + 1) % size
        return good

    def _pass_over(self, bad: "_BadRecord") -> None:
        """Take the next record instead of a bad one from now on, if so many may be bad."""
        number, _ = self._locate(bad.index)
        source = range(self.starts[number], self.starts[number] + len(self._sources[number]))
        with self._lock:
            if bad.index in self._bad:  # another thread had it in the same batch
                return
            count = len(self._bad) + 1
            all_bad = sum(index in source for index in self._bad) + 1 >= len(source)
            if count > self._most_bad or all_bad:
                raise BadRecordError(
                    f"{bad} (--config.input.max_bad_records=N passes over N such records; it is "
                    f"{self._most_bad})"
                ) from bad
            self._bad.add(bad.index)
        print(
            f"{bad}: passed over, the next record takes its place ({count} of at most "
            f"{self._most_bad}, config.input.max_bad_records)",
            file=sys.stderr,
            flush=True,
        )

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the number of the source that holds a sample, and its place there."""
        number = bisect.bisect_right(self.starts, index) - 1
        return number, index - self.starts[number]

    def _draw_geometry(
        self,
        record: Mapping[str, Any],
        draws: Sequence[float],
        texts: dict[str, list[str]],
        number: int,
    ) -> views.Geometry:
        """Draw the geometry of a sample, and turn its texts if they are to be."""
        augment_text = self._augmentation.augment_text
        directed = augment_text != "off" and any(
            directions.has_direction(chosen[number]) for chosen in texts.values()
        )
        augmentation = self._of_directions if directed else self._augmentation
        draws = draws[: views.GEOMETRY_DRAWS]
        size = images.dimensions(record["image"])
        geometry = views.draw_geometry(augmentation, draws, *size)
        if directed and augment_text == "turn":
            new = [
                text
                for chosen in texts.values()
                if (text := directions.turned(chosen[number], geometry.move)) is not None
            ]
            if len(new) < len(texts):
                return views.draw_geometry(self._augmentation.unturned(), draws, *size)
            for chosen, text in zip(texts.values(), new, strict=True):
                chosen[number] = text
        return geometry

    def _see(
        self,
        record: Mapping[str, Any],
        geometry: views.Geometry,
        batch: dict[str, np.ndarray],
        row: int,
    ) -> None:
        views.train_view(record["image"], geometry, batch["image"][row])
        if not self._ir:
            return
        batch["ir_mask"][row] = bool(record["ir"])
        if not record["ir"]:
            batch["ir"][row] = 0
        elif self._ir_view == "translated":
            views.train_view(record["ir"], geometry, batch["ir"][row])
        else:  # of the same records: what differs is what is seen
            views.control_view(batch["image"][row], self._ir_view, batch["ir"][row])


class _BadRecord(ValueError):
    """A record that no row of a batch can be made of, by the index of the sample."""

    def __init__(self, index: int, message: str):
        super().__init__(message)
        self.index = index


class _Recycled:
    """Arrays of uint8 images whose memory is used again once nothing refers to them any more.

    In memory fresh from the system a batch takes 7 % longer: its pages are faulted in and cleared.

    Args:
      shape: of an image.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._idle: dict[int, list[np.ndarray]] = collections.defaultdict(list)

    def take(self, count: int) -> np.ndarray:
        """Return an array [count, ...] with whatever was in it before."""
        try:
            memory = self._idle[count].pop()
        except IndexError:
            memory = np.empty((count, *self._shape), np.uint8)
        # Views of views refer to the last array of the chain, which dies after all of them; the
        # memoryview makes that the one given out instead of the one that owns the memory.
        lent = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(lent, self._idle[count].append, memory)
        return lent.reshape(memory.shape)


def from_config(kind: type, input_config: Mapping[str, Any]) -> Any:
    """Make a dataclass from the fields of `config.input` that are called like its own.

    A field that the config lacks keeps its default: configs of older runs lack newer fields.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: input_config[name] for name in names if name in input_config})
