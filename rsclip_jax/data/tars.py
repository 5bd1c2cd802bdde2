"""Webdataset tars, RS5M's among them: first their names are read, then the samples."""

import collections
import functools
import itertools
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rsclip_jax.data.columns import (
    TEXT_ROLES,
    Columns,
    check_unused,
    label_notes,
    read_row,
    resolve,
    without_roles,
)
from rsclip_jax.data.likely import check_values
from rsclip_jax.data.seen import Repeats, text_key
from rsclip_jax.data.sources import InputError, Sample, Source, expand_input, some
from rsclip_jax.data.splits import is_split, of_files
from rsclip_jax.data.survey import PEEK, Survey, column_notes
from rsclip_jax.data.tables import json_row
from rsclip_jax.data.tar_members import (
    CAPTION_EXTENSIONS,
    EXTENSIONS,
    ID_EXTENSION,
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    Group,
    check_archive,
    read_runs,
)

# Parts of extensions that look like captions, images, infrared images or splits.
_LIKELY = re.compile(
    r".*(captions?|sentences?|descriptions?|texts?|titles?|splits?|subset|rgb|ir|infrared|thermal)"
)


def open_tars(
    pattern: str,
    given: Columns | None = None,
    references: bool = False,
    ignore: Sequence[str] | None = None,
    above: str = "",
    file_splits: bool = True,
) -> Source:
    """Open webdataset tars: members of one name in one archive make a sample.

    The name ends at its first dot, but dots of numbers (`lat0.5_lon7.25.jpg`) belong to it. Members
    that lie apart (a tar made without --sort=name) are put together, unless two of them have the
    same extension: then neighbours make a sample.

    Members `.jpg/.png/.webp/.tif/.../.img_content` are the image, `.txt/.text/.caption` captions,
    one a line, `.cls` the label, `.img_name` the id (without it, the common name of the members),
    `.json` a row of columns as in a table. Others are passed over, and noted. A sample whose row
    names no split has that of the first folder above it that is called like one; else that of its
    archive (`splits.of_files`).

    Args:
      pattern: see `expand_input`.
      given: role -> names of keys in the JSON members, where they are not the usual ones.
      references: read no images; a sample's is `PATH#OFFSET+SIZE`, where it lies.
      ignore: extensions and keys left out on purpose; where archives have names in common, the id
        of a sample is ARCHIVE/NAME. None: the caller does not mind either.
      above: the id of a sample begins with its archive's path below this directory.
      file_splits: whether names of archives tell splits.

    Raises:
      InputError: see `expand_input`; an archive that is compressed, cut off or none at all; a
        column that no JSON member has (without `ignore`, none of the first); keys or members that
        look like captions, images or splits and are not used.
    """
    paths = expand_input(pattern, (".tar",))
    for path in paths:
        check_archive(path)
    where = f"the JSON of {pattern}"
    survey = Survey(where)
    names = _Names(ignore or ())
    notes, shared = ([], False) if ignore is None else names.check(paths, survey)
    groups = functools.partial(_all_groups, paths, references, names)
    splits = of_files(paths, notes) if file_splits else {}
    with_rows = [
        (group, row)
        for group in _first_groups(paths, names)
        if isinstance(row := _json(group), dict)
    ]
    if ignore is None:
        for _, row in with_rows:
            survey.add(row)
    rows = survey.examples
    columns = resolve(survey.filled, given or {}, where, rows)
    unused = []
    if ignore is not None:
        notes += label_notes(survey.filled, given or {}, columns)
        unused = check_unused(survey.filled, columns, ignore, where, rows)
    # The image comes from the members: a JSON key such as "path" or "ir" tells of the original.
    columns = {role: names for role, names in columns.items() if role not in ("image", "ir")}
    if ignore is not None:
        _check_kinds(names.kinds, survey.filled, columns, pattern)
        used = {name for of in columns.values() for name in of}
        notes += column_notes(survey.filled, columns, [n for n in survey.filled if n not in used])
        first = [_sample(group, columns) for group, _ in with_rows]
        check_values([row for _, row in with_rows], unused, ignore, where, first)
    if shared:
        above = os.path.commonpath([path.absolute().parent for path in paths])

    def samples() -> Iterator[Sample]:
        for group in groups():
            sample = _sample(group, columns, above)
            sample.split = sample.split or _split_of(group.key) or splits.get(group.archive, "")
            yield sample

    size = sum(path.stat().st_size for path in paths)
    return Source(samples, size, notes=notes)


def _check_kinds(
    kinds: Collection[str], filled: Mapping[str, int], columns: Columns, pattern: str
) -> None:
    """Refuse archives without any image, caption or label."""
    texts = [name for role in TEXT_ROLES for name in columns.get(role, ()) if filled[name]]
    if not IMAGE_EXTENSIONS & set(kinds):
        raise InputError(
            f"--input={pattern} holds no images, but members {some(sorted(kinds)) or 'of no use'}"
        )
    if not texts and not (CAPTION_EXTENSIONS | {LABEL_EXTENSION}) & set(kinds):
        raise InputError(
            f"--input={pattern} holds no captions and no labels: add members .txt or .cls, or name "
            "keys of the members .json with --caption_columns or --label_column (there are "
            f"{', '.join(filled) or 'none'})"
        )


