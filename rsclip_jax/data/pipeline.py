"""The input pipeline: step -> batch of uint8 images and token ids, by Grain.

The order of operations makes the global batch of a step a function of the step alone:

    indices -> shuffle, repeat (each data set on its own) -> mix by weight
            -> every host takes its share, [host::hosts] -> batch of indices
            -> read, decode, augment, tokenise           (see assemble.py)

The random numbers of the samples are drawn for the global batch, from the seed and the step, and
every host takes its rows. So a restart at step k is `dataset[k:]`, and neither hosts nor threads
nor worker processes can change which samples, crops or captions a global batch holds. (With N
hosts its rows stand in another order, since each host holds every N-th sample.)

An epoch is counted for each data set on its own: it is passed through once, in a new order, before
any sample of it comes again. One data set of N samples takes N / batch_size steps; in a mixture,
data set i with share w_i takes N_i / (w_i * batch_size) steps. Batches run across ends of epochs,
so nothing is dropped. (Grain rounds the ratio of a weight to the smallest one down to 0.01.)
"""

import collections
import math
import queue
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import grain
import numpy as np
from absl import flags

from rsclip_jax.data import images, views
from rsclip_jax.data.assemble import (
    Assemble,
    Source,
    Tokenizer,
    from_config,
)
from rsclip_jax.data.captions import TEXT_FIELDS, TextChoice
from rsclip_jax.data.captions import compose_long as compose_long
from rsclip_jax.data.records import open_source
from rsclip_jax.host import available_cores

LISTED = ("id", "source", "label", "captions", "long_captions", "ir_captions")  # by eval_batches


def train_dataset(
    input_config: Mapping[str, Any],
    image_size: int,
    tokenizers: Mapping[str, Tokenizer],
    *,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
) -> grain.MapDataset:
    """Open the data sets of `config.input` and return the batches of this host, without end.

    `dataset[k]` is the batch of step k: `image` uint8 [b, S, S, 3]; for each of `input.lengths`
    token ids int32 [b, length] (without `text_ir` where `input.ir_text_source` is "caption"); with
    `input.ir` also `ir` uint8 [b, S, S, 3] and `ir_mask` bool [b] (False, and the image zeros,
    where a record has none); and `record` int32 [b], the number of each record among those of all
    sources. b = batch_size / host_count.

    Args:
      input_config: `config.input`.
      image_size: S in pixels.
      tokenizers: for each field of `input.lengths` a function of a list of N strings to int32
        [N, length].
      seed: of shuffling and augmentation, 0 or more.
      host_index, host_count: which share of the global batch is this host's.

    Raises:
      ValueError: an impossible setting; the message names the field.
      FileNotFoundError: a data set that does not exist; the message lists those that do.
    """
    check_config(input_config, host_index, host_count)
    return dataset_of_sources(
        open_sources(input_config),
        input_config,
        image_size,
        tokenizers,
        seed=seed,
        host_index=host_index,
        host_count=host_count,
    )


def open_sources(input_config: Mapping[str, Any]) -> dict[str, Source]:
    """Open the data sets of `config.input`, of each the part that `input.subset` asks for."""
    sources: dict[str, Source] = {}
    for name in input_config["data"]:
        whole = open_source(input_config["data_dir"], name, input_config["split"])
        subset = input_config["subset"]
        count = round(subset if subset > 1 else subset * len(whole))
        sources[name] = whole if subset == 1 else Part(whole, count)
    return sources


class Part:
    """Some records of a source, drawn once: a smaller part is contained in every greater one."""

    def __init__(self, source: Source, count: int):
        if not 0 < count <= len(source):
            raise ValueError(
                f"input.subset asks for {count:,} of the {len(source):,} records of {source!r}"
            )
        self._source = source
        self._indices = np.random.default_rng(42).permutation(len(source))[:count]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._source[int(self._indices[index])]


