"""Samples to checked, serialised records: the work of one process, and of several in order."""

import collections
import concurrent.futures.process
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import cv2

from rsclip_jax.data.directions import has_direction
from rsclip_jax.data.image_check import inspect_image, shrink
from rsclip_jax.data.mending import mend_captions, mend_name
from rsclip_jax.data.schema import LIST_FIELDS, check_name, serialize
from rsclip_jax.data.seen import bytes_key, text_key
from rsclip_jax.data.sources import InputError, Sample, read_file
from rsclip_jax.data.splits import drawn, usual_name
from rsclip_jax.data.text import ClipTokenizer

CHUNK_SAMPLES = 32
CHUNK_BYTES = 4 * 2**20
WAITING_BYTES = 256 * 2**20  # of encoded images, in chunks under way
WAITING_CHUNKS = 4  # per worker


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What every sample goes through.

    Attributes:
      root: resolved directory that image paths are relative to.
      split: for samples that name none.
      source: likewise.
      resize: shorter side in pixels of the images stored, 0 to keep the original bytes.
      max_pixels: greatest height * width of an image.
      needs_text, edit: see `Source`.
      follow_links: see `sources.read_file`.
      split_names: see `splits.usual_name`.
      hold_out: split -> share of what would be in `split`, drawn by the image (`splits.drawn`).
    """

    root: str
    split: str
    source: str
    resize: int
    max_pixels: int
    needs_text: bool = True
    edit: Callable[[bytes], bytes] | None = None
    follow_links: bool = False
    split_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hold_out: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Outcome:
    """A sample's record, or why there is none."""

    where: str
    position: int
    id: str
    path: str
    split: str = ""
    given_split: str = ""  # what the sample calls it, "" if it names none
    drawn_from: str = ""  # the split that a share of is held out, if this is of the share
    record: bytes = b""
    reason: str = ""  # why the sample is skipped, "" if it is not
    size: tuple[int, int] = (0, 0)  # height, width of the image stored
    image_bytes: int = 0
    image_key: int = 0  # `bytes_key` of the image
    same_image_in: str | None = None  # split of an earlier record with the same image
    label: str = ""
    has_ir: bool = False
    names_direction: bool = False  # one of its texts does
    # CLIP tokens of each text, start and end marks included, by list field
    lengths: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    keys: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # `text_key` of each text
    # what is odd about its images though they can be used
    remarks: list[str] = dataclasses.field(default_factory=list)
    mended: list[str] = dataclasses.field(default_factory=list)  # what was mended in its texts

    def describe(self, example: Mapping[str, Any]) -> None:
        """Tell what the record of these fields holds."""
        self.image_bytes = len(example["image"]) + len(example["ir"])
        self.image_key = bytes_key(example["image"])
        self.label = example["label"]
        self.has_ir = bool(example["ir"])
        tokenizer = ClipTokenizer()
        for field in LIST_FIELDS:
            self.lengths[field] = tokenizer.lengths(example[field]).tolist()
            self.keys[field] = [text_key(text) for text in example[field]]
            self.names_direction |= any(map(has_direction, example[field]))


def process(sample: Sample, recipe: Recipe) -> Outcome:
    """Read, check, shrink and serialise one sample; nothing about it raises."""
    path = sample.image if isinstance(sample.image, str) else ""
    split = usual_name(sample.split, recipe.split_names) or recipe.split
    outcome = Outcome(sample.where, sample.position, sample.id, path, split, sample.split)
    try:
        if sample.problem:
            raise ValueError(sample.problem)
        _check_split(outcome)
        outcome.mended += sample.mended
        example: dict[str, Any] = {}
        for field in LIST_FIELDS:
            example[field], mended = mend_captions(getattr(sample, field))
            outcome.mended += mended
        if recipe.needs_text and not sample.label and not any(example.values()):
            raise ValueError("no caption and no label")
        names = {"id": sample.id, "label": sample.label, "source": sample.source or recipe.source}
        for field, name in names.items():
            example[field], mended = mend_name(name)
            outcome.mended += mended
        outcome.id = example["id"]
        example["image"], outcome.size, outcome.remarks = _image(sample.image, recipe)
        example["ir"] = b""
        try:
            if sample.ir:
                example["ir"], _, remarks = _image(sample.ir, recipe)
                outcome.remarks += [f"{remark} (infrared)" for remark in remarks]
        except ValueError as error:
            kind, colon, detail = str(error).partition(":")
            raise ValueError(f"{kind} (infrared){colon}{detail}") from error
        outcome.record = serialize(example)
        outcome.describe(example)
        if outcome.split == recipe.split and (split := drawn(recipe.hold_out, outcome.image_key)):
            outcome.split, outcome.drawn_from = split, outcome.split
    except ValueError as error:
        outcome.reason = str(error)
    return outcome


