"""The members of a tar archive: which make a sample, and whether the archive is whole."""

import collections
import dataclasses
import os
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

from rsclip_jax.data.sources import IMAGE_SUFFIXES, InputError, check_size

IMAGE_EXTENSIONS = {suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES} | {"img_content"}
CAPTION_EXTENSIONS = {"txt", "text", "caption"}
LABEL_EXTENSION = "cls"
ID_EXTENSION = "img_name"
EXTENSIONS = IMAGE_EXTENSIONS | CAPTION_EXTENSIONS | {ID_EXTENSION, LABEL_EXTENSION, "json"}
BLOCK = 512


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
    path: Path, ignore: Collection[str], passed_over: collections.Counter[str]
) -> Iterator[tuple[tarfile.TarFile, Group]]:
    """Yield neighbouring members of one name, unread; count those of no use by extension."""
    try:
        with tarfile.open(path, "r:") as tar:
            run = None
            while (member := tar.next()) is not None:
                # TarFile remembers every member: gigabytes for millions of them.
                tar.members.clear()  # type: ignore[attr-defined]
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
                        yield tar, run
                    run = Group(path, key)
                run.places[extension] = member.offset_data, member.size
                run.problem = run.problem or _problem(member)
            if run is not None:
                yield tar, run
            _check_end(tar)
    except tarfile.TarError as error:
        raise InputError(f"{path} is damaged ({error}): fetch it again or leave it out") from error


def _split_name(base: str) -> tuple[str, str]:
    """Return the name of a sample and the extension of its member, in small letters."""
    stem, _, extension = base.partition(".")
    while "." in extension and extension[0].isdigit():  # the dot of a number
        more, _, extension = extension.partition(".")
        stem += f".{more}"
    return stem, extension.lower()


def _problem(member: tarfile.TarInfo) -> str:
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
    if not tarfile.is_tarfile(path):
        raise InputError(f"{path} is no tar archive: fetch it again or leave it out")
    if end.strip(b"\0"):
        raise InputError(
            f"{path} does not end as a tar archive must (a download that was cut off?): fetch it "
            "again or leave it out"
        )


def _check_end(tar: tarfile.TarFile) -> None:
    """TarFile takes a damaged header for the end: only zeros may follow the real end."""
    tar.fileobj.seek(tar.offset)
    while block := tar.fileobj.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {tar.offset:,}")
