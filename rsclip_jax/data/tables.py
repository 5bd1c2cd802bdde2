"""Tables: JSONL, CSV and JSON files with one row an image, or one row a caption."""

import functools
import glob
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rsclip_jax.data import json_document
from rsclip_jax.data.caption_rows import merge_rows
from rsclip_jax.data.cells import TOO_DEEP, is_too_deep
from rsclip_jax.data.columns import (
    LIST_ROLES,
    TEXT_ROLES,
    Columns,
    check_unused,
    label_notes,
    read_row,
    resolve,
    without_roles,
)
from rsclip_jax.data.csv_rows import GARBLED, MAX_ROW_CHARS, csv_rows, is_garbled
from rsclip_jax.data.likely import check_values
from rsclip_jax.data.sources import InputError, Sample, Source, expand_input, is_image_name
from rsclip_jax.data.splits import of_files, usual_name
from rsclip_jax.data.survey import PEEK, Survey, column_notes
from rsclip_jax.data.text_files import check_text, find_encoding, shown, wrong_encoding

SUFFIXES = {"jsonl": (".jsonl", ".json"), "csv": (".csv", ".tsv"), "json": (".json",)}

# A row that is none is the reason why: a string.
# (where, row, bytes read, split that its file is called like)
_Row = tuple[str, dict[str, Any] | str, int, str]


def open_table(
    form: str,
    pattern: str,
    images: str = "",
    given: Columns | None = None,
    encoding: str = "utf-8",
    delimiter: str = "",
    ignore: Sequence[str] | None = None,
    quoting: str = "",
    stored_split: Callable[[str], str] = usual_name,
) -> Source:
    """Open JSONL, CSV or JSON files, and read them once: a column may come in late rows only.

    Rows of the same id with one caption each are merged (`caption_rows`). If none of the first
    images is in the image root, but one is in the folder of its class there, all are looked for
    in ROOT/CLASS. A row that names no split has that of its file (`splits.of_files`).

    Args:
      form: "jsonl", "csv" (the first line names the columns), or "json" (see `json_document`).
      pattern: see `expand_input`.
      images: directory that the image paths are relative to; default: that of the first table.
      given: role -> column names, where they are not the usual ones.
      encoding: of the text; a byte order mark is passed over.
      delimiter: between the cells of CSV; "": tabs in `.tsv`, else what the first line has most of.
      ignore: columns left out on purpose, though they look like captions or images; None: no
        column is checked, the caller keeps `Sample.extra`.
      quoting: of CSV, see `csv_rows`.
      stored_split: the split that a row's own name of it stands for.

    Raises:
      InputError: see `expand_input`, `check_text`, `check_unused`, `check_values`, `csv_rows`; no
        usable row at the start, no caption and no label, a column that is not there, wrong
        encoding, image root that is not there or holds none of the first images, a JSON document
        where JSONL is expected or the other way round.
    """
    paths = expand_input(pattern, SUFFIXES[form])
    encoding = find_encoding(encoding)
    for path in paths:
        check_text(path, encoding)
    root = os.path.realpath(images or paths[0].parent)
    if not os.path.isdir(root):
        raise InputError(f"--images={images}: no such directory")
    notes: list[str] = []
    splits = of_files(paths, notes)
    read_lines = functools.partial(csv_rows, delimiter=delimiter, quoting=quoting)
    readers: dict[str, Callable] = {
        "json": json_document.read_rows,
        "jsonl": functools.partial(_file_rows, _jsonl_rows),
        "csv": functools.partial(_file_rows, read_lines),
    }

    def read() -> Iterator[_Row]:
        done = 0
        for path in paths:
            for where, row, position in readers[form](path, encoding):
                yield where, row, done + position, splits.get(path, "")
            done += path.stat().st_size

    rest = read()
    first = list(itertools.islice(rest, PEEK))
    if form == "jsonl" and first:
        _check_lines(first[0][1], paths[0], encoding)
    good = [row for _, row, *_ in first if isinstance(row, dict)]
    _check_encoding(first, good, encoding, paths[0])
    if not good:
        reason = f"{first[0][0]}: {first[0][1]}" if first else "it is empty"
        raise InputError(f"--input={pattern}: no row can be read; {reason}")
    survey = Survey(str(paths[0]))
    for _, row, *_ in itertools.chain(first, rest):
        if isinstance(row, dict):
            survey.add(row)
    filled, examples = survey.filled, survey.examples
    columns = resolve(filled, given or {}, str(paths[0]), examples)
    _check_columns(columns, list(filled), paths[0])
    unused = []
    if ignore is not None:
        if form == "json":
            notes += json_document.notes(paths, encoding)
        notes += label_notes(filled, given or {}, columns)
        unused = check_unused(filled, columns, ignore, str(paths[0]), examples)
        notes += column_notes(filled, columns, unused)
        _check_texts(filled, columns, paths[0])
    image = columns["image"][0]
    paths_of = (*columns["image"], *columns.get("ir", ()))
    for row in (*good, *examples):
        _mend_paths(row, paths_of, slashes=False)
    slashes = _has_backslashes(good, image, root)
    if slashes:
        notes.append(f"backslashes in column {image!r} are read as slashes")
        for row in examples:
            _mend_paths(row, paths_of, slashes)
    by_class = _in_class_folders(good, columns, root)
    if ignore is not None:
        _check_values(examples, unused, ignore, columns, by_class, paths[0], root)

    def samples() -> Iterator[Sample]:
        for where, row, position, split in read():
            if isinstance(row, str):
                yield Sample(where, position, problem=row)
            else:
                _mend_paths(row, paths_of, slashes)
                sample = _row_sample(where, position, row, columns, by_class)
                sample.split = sample.split or split
                yield sample

    size = sum(path.stat().st_size for path in paths)
    texts = [role for role in LIST_ROLES if role in columns]
    merged = functools.partial(
        merge_rows, samples, texts[0] if texts else "", lambda sample: stored_split(sample.split)
    )
    return Source(merged, size, root, notes=notes)