def _check_split(outcome: Outcome) -> None:
    try:
        check_name("split", outcome.split)
    except ValueError as error:
        raise ValueError(
            f"impossible split: {error}; --split_names={outcome.given_split}=train takes it for "
            "train"
        ) from error


def _image(given: bytes | str, recipe: Recipe) -> tuple[bytes, tuple[int, int], list[str]]:
    data = given
    if isinstance(given, str):
        data = read_file(recipe.root, given, recipe.follow_links)
    assert isinstance(data, bytes)
    size, remarks = inspect_image(data, recipe.max_pixels)
    if recipe.edit is not None:
        data = recipe.edit(data)
        size, remarks = inspect_image(data, recipe.max_pixels)
    if recipe.resize and min(size) > recipe.resize:
        data = shrink(data, recipe.resize)
        size, _ = inspect_image(data, recipe.max_pixels)  # a JPEG file now: no remark is lost
    return data, size, remarks


def ingest(
    samples: Iterable[Sample], recipe: Recipe, workers: int
) -> Generator[Outcome, None, None]:
    """Process samples in `workers` processes and yield the outcomes in the order of the samples.

    At most WAITING_BYTES of images (but one chunk at least) are under way, whatever the input.

    Args:
      workers: at least 1; a single one works in this process.

    Raises:
      InputError: a worker process died.
    """
    chunks = _chunks(samples, recipe.root)
    if workers == 1:
        _set_up(recipe)
        for chunk, _ in chunks:
            yield from _process_chunk(chunk)
        return
    context = multiprocessing.get_context("spawn")  # fork would share the writer's lock
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _set_up_worker, (recipe,))
    waiting: collections.deque[tuple[concurrent.futures.Future, int]] = collections.deque()
    waiting_bytes = 0
    try:
        for chunk, size in chunks:
            while waiting and (
                len(waiting) >= WAITING_CHUNKS * workers or waiting_bytes + size > WAITING_BYTES
            ):
                future, done = waiting.popleft()
                waiting_bytes -= done
                yield from future.result()
            with _born_deaf_to_ctrl_c():
                future = pool.submit(_process_chunk, chunk)
            waiting.append((future, size))
            waiting_bytes += size
        while waiting:
            yield from waiting.popleft()[0].result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "a worker process died (out of memory, or a decoder crashed?); nothing was written. "
            "Try fewer --workers or a smaller --max_pixels"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(samples: Iterable[Sample], root: str) -> Iterator[tuple[list[Sample], int]]:
    """Cut samples into chunks of a few MiB, and tell their size in bytes."""
    chunk: list[Sample] = []
    size = 0
    for sample in samples:
        weight = sum(_weight(image, root) for image in (sample.image, sample.ir) if image)
        if chunk and (len(chunk) == CHUNK_SAMPLES or size + weight > CHUNK_BYTES):
            yield chunk, size
            chunk, size = [], 0
        chunk.append(sample)
        size += weight
    if chunk:
        yield chunk, size


def _weight(image: bytes | str, root: str) -> int:
    if isinstance(image, bytes):
        return len(image)
    try:
        return os.stat(os.path.join(root, image)).st_size
    except (OSError, ValueError):
        return 0  # `read_file` will say what is wrong with it.


_recipe: Recipe | None = None


def _set_up(recipe: Recipe) -> None:
    global _recipe
    _recipe = recipe
    # What OpenCV has to say about damaged files stands in skipped.jsonl, not between the progress.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _set_up_worker(recipe: Recipe) -> None:
    _set_up(recipe)
    threading.Thread(target=_die_with_parent, daemon=True).start()


@contextlib.contextmanager
def _born_deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started inside never see SIGINT: a child inherits the mask of its parent's thread.

    Ctrl-C reaches every process of the terminal, and the parent decides what becomes of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    """Without it, workers whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers run this
    parent.join()
    os._exit(1)


def _process_chunk(chunk: list[Sample]) -> list[Outcome]:
    assert _recipe is not None  # `_set_up` came first
    return [process(sample, _recipe) for sample in chunk]
