"""The members of a tar archive: which make a sample, and whether the archive is whole."""

import collections
import dataclasses
import os
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from rsclip_jax.data.sources import IMAGE_SUFFIXES, InputError, check_size

IMAGE_EXTENSIONS = {suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES} | {"img_content"}
CAPTION_EXTENSIONS = {"txt", "text", "caption"}
LABEL_EXTENSION = "cls"
ID_EXTENSION = "img_name"
EXTENSIONS = IMAGE_EXTENSIONS | CAPTION_EXTENSIONS | {ID_EXTENSION, LABEL_EXTENSION, "json"}
BLOCK = 512
MAX_HEADER_BYTES = 2**20  # of one member, with its long names and maps of holes

# What TarFile raises of headers that no program writes.
_DAMAGED = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)


class _Headers:
    """A file that TarFile reads headers from: of one member, no more than MAX_HEADER_BYTES."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.next_member()
        self.seek, self.tell = file.seek, file.tell

    def next_member(self) -> None:
        self._left = MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        self._left -= size
        return self._file.read(size)


def read_members(file: BinaryIO, path: str | os.PathLike) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yield (where it ends, member) of an archive: one pass, whatever the sizes in its headers.

    Args:
      path: its name, for messages.

    Raises:
      InputError: it is damaged, or cut off.
    """
    headers = _Headers(file)
    try:
        # TarFile asks no more of a file than what `_Headers` has.
        tar = tarfile.open(fileobj=headers, mode="r:")  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            if member.size < 0 or tar.offset <= member.offset:
                raise tarfile.ReadError(f"a negative size at byte {member.offset:,}")
            # TarFile remembers every member: gigabytes for millions of them.
            tar.members.clear()
            yield tar.offset, member
            headers.next_member()
        _check_end(file, tar.offset)
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged ({error}): fetch it again or leave it out") from error


@dataclasses.dataclass
class Group:
    """The members of one sample.

    Attributes:
      places: extension -> (offset, size) of the members, images among them.
      members: extension -> content of those that are no images.
      image: its content, or where it lies.
    """

    archive: Path
    key: str
    places: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    members: dict[str, bytes] = dataclasses.field(default_factory=dict)
    image: bytes | str = b""
    problem: str = ""
    position: int = 0


def read_runs(
    file: BinaryIO, path: Path, ignore: Collection[str], passed_over: collections.Counter[str]
) -> Iterator[Group]:
    """Yield neighbouring members of one name, unread; count those of no use by extension."""
    run = None
    for end, member in read_members(file, path):
        directory, base = os.path.split(member.name.removeprefix("./"))
        stem, extension = _split_name(base)
        if member.isdir() or not stem:
            continue
        if extension not in EXTENSIONS or extension in ignore:
            passed_over[extension] += 1
            continue
        key = os.path.join(directory, stem)
        if run is None or key != run.key or extension in run.places:
            if run is not None:
                yield run
            run = Group(path, key)
        run.places[extension] = member.offset_data, member.size
        run.problem = run.problem or find_problem(member)
        run.position = end
    if run is not None:
        yield run


def _split_name(base: str) -> tuple[str, str]:
    """Return the name of a sample and the extension of its member, in small letters."""
    stem, _, extension = base.partition(".")
    while "." in extension and extension[0].isdigit():  # the dot of a number
        more, _, extension = extension.partition(".")
        stem += f".{more}"
    return stem, extension.lower()


def find_problem(member: tarfile.TarInfo) -> str:
    """Return why a member cannot be read, "" if it can."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"path leaves the archive: {member.name!r}"
    if not member.isreg() or member.issparse():
        return f"not a plain file but a link, device or sparse file: {member.name!r}"
    try:
        check_size(member.size)
    except ValueError as error:
        return str(error)
    return ""


def check_archive(path: Path) -> None:
    """Tell archives that are none, and cut-off downloads, before the work begins."""
    with open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise InputError(f"{path} is compressed: decompress it first (gunzip)")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * BLOCK))
        end = file.read()
        file.seek(0)
        try:
            next(read_members(file, path), None)
        except InputError as error:
            raise InputError(f"{path} is no tar archive: fetch it again or leave it out") from error
    if end.strip(b"\0"):
        raise InputError(
            f"{path} does not end as a tar archive must (a download that was cut off?): fetch it "
            "again or leave it out"
        )


def _check_end(file: BinaryIO, end: int) -> None:
    """TarFile takes a damaged header for the end: only zeros may follow the real end."""
    file.seek(end)
    while block := file.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {end:,}")
