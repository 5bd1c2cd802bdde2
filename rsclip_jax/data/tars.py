"""Webdataset tars, RS5M's among them: first their names are read, then the samples."""

import collections
import dataclasses
import functools
import itertools
import os
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsclip_jax.data.columns import Columns, check_unused, read_row, resolve, without_roles
from rsclip_jax.data.likely import check_values
from rsclip_jax.data.seen import Repeats, text_key
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
    above: str = "",
) -> Source:
    """Open webdataset tars: members of one name in one archive make a sample.

    The name ends at its first dot, but dots of numbers (`lat0.5_lon7.25.jpg`) belong to it. Members
    that lie apart (a tar made without --sort=name) are put together, unless two of them have the
    same extension: then neighbours make a sample.

    Members `.jpg/.png/.webp/.tif/.../.img_content` are the image, `.txt/.text/.caption` captions,
    one a line, `.cls` the label, `.img_name` the id (without it, the common name of the members),
    `.json` a row of columns as in a table. Others are passed over, and noted.

    Args:
      pattern: see `expand_input`.
      given: role -> names of keys in the JSON members, where they are not the usual ones.
      references: read no images; a sample's is `PATH#OFFSET+SIZE`, where it lies.
      ignore: extensions and keys left out on purpose; where archives have names in common, the id
        of a sample is ARCHIVE/NAME. None: the caller does not mind either.
      above: the id of a sample begins with its archive's path below this directory.

    Raises:
      InputError: see `expand_input`; an archive that is compressed, cut off or none at all; a
        column that the first JSON members do not have; keys or members that look like captions or
        images and are not used.
    """
    paths = expand_input(pattern, (".tar",))
    for path in paths:
        _check_archive(path)
    names = _Names(ignore or ())
    notes, shared = ([], False) if ignore is None else names.check(paths)
    groups = functools.partial(_all_groups, paths, references, names)
    with_rows = [
        (group, row)
        for group in _first_groups(paths, names)
        if isinstance(row := _json(group), dict)
    ]
    rows = [row for _, row in with_rows]
    present = list(dict.fromkeys(name for row in rows for name in row))
    where = f"the JSON of {paths[0]}"
    columns = resolve(present, given or {}, where)
    unused = [] if ignore is None else check_unused(present, columns, ignore, where, rows)
    # The image comes from the members: a JSON key such as "path" or "ir" tells of the original.
    columns = {role: names for role, names in columns.items() if role not in ("image", "ir")}
    if unused:
        notes.append(f"keys of the JSON members not used: {', '.join(unused)}")
        first = [_sample(group, columns, "") for group, _ in with_rows]
        check_values(rows, unused, ignore or (), where, first)
    if shared:
        above = os.path.commonpath([path.absolute().parent for path in paths])

    def samples() -> Iterator[Sample]:
        for group in groups():
            yield _sample(group, columns, above)

    size = sum(path.stat().st_size for path in paths)
    return Source(samples, size, notes=notes)


class _Names:
    """The names in archives, read from the headers alone: which of them come more than once.

    Args:
      ignore: extensions that are left out.
    """

    def __init__(self, ignore: Sequence[str]):
        self.ignore = ignore
        self._passed_over: collections.Counter[str] = collections.Counter()
        self._repeated: dict[Path, np.ndarray] = {}  # keys of runs whose name has several

    def repeats(self, path: Path) -> Repeats:
        """Return which runs of an archive have a name that others have too."""
        if path not in self._repeated:
            self._scan(path)
        return Repeats(self._repeated[path])

    def check(self, paths: list[Path]) -> tuple[list[str], bool]:
        """Read all archives; return notes, and whether archives have names in common.

        Raises:
          InputError: members that look like captions or images and are not used.
        """
        said = time.monotonic()
        per_archive = []
        for number, path in enumerate(paths):
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print(f"reading names: {number:,} of {len(paths):,} archives", file=sys.stderr)
            per_archive.append(self._scan(path))
        _check_passed_over(self._passed_over, self.ignore)
        notes = [f"{n:,} members .{kind} not used" for kind, n in sorted(self._passed_over.items())]
        if apart := sum(len(np.unique(keys)) for keys in self._repeated.values()):
            notes.append(
                f"{apart:,} names come again later in their archive: members are put together "
                "unless two have one extension (tar --sort=name keeps them together)"
            )
        shared = len(Repeats(np.concatenate(per_archive)))
        if shared:
            notes.append(f"{shared:,} names are in several archives: ids are ARCHIVE/NAME")
        return notes, bool(shared)

    def _scan(self, path: Path) -> np.ndarray:
        """Read the names in an archive; return the key of each.

        Raises:
          InputError: two images have one name.
        """
        runs = []
        images: dict[str, list[int]] = {}
        for _, run in _runs(path, self.ignore, self._passed_over):
            runs.append(text_key(run.key))
            for extension in IMAGE_EXTENSIONS & run.places.keys():
                images.setdefault(extension, []).append(runs[-1])
        for one, other in itertools.combinations(sorted(images), 2):
            if both := len(np.intersect1d(images[one], images[other])):
                raise InputError(
                    f"{path}: {both:,} names have two images, .{one} and .{other}: leave one out "
                    f"with --ignore={other}"
                )
        keys, counts = np.unique(np.array(runs, np.uint64), return_counts=True)
        self._repeated[path] = np.repeat(keys[counts > 1], counts[counts > 1])
        return keys