def _check_values(
    rows: list[dict],
    unused: Sequence[str],
    ignore: Sequence[str],
    columns: Columns,
    by_class: bool,
    path: Path,
    root: str,
) -> None:
    """Refuse rows that all have one problem, and columns by their values (`likely`)."""
    samples = [_row_sample("", 0, row, columns, by_class) for row in rows]
    problems = [sample.problem for sample in samples]
    if len({problem.partition(":")[0] for problem in problems}) == 1 and problems[0]:
        raise InputError(f"{path}: none of the first {len(rows)} rows can be used: {problems[0]}")

    def is_new_image(number: int, given: str) -> bool:
        place = os.path.join(root, given.replace("\\", "/"))
        sample = samples[number]
        used = [
            os.path.realpath(os.path.join(root, os.fsdecode(image)))
            for image in (sample.image, sample.ir)
            if image
        ]
        return os.path.isfile(place) and os.path.realpath(place) not in used

    check_values(rows, unused, ignore, str(path), samples, is_new_image)


def _mend_paths(row: dict[str, Any], names: Iterable[str], slashes: bool) -> None:
    """Take the paths of objects such as Hugging Face's {"path": ..., "bytes": null}."""
    for name in names:
        cell = row.get(name)
        if isinstance(cell, dict) and not cell.get("bytes"):
            cell = row[name] = cell.get("path", cell)
        if slashes and isinstance(cell, str):
            row[name] = cell.replace("\\", "/")


def _has_backslashes(rows: list[dict], column: str, root: str) -> bool:
    """Tell whether the paths of a table were written on Windows."""
    paths = [path for row in rows if isinstance(path := row.get(column), str) and "\\" in path]
    return bool(paths) and not any(os.path.lexists(os.path.join(root, path)) for path in paths)


def _check_lines(row: dict | str, path: Path, encoding: str) -> None:
    """A JSON document is told at once: as JSONL it would be one odd row, or a thousand broken ones.

    Args:
      row: the first one of `path`.
    """
    whole = isinstance(row, dict) and json_document.row_lists(row) is not None
    if whole or (isinstance(row, str) and json_document.is_document(path, encoding)):
        raise InputError(f"{path} is one JSON document, not one object a line: use --format=json")


def _check_encoding(first: list[_Row], good: list[dict], encoding: str, path: Path) -> None:
    """A wrong --encoding is told at once, not as a skipped sample for each row it garbles."""
    garbled = [row for _, row, *_ in first if isinstance(row, str) and row.startswith(GARBLED)]
    fits = any(not str(row).isascii() for row in good)
    if garbled and not fits:
        raise wrong_encoding(path, encoding)