def dataset_of_sources(
    sources: Mapping[str, Source],
    input_config: Mapping[str, Any],
    image_size: int,
    tokenizers: Mapping[str, Tokenizer],
    *,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
) -> grain.MapDataset:
    """Do what `train_dataset` does with sources that are open already.

    Args:
      sources: for each name in `input.data` random access to its records, see data/records.py.
    """
    check_config(input_config, host_index, host_count)
    # Not the order in which someone wrote them down: it decides which comes first in a mixture.
    sources = dict(sorted(sources.items()))
    for name, source in sources.items():
        if not len(source):
            raise ValueError(f"data set {name!r}, split {input_config['split']!r}, has no record")
    assemble = Assemble(
        sources,
        input_config,
        image_size,
        tokenizers,
        seed=_seed(seed, ""),
        host_index=host_index,
        host_count=host_count,
    )
    shuffled = [
        # Each has its own seed: Grain shuffles epoch e with seed + e, so that seeds next to each
        # other would lead to the same orders one epoch apart.
        grain.MapDataset.range(start, start + len(source)).shuffle(_seed(seed, name)).repeat()
        for (name, source), start in zip(sources.items(), assemble.starts, strict=True)
    ]
    if len(shuffled) == 1:
        indices = shuffled[0]
    else:
        weights = [float(input_config["data"][name]) for name in sources]
        indices = grain.MapDataset.mix(shuffled, weights)
    return (
        # Half of the endless length: Grain counts batches in floats, which overflow for all of it
        # in batches of 1.
        indices.slice(slice(host_index, sys.maxsize // 2, host_count))
        .batch(input_config["batch_size"] // host_count, batch_fn=list)
        .map_with_index(assemble)
    )


def check_config(input_config: Mapping[str, Any], host_index: int = 0, host_count: int = 1) -> None:
    """Raise ValueError for a setting of `config.input` that cannot be.

    What only the data can tell (a record without a caption) comes up when they are read.
    """

    data, lengths = dict(input_config["data"]), dict(input_config["lengths"])

    def refuse(field: str, expected: str) -> None:
        given = {"data": data, "lengths": lengths}.get(field, input_config[field])
        raise ValueError(f"input.{field} is {given!r}: expected {expected}")

    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index is {host_index}: expected one of {host_count} hosts")
    if not data or not all(0 < weight < math.inf for weight in data.values()):
        refuse("data", 'data sets with positive mixing weights, such as {"rsicd": 1.0}')
    if input_config["batch_size"] < 1 or input_config["batch_size"] % host_count:
        refuse("batch_size", f"a positive multiple of the number of hosts, {host_count}")
    if not set(lengths) <= set(TEXT_FIELDS) or not (lengths or input_config["ir"]):
        refuse(
            "lengths",
            f"a token length for one or more of {', '.join(TEXT_FIELDS)}; none only with input.ir",
        )
    if input_config["ir_view"] not in views.IR_VIEWS:
        refuse("ir_view", f"one of {', '.join(views.IR_VIEWS)}")
    if not input_config["subset"] > 0:
        refuse("subset", "a share of the records, above 0 and up to 1, or their number")
    for field in ("threads", "workers", "max_bad_records"):
        if input_config.get(field, 0) < 0:
            refuse(field, "0 or more")
    if input_config["workers"] > (cores := available_cores()):
        refuse("workers", f"at most {cores}, the cores of this machine")
    try:
        from_config(views.Augmentation, input_config)
        from_config(TextChoice, input_config)
    except ValueError as error:
        raise ValueError(f"input.{error}") from error


def train_iterator(
    dataset: grain.MapDataset, start_step: int, input_config: Mapping[str, Any]
) -> grain.DatasetIterator:
    """Iterate over the batches from `start_step` on, two of them in the making ahead of use.

    With `input.workers` > 0 that many processes make whole batches, each with threads of its own:
    for machines with more cores than one Python interpreter keeps busy. They start by importing the
    main module, which therefore needs its `if __name__ == "__main__"` guard.
    """
    # The threads that do the work are those of `Assemble`. Two of Grain's keep them busy: while
    # one waits for the last samples of its batch, the other hands out the first of the next.
    iterable = dataset[start_step:].to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    )
    if workers := input_config["workers"]:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain hands its debugging flags to the workers.
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable)


def eval_batches(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    start: int = 0,
    stop: int | None = None,
    ir: bool = False,
    own: np.ndarray | None = None,
) -> Iterator[dict[str, Any]]:
    """Iterate in order over records `start` to `stop`, with CLIP's evaluation preprocessing.

    Images are decoded in parallel; two batches lie in memory besides the one in use.

    Args:
      source: random access to records, see data/records.py.
      image_size: S in pixels.
      batch_size: b; the last batch may be smaller.
      start, stop: as in a slice.
      ir: also return the infrared images.
      own: bool [b], which rows of every batch are read; None for all. The images of the others are
        zeros, their `ir_mask` is False, and what else they have is None.

    Yields:
      dict of `image` uint8 [b, S, S, 3]; with `ir` also `ir` uint8 [b, S, S, 3] and `ir_mask` bool
      [b] (False, and the image zeros, where there is none); and lists of length b: `id`, `source`,
      `label` (strings), `captions`, `long_captions`, `ir_captions` (lists of strings).

    Raises:
      ValueError: `batch_size` below 1, or an image that cannot be decoded (its record is named).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected 1 or more")
    indices = range(len(source))[start:stop]

    def read(index: int) -> dict[str, Any] | None:
        if own is not None and not own[(index - indices.start) % batch_size]:
            return None
        record = dict(source[index])
        try:
            record["image"] = images.eval_preprocess(images.decode(record["image"]), image_size)
            if ir:
                record["ir_mask"] = bool(record["ir"])
                record["ir"] = (
                    images.eval_preprocess(images.decode(record["ir"]), image_size)
                    if record["ir"]
                    else np.zeros((image_size, image_size, 3), np.uint8)
                )
            else:
                del record["ir"]
        except ValueError as error:
            raise ValueError(f"record {record['id']!r}: {error}") from error
        return record

    pixels = ((image_size, image_size, 3), np.uint8)
    arrays = {"image": pixels} | ({"ir": pixels, "ir_mask": ((), bool)} if ir else {})

    def batch(tasks: list[futures.Future]) -> dict[str, Any]:
        records = [task.result() for task in tasks]
        found: dict[str, Any] = {f: [record and record[f] for record in records] for f in LISTED}
        for field, (shape, dtype) in arrays.items():
            found[field] = np.zeros((len(records), *shape), dtype)
            for place, record in enumerate(records):
                if record:
                    found[field][place] = record[field]
        return found

    pool = futures.ThreadPoolExecutor(available_cores(), thread_name_prefix="eval-input")
    pending: collections.deque[list[futures.Future]] = collections.deque()
    try:
        for first in range(0, len(indices), batch_size):
            pending.append([pool.submit(read, i) for i in indices[first : first + batch_size]])
            if len(pending) > 2:
                yield batch(pending.popleft())
        while pending:
            yield batch(pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def device_prefetch(iterator: Iterator[Mapping[str, np.ndarray]], sharding, depth: int = 2):
    """Put host batches onto the devices in the background, up to `depth` of them ahead.

    Args:
      iterator: batches of this host, dicts of arrays [b, ...].
      sharding: jax.sharding.NamedSharding of the first axis, P(("data", "fsdp")).
      depth: batches that wait on the devices.

    Returns:
      A `DevicePrefetch`: an iterator over dicts of global jax.Array, of the same length.
    """
    return DevicePrefetch(iterator, sharding, depth)


class DevicePrefetch:
    """Iterator made by `device_prefetch`; what the background thread raises comes out of it.

    Attributes:
      wait_s: seconds that the consumer has waited for batches so far. Where they come close to the
        time of its steps, training is bound by its input.
    """

    def __init__(self, iterator: Iterator[Mapping[str, np.ndarray]], sharding, depth: int):
        if depth < 1:
            raise ValueError(f"depth is {depth}: expected 1 or more")
        self.wait_s = 0.0
        self._iterator = iterator
        # One batch more is in the hands of the thread.
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._produce, args=(sharding,), name="device-prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> "DevicePrefetch":
        return self

    def __next__(self) -> dict[str, Any]:
        if self._closed.is_set():
            raise StopIteration
        start = time.perf_counter()
        batch, error = self._queue.get()
        self.wait_s += time.perf_counter() - start
        if error is not None:
            self._closed.set()
            raise error
        return batch

    def close(self) -> None:
        """Stop the background thread, let go of the batches that wait and close the iterator."""
        self._closed.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()
        if hasattr(self._iterator, "close"):
            self._iterator.close()

    def _produce(self, sharding) -> None:
        import jax  # Here only: worker processes and data tools import this module without JAX.

        try:
            for batch in self._iterator:
                put = {
                    field: jax.make_array_from_process_local_data(sharding, array)
                    for field, array in batch.items()
                }
                if not self._put((put, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, item: tuple) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _seed(seed: int, name: str) -> int:
    """Derive 32 bits for a data set: the others in the mixture do not change it."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
