"""Sources of samples: what they yield, and how --input is read.

A source (`folders.open_folder`, `tables.open_table`, `tars.open_tars`, `tfds_source.open_tfds`,
`rgb_ir_sets.open_pairs`) yields `Sample`s in a fixed order and holds few of them at a time. What
cannot be read is a `Sample` with a `problem`; what makes the input as a whole unusable raises
`InputError`, if possible before the first sample.
"""

import dataclasses
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
IMAGE_SUFFIXES |= {".jp2", ".avif"}
MAX_FILE_BYTES = 512 * 2**20  # No image of a data set is larger; a tf.Example cannot exceed 2 GiB.


class InputError(Exception):
    """The input or a flag is not usable as a whole; the message says what mends it."""


@dataclasses.dataclass
class Sample:
    """One sample as the input gives it: images as bytes, or as paths below the image root."""

    where: str  # file and line, or archive and member: for skipped.jsonl
    position: int  # how much of the source has been read, of its `size`
    id: str = ""
    image: bytes | str = b""
    ir: bytes | str = b""
    captions: list[str] = dataclasses.field(default_factory=list)
    long_captions: list[str] = dataclasses.field(default_factory=list)
    ir_captions: list[str] = dataclasses.field(default_factory=list)
    label: str = ""
    split: str = ""
    source: str = ""
    problem: str = ""  # why it cannot be used, if the source sees that already
    # what was left out of its texts, one item for each
    mended: list[str] = dataclasses.field(default_factory=list, compare=False)
    # Columns that have no role. They may differ where the rows of one image become one sample.
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass
class Source:
    """A checked input: iterate over it for its samples, again for the same ones."""

    samples: Callable[[], Iterator[Sample]]
    size: int  # what `Sample.position` counts up to: bytes or files
    root: str = ""  # resolved directory that paths of images are relative to
    needs_text: bool = True  # whether a sample without captions and label is of no use
    # Problems, up to their colon, that belong to the data set: --max_skipped does not count them.
    expected: frozenset[str] = frozenset()
    # What becomes of the bytes of each image, done in the workers; ValueError skips the sample.
    edit: Callable[[bytes], bytes] | None = None
    # What of the input is not used or was guessed: known before the first sample, or added after
    # the last one.
    notes: list[str] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()


def read_file(root: str, path: str, follow_links: bool = False) -> bytes:
    """Read a file below `root` (a resolved directory).

    Args:
      follow_links: whether a link below `root` may lead outside.

    Raises:
      ValueError: the file lies outside, is missing, too large or no regular file; the message is
        the reason to skip the sample.
    """
    resolved = find_file(root, path, follow_links)
    try:
        check_size(os.stat(resolved).st_size)
        with open(resolved, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"unreadable file: {error.strerror}: {path!r}") from error


def place_below(root: str, path: str, follow_links: bool = False) -> str:
    """Return the resolved path of what `path` names below `root`, whether or not it is there.

    Args: as of `read_file`.

    Raises:
      ValueError: it lies outside.
    """
    resolved = os.path.realpath(os.path.join(root, path))
    lexical = os.path.normpath(os.path.join(root, path))
    inside = os.path.commonpath([root, lexical]) == root
    if os.path.commonpath([root, resolved]) != root and not (follow_links and inside):
        if inside:
            raise ValueError(
                f"path leaves the image root by a link (--follow_links reads it): {path!r}"
            )
        raise ValueError(f"path leaves the image root: {path!r}")
    return resolved


def find_file(root: str, path: str, follow_links: bool = False) -> str:
    """Return the resolved path of a regular file below `root`.

    Args, Raises: as of `read_file`.
    """
    resolved = place_below(root, path, follow_links)
    try:
        mode = os.stat(resolved).st_mode
    except FileNotFoundError:
        raise ValueError(f"missing file: {path!r}") from None
    except OSError as error:
        raise ValueError(f"unreadable file: {error.strerror}: {path!r}") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"not a regular file: {path!r}")
    return resolved


def is_image_name(text: str) -> bool:
    """Tell whether a text ends like the name of an image file, and is no URL."""
    return "://" not in text and os.path.splitext(text.strip())[1].lower() in IMAGE_SUFFIXES


def check_size(size: int) -> None:
    """Raise ValueError if a file of `size` bytes is too large to be one image."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"file too large: {size:,} bytes, at most {MAX_FILE_BYTES:,} are read")


def some(names: Sequence[str], most: int = 5) -> str:
    """Name the first `most` for a message, and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def expand_input(pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    """List the files that --input names: a file, a directory, a glob or a brace pattern.

    `{0000..0031}` counts (keeping leading zeros), `{a,b}` chooses; a directory stands for the files
    in it that end in one of `suffixes`.

    Raises:
      InputError: nothing there, or one file of a brace pattern is missing; a pipe, or a directory
        that a glob finds.
    """
    paths = []
    for item in [pattern] if os.path.exists(pattern) else _expand_braces(pattern):
        if os.path.isdir(item):
            found = sorted(p for p in Path(item).iterdir() if p.suffix.lower() in suffixes)
            nothing = f"holds no file ending in {' or '.join(suffixes)}"
        elif os.path.exists(item):
            found, nothing = [Path(item)], ""
        else:
            found = sorted(map(Path, glob.glob(item, recursive=True)))
            nothing = "does not exist"
        if not found:
            raise InputError(f"--input={pattern}: {item} {nothing}")
        paths += found
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"--input={pattern}: {path} is no regular file: name the files in a directory, and "
                "write what comes from a pipe to a file first (it is read several times)"
            )
    return list(dict.fromkeys(paths))


def _expand_braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        if not choices:
            raise InputError(f"--input: {match[0]} counts down; write {{{last}..{first}}}")
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [item for choice in choices for item in _expand_braces(before + choice + after)]