def _split_of(key: str) -> str:
    return next(filter(is_split, key.split("/")[:-1]), "")


class _Names:
    """The names in archives, read from the headers alone: which of them come more than once.

    Args:
      ignore: extensions that are left out.
    """

    def __init__(self, ignore: Sequence[str]):
        self.ignore = ignore
        self._passed_over: collections.Counter[str] = collections.Counter()
        self._splits: collections.Counter[str] = collections.Counter()  # runs, by their folder's
        self.kinds: set[str] = set()  # extensions of the members read
        self._repeated: dict[Path, np.ndarray] = {}  # keys of runs whose name has several

    def repeats(self, path: Path) -> Repeats:
        """Return which runs of an archive have a name that others have too."""
        if path not in self._repeated:
            self._scan(path)
        return Repeats(self._repeated[path])

    def check(self, paths: list[Path], survey: Survey) -> tuple[list[str], bool]:
        """Read all archives; return notes, and whether archives have names in common.

        Args:
          survey: gets the rows of the JSON members.

        Raises:
          InputError: members that look like captions or images and are not used.
        """
        said = time.monotonic()
        per_archive = []
        for number, path in enumerate(paths):
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print(f"reading names: {number:,} of {len(paths):,} archives", file=sys.stderr)
            per_archive.append(self._scan(path, survey))
        _check_passed_over(self._passed_over, self.ignore)
        notes = [f"{n:,} members .{kind} not used" for kind, n in sorted(self._passed_over.items())]
        if folders := sorted(filter(None, self._splits)):
            notes.append(f"splits are read off the folders in archives: {some(folders)}")
        if apart := sum(len(np.unique(keys)) for keys in self._repeated.values()):
            notes.append(
                f"members that lie apart in their archive were put together by name, of {apart:,} "
                "names; where two had one extension, neighbours were"
            )
        shared = len(Repeats(np.concatenate(per_archive)))
        if shared:
            notes.append(
                f"{shared:,} names are in several archives: ids are ARCHIVE/NAME (or .img_name)"
            )
        return notes, bool(shared)

    def _scan(self, path: Path, survey: Survey | None = None) -> np.ndarray:
        """Read the names in an archive, and its JSON if that is asked for; return the key of each.

        Raises:
          InputError: two images have one name.
        """
        runs = []
        images: dict[str, list[int]] = {}
        with open(path, "rb") as file:
            for run in read_runs(file, path, self.ignore, self._passed_over):
                if survey and "json" in run.places and not run.problem:
                    run.members["json"] = _member(file, *run.places["json"])
                    if isinstance(row := _json(run), dict):
                        survey.add(row)
                runs.append(text_key(run.key))
                self.kinds |= run.places.keys()
                self._splits[_split_of(run.key)] += 1
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
        parts = [part.rstrip("0123456789") for part in re.split(r"[._-]", kind)]
        if kind not in ignore and any(p in EXTENSIONS or _LIKELY.fullmatch(p) for p in parts):
            raise InputError(
                f"{count:,} members end in .{kind} and are not used: a sample's name ends at its "
                "first dot; rename them to .txt (captions) or into .json (splits), list pairs of "
                f"images in a table, or leave them out with --ignore={kind}"
            )


def _all_groups(
    paths: list[Path], references: bool, names: _Names, join: bool = True
) -> Iterator[Group]:
    """Yield the samples of all archives, read.

    What lies apart waits for its last member (if it is to be joined): 200 bytes a member of one
    archive.
    """
    done = 0
    for path in paths:
        repeats = names.repeats(path) if join else Repeats(())
        held: dict[str, list[Group]] = {}
        with open(path, "rb") as file:
            for run in read_runs(file, path, names.ignore, collections.Counter()):
                to_come = repeats.take(text_key(run.key)) if len(repeats) else -1
                complete = [run]
                if to_come >= 0:
                    held.setdefault(run.key, []).append(run)
                    complete = [] if to_come else _joined(held.pop(run.key))
                position = done + run.position
                for group in complete:
                    _read(group, file, references)
                    group.position = position
                    yield group
        done += path.stat().st_size


def _first_groups(paths: list[Path], names: _Names) -> list[Group]:
    """Return the first samples; all names of the first archive are read only if it takes that."""
    first = list(itertools.islice(_all_groups(paths, True, names, join=False), PEEK))
    if all(len(group.places) == 1 for group in first):
        first = list(itertools.islice(_all_groups(paths, True, names), PEEK))
    return first


def _joined(runs: list[Group]) -> list[Group]:
    """Make one sample of the runs of one name, unless two have a member of the same kind."""
    kinds = [extension for run in runs for extension in run.places]
    if len(set(kinds)) < len(kinds):
        return runs
    for run in runs[1:]:
        runs[0].places.update(run.places)
        runs[0].problem = runs[0].problem or run.problem
    return runs[:1]


def _read(group: Group, file: BinaryIO, references: bool) -> None:
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
        data = _member(file, offset, size)
        if is_image:
            group.image = data
        else:
            group.members[extension] = data


def _member(file: BinaryIO, offset: int, size: int) -> bytes:
    # Not by seeking, which would empty the buffer that the headers are read through.
    return os.pread(file.fileno(), size, offset)


def _sample(group: Group, columns: Columns, above: str = "") -> Sample:
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


def _json(group: Group) -> dict[str, Any] | str | None:
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
