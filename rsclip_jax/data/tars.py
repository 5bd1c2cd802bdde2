"""Webdataset tars, RS5M's among them, read from the first member to the last."""

import collections
import dataclasses
import functools
import itertools
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsclip_jax.data.columns import Columns, check_unused, read_row, resolve, without_roles
from rsclip_jax.data.sources import (
    IMAGE_SUFFIXES,
    InputError,
    Sample,
    Source,
    check_size,
    expand_input,
)
from rsclip_jax.data.tables import PEEK, json_row

IMAGE_EXTENSIONS = {suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES} | {"img_content"}
CAPTION_EXTENSIONS = {"txt", "text", "caption"}
LABEL_EXTENSION = "cls"
ID_EXTENSION = "img_name"
EXTENSIONS = IMAGE_EXTENSIONS | CAPTION_EXTENSIONS | {ID_EXTENSION, LABEL_EXTENSION, "json"}
BLOCK = 512


def open_tars(
    pattern: str,
    given: Columns | None = None,
    references: bool = False,
    ignore: Sequence[str] | None = None,
) -> Source:
    """Open webdataset tars: neighbouring members of one name make a sample.

    The name ends at its first dot, but dots of numbers (`lat0.5_lon7.25.jpg`) belong to it. Where
    archives begin with the same name, the id of a sample begins with its archive's.

    Members `.jpg/.png/.webp/.tif/.../.img_content` are the image, `.txt/.text/.caption` captions,
    one a line, `.cls` the label, `.img_name` the id (without it, the common name of the members),
    `.json` a row of columns as in a table. Others are passed over, and counted by the source.

    Args:
      pattern: see `expand_input`.
      given: role -> names of keys in the JSON members, where they are not the usual ones.
      ignore: extensions and keys left out on purpose; None: the caller does not mind.
      references: read no images; a sample's is `PATH#OFFSET+SIZE`, where it lies.

    Raises:
      InputError: see `expand_input`; an archive that is compressed, cut off or none at all; a
        column that the first JSON members do not have; keys or members that look like captions or
        images and are not used (of members, after the last sample).
    """
    paths = expand_input(pattern, (".tar",))
    for path in paths:
        _check_archive(path)
    passed_over: collections.Counter[str] = collections.Counter()
    groups = functools.partial(_all_groups, paths, references, passed_over)
    first = [_json(group) for group in itertools.islice(groups(), PEEK)]
    present = list(dict.fromkeys(name for row in first if isinstance(row, dict) for name in row))
    columns = resolve(present, given or {}, f"the JSON of {paths[0]}")
    notes = []
    if ignore is not None and (
        unused := check_unused(present, columns, ignore, f"the JSON of {paths[0]}")
    ):
        notes.append(f"keys of the JSON members not used: {', '.join(unused)}")
    begins = [next(_all_groups([path], True, collections.Counter()), None) for path in paths]
    names = [group.key for group in begins if group is not None]
    repeated = len(set(names)) < len(names)
    if repeated:
        notes.append("archives begin with the same name: ids are ARCHIVE/NAME")
    passed_over.clear()
    # The image comes from the members: a JSON key such as "path" or "ir" tells of the original.
    columns = {role: names for role, names in columns.items() if role not in ("image", "ir")}

    def samples() -> Iterator[Sample]:
        passed_over.clear()
        for group in groups():
            yield _sample(group, columns, repeated)
        if ignore is not None:
            _check_passed_over(passed_over, ignore)

    size = sum(path.stat().st_size for path in paths)
    return Source(samples, size, notes=notes, passed_over=passed_over)


def _check_passed_over(passed_over: Mapping[str, int], ignore: Sequence[str]) -> None:
    for kind, count in passed_over.items():
        if kind not in ignore and kind.rpartition(".")[2] in EXTENSIONS:
            raise InputError(
                f"{count:,} members end in .{kind} and are not used: a sample's name ends at its "
                f"first dot; rename them, or leave them out with --ignore={kind}"
            )


