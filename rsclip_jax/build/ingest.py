"""Rows from what lies there: all that `rsclip_jax.prepare` reads, img2dataset's output, URL tables.

Rows are read file by file, in parallel; captions of one image that are rows of their own must lie
in one file. Images stay where they are.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from rsclip_jax.build import files, img2dataset
from rsclip_jax.build.rows import Row, new_row, open_parquet
from rsclip_jax.build.stages import DROPPED, Stage
from rsclip_jax.data.cells import texts_of
from rsclip_jax.data.columns import ROLES, read_row, resolve, without_roles
from rsclip_jax.data.folders import open_folder
from rsclip_jax.data.rgb_ir_sets import SETS
from rsclip_jax.data.schema import check_name
from rsclip_jax.data.seen import SeenKeys, text_key
from rsclip_jax.data.sources import InputError, Sample, Source, expand_input, place_below
from rsclip_jax.data.splits import of_files, usual_name
from rsclip_jax.data.tables import SUFFIXES, open_table
from rsclip_jax.data.tars import open_tars
from rsclip_jax.data.text import without_surrogates

# `urls`: Parquet files with the columns of a table, such as LAION's metadata: no images yet.
FORMS = (*SUFFIXES, "folder", "webdataset", "img2dataset", "urls")
CLASS_FOLDERS = ("first", "last")
_URL_COLUMNS = ("url", "image_url", "img_url")


@dataclasses.dataclass(frozen=True)
class Input:
    """One source of rows.

    Attributes:
      name: of the data set, in `source` and before each id; what a column calls the source goes
        into `meta`.
      form: one of FORMS, each as in `rsclip_jax.prepare`.
      path: what --input is there; of img2dataset its output folder.
      images, encoding, class_folder, follow_links: the flags of `rsclip_jax.prepare`.
      columns: role -> names of its columns, where they are not the usual ones.
      split: of rows that name none.
      licence: told in the data card.
    """

    name: str
    form: str
    path: str
    images: str = ""
    encoding: str = "utf-8"
    class_folder: str = "first"
    follow_links: bool = False
    columns: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    split: str = ""
    licence: str = ""

    def __post_init__(self):
        check_name("source", self.name)
        if self.form not in FORMS:
            more = ""
            if self.form in (*SETS, "tfds"):
                more = "; prepare it with rsclip_jax.prepare, it needs no building"
            raise InputError(
                f"source {self.name!r}: form {self.form!r}, expected one of "
                f"{', '.join(FORMS)}{more}"
            )
        if self.class_folder not in CLASS_FOLDERS:
            raise InputError(
                f"source {self.name!r}: class_folder {self.class_folder!r}, expected one of "
                f"{', '.join(CLASS_FOLDERS)}"
            )
        if unknown := sorted(set(self.columns) - set(ROLES)):
            raise InputError(f"source {self.name!r}: columns of {unknown}; roles are {list(ROLES)}")
        if self.split not in ("", "train", "val", "test"):
            raise InputError(
                f"source {self.name!r}: split {self.split!r}, expected train, val or test"
            )

    def pieces(self) -> list[str]:
        """Return what can be read in parallel: files, a shard of img2dataset, or a whole folder."""
        if self.form == "img2dataset":
            return img2dataset.shards(self.path)
        if self.form == "folder":
            return [self.path]
        suffixes = {"webdataset": (".tar",), "urls": (".parquet",)} | SUFFIXES
        return [os.path.abspath(path) for path in expand_input(self.path, suffixes[self.form])]


def ingest_stage(inputs: list[Input]) -> Stage:
    """Return the stage that reads all inputs.

    Raises:
      InputError: two of one name, or one that is not there or cannot be read.
    """
    names = [given.name for given in inputs]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"sources need names of their own: {names}")
    pieces = []
    for number, given in enumerate(inputs):
        try:
            own = given.pieces()
            named = _splits_of_names(given, own)
            for piece in own:
                if given.form in (*SUFFIXES, "webdataset", "folder"):
                    _open(given, piece)  # its mistakes are told before the work begins
                split = [named[piece]] if piece in named else []
                pieces.append([number, piece, _state(given, piece), *split])
        except InputError as error:
            raise InputError(
                f"source {given.name!r}: {error} (flags of rsclip_jax.prepare are fields of "
                f"config.sources.{given.name} here: path for --input, form for --format, images, "
                "encoding, columns, follow_links)"
            ) from error
    # A licence stands in the card only.
    told = [{k: v for k, v in dataclasses.asdict(i).items() if k != "licence"} for i in inputs]
    return Stage("ingest", Ingest(told, pieces), "source", column="size", pieces=len(pieces))


def _splits_of_names(given: Input, pieces: list[str]) -> dict[str, str]:
    """Return the splits that files are called like, which are those of rows that name none."""
    if given.split or given.form not in (*SUFFIXES, "webdataset"):
        return {}
    notes: list[str] = []
    splits = of_files([Path(piece) for piece in pieces], notes)
    for note in notes:
        print(f"source {given.name!r}: {note}", flush=True)
    return {str(path): usual_name(split) for path, split in splits.items()}


def _state(given: Input, piece: str) -> Any:
    if given.form == "folder":
        return files.tree_state(piece)
    # A shard of img2dataset is two files, or one and a directory.
    return [files.state(piece + suffix) for suffix in ("", ".parquet", ".tar")]


@dataclasses.dataclass
class Ingest(beam.PTransform):
    """Read rows.

    Attributes:
      inputs: the fields of each `Input`.
      pieces: [index of its input, path, what changes when its files do] of all that is read, and
        the split of its rows if it has one of its own.
    """

    inputs: list[dict[str, Any]]
    pieces: list[list[Any]]

    def expand(self, begin):
        read = [
            (self.inputs[number] | dict(zip(("split",), split, strict=False)), path)
            for number, path, _, *split in self.pieces
        ]
        return (
            begin
            | beam.Create(read, reshuffle=False)
            | beam.Reshuffle()
            | beam.ParDo(_ReadPiece()).with_outputs(DROPPED, main="rows")
        )


class _ReadPiece(beam.DoFn):
    def process(self, element: tuple[dict[str, Any], str]):
        given, piece = Input(**element[0]), element[1]
        for result in read_piece(given, piece):
            if isinstance(result, dict):
                yield result
            else:
                yield beam.pvalue.TaggedOutput(DROPPED, result)


def read_piece(given: Input, piece: str) -> Iterator[Row | tuple[str, str, str]]:
    """Yield the rows of a piece of an input, and (id, source, reason) of what cannot be one."""
    seen = SeenKeys()
    if given.form == "img2dataset":
        samples, root = _fetched(given, piece), ""
    elif given.form == "urls":
        samples, root = _url_table(given, piece), ""
    else:
        source = _open(given, piece)
        samples, root = iter(source), source.root
    for sample in samples:
        name = f"{given.name}/{sample.id or sample.where}"
        problem = sample.problem
        if not problem and not seen.add(text_key(sample.id)):
            problem = "duplicate id"
        if not problem:
            try:
                row = _row(given, name, sample, root)
            except ValueError as error:
                problem = str(error)
        if problem:
            yield without_surrogates(name), given.name, without_surrogates(problem)
        else:
            yield row


def _row(given: Input, name: str, sample: Sample, root: str) -> Row:
    """Return the row of a sample.

    Texts may have lone surrogates, half a character that UTF-8 cannot hold: U+FFFD takes its place.

    Raises:
      ValueError: the reason to drop it.
    """
    urls = [key for key in sample.extra if key.lower() in _URL_COLUMNS]
    meta = {key: value for key, value in sample.extra.items() if key not in urls}
    candidates = _whole(texts_of(meta.pop("candidates", None), "candidates"))
    if sample.source:  # the row's own is the input's name, which stages choose rows by
        meta["source"] = sample.source
    exact = {
        "id": name,
        "image": str(sample.image or ""),  # no reader is asked for the bytes
        "ir": str(sample.ir or ""),
        "split": _held_out(sample.split or given.split),
        "url": str(sample.extra[urls[0]] or "").strip() if urls else "",
    }
    for field, value in (exact | {"image root": root}).items():
        if without_surrogates(value) != value:  # what names or finds something must not be changed
            raise ValueError(f"not Unicode: {field} {value!r}")
    exact |= {field: _place(root, exact[field], given.follow_links) for field in ("image", "ir")}
    row = new_row(
        **exact,
        captions=_whole(sample.captions),
        long_captions=_whole(sample.long_captions),
        ir_captions=_whole(sample.ir_captions),
        label=without_surrogates(sample.label),
        source=given.name,
        meta=without_surrogates(json.dumps(meta, ensure_ascii=False, sort_keys=True, default=str)),
    )
    return row | {"candidates": candidates} if candidates else row


def _held_out(split: str) -> str:
    """Return "val" or "test" of what an official split is called, "" of training and of others."""
    usual = usual_name(split).lower()
    return next((name for name in ("val", "test") if usual.startswith(name)), "")


def _whole(texts: list[str]) -> list[str]:
    return [without_surrogates(text) for text in texts]


def _open(given: Input, piece: str) -> Source:
    columns = {role: tuple(names) for role, names in given.columns.items()}
    if given.form == "folder":
        return open_folder(piece, given.class_folder)
    if given.form == "webdataset":
        # Each archive may count its names from 0 again, and is read by a worker of its own.
        others = given.pieces()
        above = os.path.commonpath([os.path.dirname(path) for path in others])
        above = above if len(others) > 1 else ""
        return open_tars(piece, columns, references=True, above=above, file_splits=False)
    return open_table(given.form, piece, given.images, columns, given.encoding, file_splits=False)


def _place(root: str, image: str, follow_links: bool) -> str:
    """Return the reference of an image.

    Raises:
      ValueError: see `sources.place_below`.
    """
    if not image or not root:
        return image
    place_below(root, image, follow_links)
    return os.path.normpath(os.path.join(root, image))


# What img2dataset tells of its own work; `status` stays, if it is not a success.
_TOLD = (
    *("image", "problem", "key", "url", "status", "error_message", "sha256", "width", "height"),
    "exif",
)


def _fetched(given: Input, shard: str) -> Iterator[Sample]:
    columns: dict[str, tuple[str, ...]] = {}
    for number, told in enumerate(img2dataset.read_shard(shard)):
        row = {key: value for key, value in told.items() if key not in _TOLD}
        if not columns:
            present = [name for name in row if not name.startswith("original_")]
            wanted = {role: tuple(names) for role, names in given.columns.items()}
            columns = {
                role: names
                for role, names in resolve(present, wanted, shard).items()
                if role not in ("id", "image", "ir")
            }
        sample = Sample(f"{shard}:{number}", number, id=str(told["key"]), image=told["image"])
        sample.problem = told["problem"]
        try:
            for role, value in read_row(row, columns).items():
                setattr(sample, role, value)
        except ValueError as error:
            sample.problem = str(error)
        sample.extra = without_roles(row, columns) | {"url": told.get("url") or ""}
        if not sample.image and not sample.problem:
            status, message = told.get("status"), told.get("error_message")
            sample.extra["not_fetched"] = f"{status}: {message}" if message else f"{status}"
        yield sample


def _url_table(given: Input, path: str) -> Iterator[Sample]:
    with open_parquet(path) as parquet:
        present = parquet.schema_arrow.names
        wanted = {role: tuple(names) for role, names in given.columns.items()}
        columns = resolve(present, wanted, path)
        columns.pop("image", None)
        stem = os.path.splitext(os.path.basename(path))[0]
        number = 0
        for batch in parquet.iter_batches(1000):
            for row in batch.to_pylist():
                where = f"{stem}:{number}"
                sample = Sample(where, number, id=where)
                try:
                    for role, value in read_row(row, columns).items():
                        setattr(sample, role, value)
                except ValueError as error:
                    sample.problem = str(error)
                sample.extra = without_roles(row, columns)
                number += 1
                yield sample
