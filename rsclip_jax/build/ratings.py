"""What people rate, and the file that holds their ratings.

A rating is one line of JSONL, written and synced before its rater is told so. A later line of the
same rater and caption replaces an earlier one. Captions are told apart by the hash of their text:
ratings of a caption that has changed since are never taken for ratings of the new one.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsclip_jax import host
from rsclip_jax.data.records import RecordSource
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.summary import KINDS
from rsclip_jax.data.text import without_surrogates

# Those of GeoRSCLIP's rating of RS5M: 1 to 5 each, 5 is the best, of hallucination too.
CRITERIA = ("relevance", "hallucination", "fluency")
LOWEST, HIGHEST = 1, 5
MAX_COMMENT = 2000  # characters
_RATER = re.compile(r"[\w.@-]+( [\w.@-]+)*")
_MAX_RATER = 40
_START = b'{"rater": "'  # of every line


@dataclasses.dataclass(frozen=True)
class Item:
    """One caption to rate.

    Attributes:
      dataset, record, index: where its record is: data set, id, and place in the split.
      kind: a value of `summary.KINDS`.
      number: which of the record's captions of this kind.
      text: the caption.
      infrared: whether the infrared image is shown beside the other.
    """

    dataset: str
    record: str
    index: int
    kind: str
    number: int
    text: str
    infrared: bool

    @property
    def name(self) -> str:
        """Name it for as long as the data set has this caption or another in its place."""
        return f"{self.dataset}/{self.record}/{self.kind}/{self.number}"

    @property
    def token(self) -> str:
        """Name it and its text without telling where they come from: 16 hexadecimal digits."""
        return _digest(f"{self.name}\0{self.text}")


@dataclasses.dataclass(frozen=True)
class Rating:
    """What one person thinks of one caption: a line of the file."""

    rater: str
    item: str  # Item.name
    dataset: str
    kind: str
    caption: str  # hash of the text
    relevance: int
    hallucination: int
    fluency: int
    comment: str
    seconds: float  # from showing the caption to the last score
    time: str  # when it came in, ISO 8601, UTC

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what a later rating replaces this one by."""
        return self.rater, self.item, self.caption


def draw_items(
    sources: Mapping[str, RecordSource], samples: int, seed: int, kinds: Sequence[str]
) -> list[Item]:
    """Draw captions of different images, as many of each data set.

    A larger sample has the smaller one of the same seed in it. Of data sets with the same images in
    the same order the same images are drawn.

    Args:
      sources: data set -> its records.
      samples: how many captions, in all.
      seed: whole number >= 0.
      kinds: values of `summary.KINDS` that are wanted.

    Raises:
      InputError: a kind there is not, or none of whose captions a data set has.
    """
    if unknown := sorted(set(kinds) - set(KINDS.values())):
        raise InputError(f"--kinds: there is no {unknown}; choose of {', '.join(KINDS.values())}")
    items = []
    for place, (dataset, source) in enumerate(sources.items()):
        wanted = len(range(place, samples, len(sources)))
        drawn: list[Item] = []
        for index in map(int, np.random.default_rng(seed).permutation(len(source))):
            if len(drawn) == wanted:
                break
            record = source[index]
            texts = [
                (kind, number, text)
                for field, kind in KINDS.items()
                if kind in kinds
                for number, text in enumerate(record[field])
                if text.strip()
            ]
            if not texts:
                continue
            # First the kind: a record may have five short captions and one that is long.
            choice = np.random.default_rng([seed, index])
            kind = choice.choice(list(dict.fromkeys(kind for kind, _, _ in texts)))
            texts = [given for given in texts if given[0] == kind]
            _, number, text = texts[choice.integers(len(texts))]
            infrared = kind == KINDS["ir_captions"] and bool(record["ir"])
            drawn.append(Item(dataset, record["id"], index, str(kind), number, text, infrared))
        if wanted and not drawn:
            raise InputError(
                f"no record of {source!r} has a caption of the kind {' or '.join(kinds)}: choose "
                "another --split or --kinds, or write captions with rsclip_jax.build.caption"
            )
        items += drawn
    return items


def in_order(items: Iterable[Item], rater: str) -> list[Item]:
    """Return the items in the order of one rater: a random one, the same every time."""
    return sorted(items, key=lambda item: _digest(f"{rater}\0{item.token}"))


def caption_hash(text: str) -> str:
    """Return the 16 hexadecimal digits by which ratings know a caption."""
    return _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_rater(name: str) -> str:
    """Return a rater's name without blanks around it.

    Raises:
      ValueError: it is empty, too long or has characters that tables cannot show.
    """
    name = name.strip()
    if not _RATER.fullmatch(name) or len(name) > _MAX_RATER:
        raise ValueError(
            f"the name {name!r} is not possible: 1 to {_MAX_RATER} letters, digits, single blanks "
            "and the characters . @ _ -"
        )
    return name