def _check_columns(columns: Columns, present: list[str], path: Path) -> None:
    kinds = f"{path}: none of its columns ({', '.join(present)}) is known to hold"
    if "image" not in columns:
        raise InputError(f"{kinds} image paths; name it with --image_column")
    if not {"captions", "long_captions", "label"} & set(columns):
        raise InputError(
            f"{kinds} captions or labels; name one with --caption_columns, --long_caption_columns "
            "or --label_column"
        )


def _check_texts(filled: Mapping[str, int], columns: Columns, path: Path) -> None:
    names = [name for role in TEXT_ROLES for name in columns.get(role, ())]
    if not any(filled[name] for name in names):
        raise InputError(
            f"{path}: its columns of captions and labels ({', '.join(names)}) are empty in all "
            "rows; name others with --caption_columns, --long_caption_columns or --label_column"
        )


def _in_class_folders(rows: list[dict], columns: Columns, root: str) -> bool:
    """Tell whether ROOT/CLASS/FILE is what the table calls FILE.

    A wrong --images is told at once, not after a million missing files.
    """
    column = columns["image"][0]
    label = columns.get("label", ("",))[0]
    rows = [row for row in rows if isinstance(row.get(column), str) and row[column]]
    if not rows or any(os.path.lexists(os.path.join(root, row[column])) for row in rows):
        return False
    if any(
        os.path.lexists(os.path.join(root, str(row.get(label, "")).strip(), row[column]))
        for row in rows
    ):
        return True
    raise InputError(
        f"none of the first {len(rows)} images of column {column!r} is in {root} (such as "
        f"{rows[0][column]!r}); {_how_to_find(rows[0][column], root)}"
    )


def _how_to_find(name: str, root: str) -> str:
    if "://" in name:
        return "fetch what URLs point to first: img2dataset writes tars for --format=webdataset"
    for stem in (name, os.path.splitext(name)[0]):
        like = glob.glob(f"{glob.escape(os.path.join(root, stem))}.*")
        if images := sorted(filter(is_image_name, like)):
            there = os.path.relpath(images[0], root)
            return f"there is {there!r}: write names with the suffixes of their files"
    return "give their directory with --images"


def _row_sample(where: str, position: int, row: dict, columns: Columns, by_class: bool) -> Sample:
    try:
        sample = Sample(where, position, **read_row(row, columns))
    except ValueError as error:
        return Sample(where, position, problem=str(error))
    assert isinstance(sample.image, str)  # a path, as in every table
    sample.extra = without_roles(row, columns)
    if by_class and sample.image:
        sample.image = os.path.join(sample.label, sample.image)
    if "id" not in columns:
        sample.id = sample.image
    if not sample.image:
        sample.problem = f"no image: column {columns['image'][0]!r} is empty"
    elif not sample.id:
        sample.problem = f"no id: column {columns['id'][0]!r} is empty"
    return sample


def _file_rows(
    rows: Callable, path: Path, encoding: str
) -> Iterator[tuple[str, dict[str, Any] | str, int]]:
    # A row that is not in `encoding` shall cost that row only: alien bytes become surrogates.
    with open(path, encoding=encoding, errors="surrogateescape", newline="") as file:
        try:
            for line, row in rows(file, path):
                yield f"{path.name}:{line}", row, file.buffer.tell()  # type: ignore[attr-defined]
        except UnicodeDecodeError as error:
            raise wrong_encoding(path, encoding) from error


def _jsonl_rows(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    number = 0
    while line := file.readline(MAX_ROW_CHARS):
        number += 1
        if not line.endswith("\n") and len(line) == MAX_ROW_CHARS:
            while (rest := file.readline(MAX_ROW_CHARS)) and not rest.endswith("\n"):
                pass
            yield number, f"row too long: more than {MAX_ROW_CHARS:,} characters"
        elif is_garbled(line):
            yield number, f"{GARBLED}: the line has bytes that are not {shown(file.encoding)}"
        elif line.strip():
            yield number, json_row(line)


def json_row(text: str) -> dict[str, Any] | str:
    """Parse one JSON object, or return the reason why `text` is none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(row, dict):
        return f"not a JSON object: {text:.80}"
    return TOO_DEEP if is_too_deep(row) else row