def _check_passed_over(passed_over: Mapping[str, int], ignore: Sequence[str]) -> None:
    for kind, count in passed_over.items():
        if kind not in ignore and kind.rpartition(".")[2] in EXTENSIONS:
            raise InputError(
                f"{count:,} members end in .{kind} and are not used: a sample's name ends at its "
                f"first dot; rename them, or leave them out with --ignore={kind}"
            )


@dataclasses.dataclass
class _Group:
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


def _all_groups(
    paths: list[Path], references: bool, names: _Names, join: bool = True
) -> Iterator[_Group]:
    """Yield the samples of all archives, read.

    What lies apart waits for its last member (if it is to be joined): 200 bytes a member of one
    archive.
    """
    done = 0
    for path in paths:
        repeats = names.repeats(path) if join else Repeats(())
        held: dict[str, list[_Group]] = {}
        for tar, run in _runs(path, names.ignore, collections.Counter()):
            to_come = repeats.take(text_key(run.key)) if len(repeats) else -1
            complete = [run]
            if to_come >= 0:
                held.setdefault(run.key, []).append(run)
                complete = [] if to_come else _joined(held.pop(run.key))
            for group in complete:
                _read(group, tar, references)
                group.position = done + tar.offset
                yield group
        done += path.stat().st_size


def _first_groups(paths: list[Path], names: _Names) -> list[_Group]:
    """Return the first samples; all names of the first archive are read only if it takes that."""
    first = list(itertools.islice(_all_groups(paths, True, names, join=False), PEEK))
    if all(len(group.places) == 1 for group in first):
        first = list(itertools.islice(_all_groups(paths, True, names), PEEK))
    return first


def _joined(runs: list[_Group]) -> list[_Group]:
    """Make one sample of the runs of one name, unless two have a member of the same kind."""
    kinds = [extension for run in runs for extension in run.places]
    if len(set(kinds)) < len(kinds):
        return runs
    for run in runs[1:]:
        runs[0].places.update(run.places)
        runs[0].problem = runs[0].problem or run.problem
    return runs[:1]


def _runs(
    path: Path, ignore: Sequence[str], passed_over: collections.Counter[str]
) -> Iterator[tuple[tarfile.TarFile, _Group]]:
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
                    run = _Group(path, key)
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


def _read(group: _Group, tar: tarfile.TarFile, references: bool) -> None:
    """Read the members of a sample, of its images only the first."""
    if group.problem:
        return
    for extension, (offset, size) in group.places.items():
        is_image = extension in IMAGE_EXTENSIONS
        if is_image and group.image:
            continue
        if is_image and references:
            group.image = f"{group.archive}#{offset}+{size}"
            continue
        # Not by seeking, which would empty the buffer that the headers are read through.
        data = os.pread(tar.fileobj.fileno(), size, offset)  # type: ignore[attr-defined]
        if is_image:
            group.image = data
        else:
            group.members[extension] = data


def _sample(group: _Group, columns: Columns, above: str) -> Sample:
    """Make a sample; its id begins with its archive's path below `above`, if that is given."""
    sample = Sample(f"{group.archive.name}:{group.key}", group.position, id=group.key)
    if above:
        archive = os.path.relpath(group.archive.absolute(), above).removesuffix(".tar")
        sample.id = os.path.join(archive, group.key)
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
    sample.image = group.image
    if not IMAGE_EXTENSIONS & group.places.keys():
        sample.problem = sample.problem or "no image: the archive has no member of this name for it"
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