def make_rating(values: Mapping[str, Any]) -> Rating:
    """Make a rating of what came in as JSON.

    Raises:
      ValueError: a field is missing, unknown, or not what it should be.
    """
    fields = {field.name: field.type for field in dataclasses.fields(Rating)}
    if wrong := set(fields) ^ set(values):
        raise ValueError(f"it should have the fields {', '.join(fields)}; see {sorted(wrong)}")
    for name, kind in fields.items():
        value = values[name]
        if kind is int and not (type(value) is int and LOWEST <= value <= HIGHEST):
            raise ValueError(f"{name} is {value!r}: expected a score from {LOWEST} to {HIGHEST}")
        if kind is str and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}: expected a text")
        if kind is float and not (
            type(value) in (int, float) and math.isfinite(value) and value >= 0
        ):
            raise ValueError(f"{name} is {value!r}: expected a number of seconds")
    if check_rater(values["rater"]) != values["rater"]:
        raise ValueError(f"the rater {values['rater']!r} has blanks around the name")
    if len(values["comment"]) > MAX_COMMENT:
        raise ValueError(f"the comment is longer than {MAX_COMMENT:,} characters")
    # A browser cuts a comment at its limit even where that leaves half of a character.
    return Rating(**{**values, "comment": without_surrogates(values["comment"])})


def read_ratings(path: str) -> list[Rating]:
    """Read a file of ratings, also while it is written; what was replaced is left out.

    Raises:
      FileNotFoundError: there is none. InputError: it holds something else. ValueError: a pipe.
    """
    with open(host.regular_file(Path(path)), "rb") as file:
        ratings, _, _ = _parse(path, file.read())
    return list(_latest(ratings).values())


def _latest(ratings: Iterable[Rating]) -> dict[tuple[str, str, str], Rating]:
    return {rating.key: rating for rating in ratings}


def _parse(path: str, data: bytes) -> tuple[list[Rating], int, bytes]:
    """Return the ratings, where their lines end, and what a killed server left of a line there.

    A last line that lacks nothing but its end counts; the end then is what lies beyond it.
    """
    end = data.rfind(b"\n") + 1
    rest = data[end:]
    ratings = [
        _parse_line(path, number, line)
        for number, line in enumerate(data[:end].splitlines(), start=1)
    ]
    if not rest:
        return ratings, end, b""
    if rest[: len(_START)] != _START[: len(rest)]:  # Nothing that we would have begun to write.
        raise InputError(f"{path} is no file of ratings: choose another --output")
    try:
        ratings.append(_parse_line(path, len(ratings) + 1, rest))
    except InputError:
        return ratings, end, rest
    return ratings, len(data), b""


def _parse_line(path: str, number: int, line: bytes) -> Rating:
    try:
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        return make_rating(values)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"line {number} of {path} is no rating: {error}. Choose another --output, or mend it"
        ) from error


class RatingFile:
    """Holds a file of ratings for one server, and adds to it.

    A line that a killed server left unfinished is removed: its rater was never told it is saved.

    Raises:
      InputError: the file holds something else; nothing is changed then.
      BlockingIOError: another server has it. OSError: it cannot be written.
    """

    def __init__(self, path: str):
        self._path = path
        self._mutex = threading.Lock()
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        self._file = open(host.regular_file(Path(path)), "a+b", buffering=0)
        try:
            host.lock(self._file, path)  # dies with the process
            self._file.seek(0)
            data = self._file.read()
            ratings, end, self.removed = _parse(path, data)
            self._file.truncate(end)
            if end and data[end - 1 : end] != b"\n":
                self._file.write(b"\n")
            self._sync_all()
        except BlockingIOError:
            self._file.close()
            raise BlockingIOError(
                f"another server writes {path} at this moment: raters share that one"
            ) from None
        except BaseException:
            self._file.close()
            raise
        self._ratings = _latest(ratings)

    def _sync_all(self) -> None:
        os.fsync(self._file.fileno())
        directory = os.open(os.path.dirname(os.path.abspath(self._path)), os.O_RDONLY)
        try:
            os.fsync(directory)  # the name of a new file
        finally:
            os.close(directory)

    def add(self, rating: Rating) -> None:
        """Write a rating; it is on the disk when this returns.

        Raises:
          OSError: it could not be written, and is not in the file.
        """
        line = json.dumps(dataclasses.asdict(rating), ensure_ascii=False).encode() + b"\n"
        with self._mutex:
            size = os.fstat(self._file.fileno()).st_size
            try:
                rest = line
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(size)
                raise
            self._ratings[rating.key] = rating

    def ratings(self) -> list[Rating]:
        """Return all ratings but those that were replaced."""
        with self._mutex:
            return list(self._ratings.values())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def check_sample(items: Iterable[Item], ratings: Iterable[Rating], path: str) -> list[str]:
    """Return the names of items whose captions have changed since they were rated.

    Raises:
      InputError: a rating is of no item of this sample.
    """
    hashes = {item.name: caption_hash(item.text) for item in items}
    changed: dict[str, None] = {}
    for rating in ratings:
        if rating.item not in hashes:
            raise InputError(
                f"{path} holds ratings of another sample, such as {rating.item}: give the --name, "
                "--split, --kinds and --seed, and at least the --samples, that it was made with, "
                "or another --output"
            )
        if rating.caption != hashes[rating.item]:
            changed[rating.item] = None
    return list(changed)