@dataclasses.dataclass
class _Group:
    """The members of one sample: extension -> content (of images beside it, or their places)."""

    archive: str
    key: str
    members: dict[str, bytes] = dataclasses.field(default_factory=dict)
    images: list[bytes | str] = dataclasses.field(default_factory=list)
    problem: str = ""
    position: int = 0


def _all_groups(
    paths: list[Path], references: bool, passed_over: collections.Counter[str]
) -> Iterator[_Group]:
    done = 0
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                for group in _groups(tar, path, references, passed_over):
                    group.position = done + tar.offset
                    yield group
                _check_end(tar)
        except tarfile.TarError as error:
            raise InputError(
                f"{path} is damaged ({error}): fetch it again or leave it out"
            ) from error
        done += path.stat().st_size


def _split_name(base: str) -> tuple[str, str]:
    """Return the name of a sample and the extension of its member, in small letters."""
    stem, _, extension = base.partition(".")
    while "." in extension and extension[0].isdigit():  # the dot of a number
        more, _, extension = extension.partition(".")
        stem += f".{more}"
    return stem, extension.lower()


def _groups(
    tar: tarfile.TarFile, path: Path, references: bool, passed_over: collections.Counter[str]
) -> Iterator[_Group]:
    group = None
    while (member := tar.next()) is not None:
        # TarFile remembers every member: gigabytes for millions of them.
        tar.members.clear()  # type: ignore[attr-defined]
        directory, base = os.path.split(member.name.removeprefix("./"))
        stem, extension = _split_name(base)
        if member.isdir() or not stem:
            continue
        if extension not in EXTENSIONS:
            passed_over[extension] += 1
            continue
        key = os.path.join(directory, stem)
        if group is None or key != group.key or extension in group.members:
            if group is not None:
                yield group
            group = _Group(path.name, key)
        try:
            _check_member(member)
            if extension not in IMAGE_EXTENSIONS:
                group.members[extension] = _content(tar, member)
                continue
            group.members[extension] = b""
            place = f"{path}#{member.offset_data}+{member.size}"
            group.images.append(place if references else _content(tar, member))
        except ValueError as error:
            group.problem = str(error)
    if group is not None:
        yield group


def _check_member(member: tarfile.TarInfo) -> None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise ValueError(f"path leaves the archive: {member.name!r}")
    if not member.isreg():
        raise ValueError(f"link or device, not a file: {member.name!r}")
    check_size(member.size)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # as for every regular file
    return file.read()


def _sample(group: _Group, columns: Columns, repeated: bool) -> Sample:
    sample = Sample(f"{group.archive}:{group.key}", group.position, id=group.key)
    if repeated:
        sample.id = os.path.join(group.archive.removesuffix(".tar"), group.key)
    sample.problem = group.problem
    row = _json(group)
    try:
        if isinstance(row, str):
            raise ValueError(row)
        for role, value in read_row(row or {}, columns).items():
            setattr(sample, role, value or getattr(sample, role))
        sample.extra = without_roles(row or {}, columns)
        written = [
            line.strip()
            for kind, data in group.members.items()
            if kind in CAPTION_EXTENSIONS
            for line in _text(data).splitlines()
        ]
        # img2dataset writes the same caption into .txt and .json.
        sample.captions = list(dict.fromkeys(filter(None, written + sample.captions)))
        if LABEL_EXTENSION in group.members and not sample.label:
            sample.label = _text(group.members[LABEL_EXTENSION])
        if ID_EXTENSION in group.members and "id" not in columns:
            sample.id = _text(group.members[ID_EXTENSION]) or sample.id
    except ValueError as error:
        sample.problem = sample.problem or str(error)
    if group.images:
        sample.image = group.images[0]
    else:
        sample.problem = sample.problem or (
            "no image: none next to its other members (pack with tar --sort=name)"
        )
    return sample


def _json(group: _Group) -> dict[str, Any] | str | None:
    """Return the row of the JSON member, the reason why it is none, or None without a member."""
    if "json" not in group.members:
        return None
    try:
        return json_row(_text(group.members["json"]))
    except ValueError as error:
        return str(error)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def _check_archive(path: Path) -> None:
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
