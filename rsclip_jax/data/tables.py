"""Tables: JSONL, CSV and JSON files with one row an image, or one row a caption."""

import collections
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from rsclip_jax.data.image_root import ImageRoot
from rsclip_jax.data.likely import check_values
from rsclip_jax.data.sources import InputError, Sample, Source, expand_input, some
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
    file_splits: bool = True,
) -> Source:
    """Open JSONL, CSV or JSON files, and read them once: a column may come in late rows only.

    Rows of the same id with one caption each are merged (`caption_rows`). Images may lie in folders
    of the image root (`image_root`). A row that names no split has that of its file
    (`splits.of_files`). Of several files, one without any caption or label is left out.

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
      file_splits: whether names of files tell splits.

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
    if not images and len({path.parent for path in paths}) > 1:
        raise InputError(
            f"--input={pattern}: the tables lie in several folders; give the one that the paths of "
            "images are relative to, or that holds these folders, with --images"
        )
    images = images or str(paths[0].parent)
    if not os.path.isdir(images):
        raise InputError(f"--images={images}: no such directory")
    read_lines = functools.partial(csv_rows, delimiter=delimiter, quoting=quoting)
    documents = json_document.Documents(encoding)
    readers: dict[str, Callable[[Path], Iterator[json_document.Row]]] = {
        "json": documents.rows,
        "jsonl": functools.partial(_file_rows, _jsonl_rows, encoding),
        "csv": functools.partial(_file_rows, read_lines, encoding),
    }
    read_file = readers[form]
    start = list(itertools.islice(itertools.chain.from_iterable(map(read_file, paths)), PEEK))
    if form == "jsonl" and start:
        _check_lines(start[0][1], paths[0], encoding)
    good = [row for _, row, _ in start if isinstance(row, dict)]
    _check_encoding(start, good, encoding, paths[0])
    if not good:
        reason = f"{start[0][0]}: {start[0][1]}" if start else "it is empty"
        raise InputError(f"--input={pattern}: no row can be read; {reason}")
    survey, filled_in = _survey(paths, read_file)
    examples = survey.examples
    columns = resolve(survey.filled, given or {}, str(paths[0]), examples)
    _check_columns(columns, list(survey.filled), paths[0], form)
    notes: list[str] = []
    filled: Mapping[str, int] = survey.filled
    if ignore is not None:
        notes += documents.notes()
        notes += label_notes(filled, given or {}, columns)
        filled, paths = _with_texts(filled, filled_in, columns, notes)
    image, *_ = columns["image"]
    told = sum(filled[name] for name in columns.get("split", ()))
    tell_split = file_splits and told < filled[image]
    splits = of_files(paths, notes if tell_split else [])

    def read() -> Iterator[_Row]:
        done = 0
        for path in paths:
            for where, row, position in read_file(path):
                yield where, row, done + position, splits.get(path, "")
            done += path.stat().st_size

    first = [
        (row, split) for _, row, _, split in itertools.islice(read(), PEEK) if isinstance(row, dict)
    ]
    root = ImageRoot(images, first, columns)
    notes += root.notes()
    if ignore is not None:
        unread = [name for name in survey.filled if name != root.column]
        unused = check_unused(unread, columns, ignore, str(paths[0]), examples)
        notes += column_notes(filled, columns, [name for name in unused if name in filled])
        _check_values(examples, unused, ignore, columns, root, paths[0])

    def samples() -> Iterator[Sample]:
        for where, row, position, split in read():
            if isinstance(row, str):
                yield Sample(where, position, problem=row)
            else:
                sample = _row_sample(where, position, row, columns, root, split)
                sample.split = sample.split or (split if tell_split else "")
                yield sample

    size = sum(path.stat().st_size for path in paths)
    texts = [role for role in LIST_ROLES if role in columns]
    merged = functools.partial(
        merge_rows, samples, texts[0] if texts else "", lambda sample: stored_split(sample.split)
    )
    return Source(merged, size, root.path, needs_text=bool(_texts(columns)), notes=notes)


def _survey(
    paths: Sequence[Path], read_file: Callable[[Path], Iterator[json_document.Row]]
) -> tuple[Survey, dict[Path, collections.Counter[str]]]:
    """Survey all rows; also count by file how many of them fill each column."""
    survey = Survey(str(paths[0]))
    filled_in = {}
    for path in paths:
        before = collections.Counter(survey.filled)
        for _, row, _ in read_file(path):
            if isinstance(row, dict):
                survey.add(row)
        filled_in[path] = collections.Counter(survey.filled) - before
    return survey, filled_in


def _with_texts(
    filled: Mapping[str, int],
    filled_in: Mapping[Path, collections.Counter[str]],
    columns: Columns,
    notes: list[str],
) -> tuple[Mapping[str, int], list[Path]]:
    """Leave out files without any text, such as COCO's of boxes alone; add a note for each.

    Returns:
      How many rows of the others fill each column, and the others.

    Raises:
      InputError: there is no text at all.
    """
    names = _texts(columns)
    if not names:  # pairs of images
        return filled, list(filled_in)
    if not any(filled[name] for name in names):
        raise InputError(
            f"{next(iter(filled_in))}: its columns of captions and labels ({', '.join(names)}) are "
            "empty in all rows; name others with --caption_columns, --long_caption_columns or "
            "--label_column"
        )
    # Of rows that cannot be read each is told.
    without = {p: of for p, of in filled_in.items() if of and not any(of[name] for name in names)}
    if not without:
        return filled, list(filled_in)
    count = sum(of[columns["image"][0]] for of in without.values())
    notes.append(
        f"not used: {some([path.name for path in without])}, none of whose {count:,} images has a "
        "caption or label"
    )
    used = {path: of for path, of in filled_in.items() if path not in without}
    return sum(used.values(), collections.Counter()), list(used)


def _texts(columns: Columns) -> list[str]:
    return [name for role in TEXT_ROLES for name in columns.get(role, ())]


def _check_values(
    rows: list[dict],
    unused: Sequence[str],
    ignore: Sequence[str],
    columns: Columns,
    root: ImageRoot,
    path: Path,
) -> None:
    """Refuse rows that all have one problem, and columns by their values (`likely`)."""
    samples = [_row_sample("", 0, row, columns, root, "") for row in rows]
    problems = [sample.problem for sample in samples]
    if len({problem.partition(":")[0] for problem in problems}) == 1 and problems[0]:
        raise InputError(f"{path}: none of the first {len(rows)} rows can be used: {problems[0]}")

    def is_new_image(number: int, given: str) -> bool:
        if "\0" in given:
            return False
        place = os.path.join(root.path, given.replace("\\", "/"))
        sample = samples[number]
        used = [
            os.path.realpath(os.path.join(root.path, os.fsdecode(image)))
            for image in (sample.image, sample.ir)
            if image
        ]
        return os.path.isfile(place) and os.path.realpath(place) not in used

    check_values(rows, unused, ignore, str(path), samples, is_new_image)


def _check_lines(row: dict | str, path: Path, encoding: str) -> None:
    """A JSON document is told at once: as JSONL it would be one odd row, or a thousand broken ones.

    Args:
      row: the first one of `path`.
    """
    whole = isinstance(row, dict) and json_document.row_lists(row) is not None
    if whole or (isinstance(row, str) and json_document.is_document(path, encoding)):
        raise InputError(f"{path} is one JSON document, not one object a line: use --format=json")


def _check_encoding(
    first: list[json_document.Row], good: list[dict], encoding: str, path: Path
) -> None:
    """A wrong --encoding is told at once, not as a skipped sample for each row it garbles."""
    garbled = [row for _, row, *_ in first if isinstance(row, str) and row.startswith(GARBLED)]
    fits = any(not str(row).isascii() for row in good)
    if garbled and not fits:
        raise wrong_encoding(path, encoding)


def _check_columns(columns: Columns, present: list[str], path: Path, form: str) -> None:
    named = ", named by its first line" if form == "csv" else ""
    kinds = f"{path}: none of its columns ({', '.join(present)}{named}) is known to hold"
    if "image" not in columns:
        raise InputError(f"{kinds} image paths; name it with --image_column")
    if not {"captions", "long_captions", "label", "ir"} & set(columns):
        raise InputError(
            f"{kinds} captions, labels or infrared images; name one with --caption_columns, "
            "--long_caption_columns, --label_column or --ir_column"
        )


def _row_sample(
    where: str, position: int, row: dict, columns: Columns, root: ImageRoot, split: str
) -> Sample:
    """Read a row.

    Args:
      split: that its file is called like.
    """
    image, *_ = columns["image"]
    for name in (image, *columns.get("ir", ())):
        row[name] = root.mended(row.get(name))
    try:
        sample = Sample(where, position, **read_row(row, columns))
        assert isinstance(sample.image, str)  # a path, as in every table
        if sample.image:
            sample.image = root.find(sample.image, row, sample.split or split)
        if sample.ir and isinstance(sample.ir, str):
            sample.ir = root.find(sample.ir, row, sample.split or split)
    except ValueError as error:
        return Sample(where, position, problem=str(error))
    sample.extra = without_roles(row, columns)
    if "id" not in columns:
        sample.id = sample.image
    if not sample.image:
        sample.problem = f"no image: column {image!r} is empty"
    elif not sample.id:
        sample.problem = f"no id: column {columns['id'][0]!r} is empty"
    return sample


def _file_rows(rows: Callable, encoding: str, path: Path) -> Iterator[json_document.Row]:
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
