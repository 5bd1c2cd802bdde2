"""Turn images and captions into a data set that the other commands read.

    python -m rsclip_jax.prepare --format=jsonl --input=captions.jsonl --images=images \\
        --output=data --name=rsicd

writes the TFDS data set data/rsicd/1.0.0 (ArrayRecord shards, original image bytes), or nothing at
all. Samples that cannot be used are listed in its skipped.jsonl, its numbers in summary.json.

Input forms:
  jsonl       one JSON object a line: {"filename": ..., "captions": [...], "split": ..., ...}
  csv         the same as a table; the first line names the columns
  json        documents of such objects: a list, {"images": [...]} (RSICD, RSITMD, UCM- and
              Sydney-captions; with "annotations" beside them as in COCO), {CLASS: [...], ...}
              (NWPU-Captions), or a file for each image
  folder      ROOT/CLASS/*.jpg, ROOT/{train,val,test}/CLASS/*.jpg or the split below CLASS
  webdataset  tars with jpg/png/webp/tif + txt (a caption a line)/cls (label)/json, or RS5M's
              img_content/img_name/caption;
              --input takes a file, a directory, a glob or 'shard-{0000..0031}.tar'
  tfds        a labelled TFDS data set stored as ArrayRecord: --input takes its name (eurosat/rgb,
              resisc45) or the directory DATA_DIR/NAME/CONFIG/VERSION
  cart, dronevehicle, aviid, vedai, llvip, hit_uav, m3fd, kust4k
              published RGB-infrared pairs as downloaded: --input takes the directory of the
              unpacked archives. Their records have no captions

Columns and members that are not used are listed; one that by its name or its values looks like
captions, an image, an infrared image or a split is refused unless --ignore names it. Usual
spellings of splits become train, val and test (--split_names).

In jsonl, csv and json, rows of one image with one caption each become one record with all of them.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

from rsclip_jax import atomic, errors
from rsclip_jax.data import limits, records
from rsclip_jax.data.columns import LIST_ROLES, ROLES
from rsclip_jax.data.csv_rows import QUOTINGS
from rsclip_jax.data.folders import open_folder
from rsclip_jax.data.ingest import Outcome, Recipe, ingest
from rsclip_jax.data.progress import Progress
from rsclip_jax.data.rgb_ir_sets import SETS, open_pairs
from rsclip_jax.data.schema import check_name
from rsclip_jax.data.seen import FirstSplits, text_key
from rsclip_jax.data.sources import InputError, Source
from rsclip_jax.data.splits import held_out, of_name, usual_name
from rsclip_jax.data.summary import DUPLICATE, Summary
from rsclip_jax.data.tables import open_table
from rsclip_jax.data.tars import open_tars
from rsclip_jax.data.tfds_source import open_tfds
from rsclip_jax.host import available_cores, local_path, output_directory, printable_output

SPLIT = "train"  # of samples that name none
FORMATS = ("jsonl", "csv", "json", "folder", "webdataset", "tfds", *SETS)
_COLUMNS = tuple(flag for flag, _ in ROLES.values())
_OF_CSV = ("delimiter", "quoting")
_OF_TABLES = ("images", "encoding", *_OF_CSV)
PLACES = {"input": local_path, "output": output_directory, "images": local_path}
OPTIONAL = (*_OF_TABLES, "ignore", "class_folder", "follow_links")
# What a form of input has no use for: given nevertheless, it is a misunderstanding.
USELESS = {
    "jsonl": ("class_folder", *_OF_CSV),
    "csv": ("class_folder",),
    "json": ("class_folder", *_OF_CSV),
    "folder": (*_OF_TABLES, *_COLUMNS),
    "webdataset": (*_OF_TABLES, "class_folder", "follow_links", "image_column", "ir_column"),
    "tfds": (*OPTIONAL, "split", *_COLUMNS),
    **{
        name: (*_OF_TABLES, "ignore", "class_folder", *_COLUMNS)
        + (() if known.may_lack_splits else ("split",))
        for name, known in SETS.items()
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command; `columns` maps a role (`columns.ROLES`) to column names."""

    format: str
    input: str
    output: str
    name: str
    images: str = ""
    split: str = ""  # "": that of the file's name, else SPLIT
    class_folder: str = ""  # "first" or "last" of nested folders; "": first
    columns: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""  # of csv; "": guessed
    quoting: str = ""  # of csv: one of `csv_rows.QUOTINGS`
    ignore: tuple[str, ...] = ()  # columns and extensions left out on purpose
    follow_links: bool = False
    split_names: tuple[str, ...] = ()  # "restval=train"
    hold_out: tuple[str, ...] = ()  # "val=0.1"
    resize: int = 0
    max_pixels: int = limits.MAX_PIXELS
    max_skipped: float = 0.01
    workers: int = 0
    overwrite: bool = False


def prepare(options: Options) -> Summary:
    """Prepare a data set; it appears complete or not at all.

    Returns:
      Its numbers, which also lie in its summary.json.

    Raises:
      InputError: unusable flags or input, or more than `max_skipped` of the samples skipped;
        their list is then kept as OUTPUT/NAME.skipped.jsonl.
      FileExistsError: the data set exists and `overwrite` is not set.
      records.DatasetBusyError: another process is writing it.
    """
    source = check(options)
    recipe = Recipe(
        source.root,
        options.split or SPLIT,
        options.name,
        options.resize,
        options.max_pixels,
        source.needs_text,
        source.edit,
        options.follow_links,
        _split_names(options),
        _hold_out(options),
    )
    workers = options.workers or available_cores()
    print(f"{options.name}: preparing {options.input}, {workers} workers", file=sys.stderr)
    said = len(source.notes)
    for note in source.notes:
        print(f"{options.name}: {note}", file=sys.stderr)
    summary = Summary(options.name, source.expected)
    kept_list = Path(options.output) / f"{options.name}.skipped.jsonl"
    with (
        atomic.writing(Path(options.output) / options.name),
        records.DatasetWriter(
            options.output,
            options.name,
            description="Prepared by rsclip_jax.prepare.",
            overwrite=options.overwrite,
        ) as writer,
    ):
        skipped_list = writer.directory / "skipped.jsonl"
        progress = Progress(options.name, source.size)
        with (
            open(skipped_list, "w", encoding="utf-8", errors="backslashreplace") as file,
            contextlib.closing(ingest(source, recipe, workers)) as outcomes,
        ):
            for outcome in without_duplicates(outcomes):
                summary.add(outcome)
                if outcome.reason:
                    line = {key: getattr(outcome, key) for key in ("id", "path", "where", "reason")}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                else:
                    writer.write(outcome.split, outcome.record)
                progress.show(summary, outcome.position)
        progress.end()
        for note in source.notes[said:]:  # known only now
            print(f"{options.name}: {note}", file=sys.stderr)
        for given in recipe.split_names.keys() - {given for given, _ in summary.split_names}:
            print(f"{options.name}: --split_names: no record is of {given!r}", file=sys.stderr)
        if list(summary.records) == [SPLIT]:
            print(
                f"{options.name}: all is in {SPLIT}, nothing to evaluate on: --hold_out=val=0.1 "
                "holds a tenth out",
                file=sys.stderr,
            )
        if not summary.total():
            raise InputError(f"--input={options.input} holds no samples")
        if summary.skipped_share() > options.max_skipped or not summary.records:
            shutil.copy(skipped_list, kept_list)
            raise InputError(_too_many_skipped(summary, options.max_skipped, kept_list))
        numbers = json.dumps(summary.as_dict(), indent=2)
        (writer.directory / "summary.json").write_text(numbers + "\n", encoding="utf-8")
    kept_list.unlink(missing_ok=True)  # of an earlier run that failed
    return summary


def check(options: Options) -> Source:
    """Open the input and check every option, before anything is written."""
    for kind, name in (("data set", options.name), ("split", options.split or SPLIT)):
        try:
            check_name(kind, name)
        except ValueError as error:
            raise InputError(f"--{'name' if kind == 'data set' else 'split'}: {error}") from error
    for flag, checked in PLACES.items():
        try:
            if flag != "images" or options.images:
                checked(getattr(options, flag), f"--{flag}")
        except ValueError as error:
            raise InputError(str(error)) from error
    given = {ROLES[role][0] for role in options.columns}
    given |= {flag for flag in OPTIONAL if getattr(options, flag)}
    given |= {"split"} if options.split else set()
    if useless := sorted(given & set(USELESS[options.format])):
        raise InputError(
            f"--{useless[0]} means nothing for --format={options.format}: leave it out"
        )
    if len(options.delimiter) > 1 and options.delimiter not in ("tab", "\\t"):
        raise InputError(f"--delimiter={options.delimiter}: give one character, or tab")
    names = _split_names(options)
    _hold_out(options)
    records.check_absent(options.output, options.name, options.overwrite)
    source = _open(options, names)
    held = usual_name(of_name(os.path.basename(os.path.normpath(options.input))))
    if os.path.isdir(options.input) and held_out(held) and not options.split:
        source.notes.append(
            f"--input is called like the split {held!r}, but what names no split is put in "
            f"{SPLIT!r}: --split={held} changes that"
        )
    return source


def _open(options: Options, names: dict[str, str]) -> Source:
    if options.format == "folder":
        return open_folder(options.input, options.class_folder, options.ignore, names)
    if options.format == "webdataset":
        return open_tars(
            options.input,
            options.columns,
            ignore=options.ignore,
            file_splits=not options.split,
        )
    if options.format == "tfds":
        return open_tfds(options.input)
    if options.format in SETS:
        return open_pairs(options.format, options.input)
    return open_table(
        options.format,
        options.input,
        options.images,
        options.columns,
        options.encoding or "utf-8",
        {"tab": "\t", "\\t": "\t"}.get(options.delimiter, options.delimiter),
        options.ignore,
        options.quoting,
        lambda split: usual_name(split, names) or options.split or SPLIT,
        file_splits=not options.split,
    )


def _split_names(options: Options) -> dict[str, str]:
    names = {}
    for item in options.split_names:
        given, _, name = item.rpartition("=")
        try:
            if not given:
                raise ValueError("expected GIVEN=NAME, such as restval=train")
            check_name("split", name)
        except ValueError as error:
            raise InputError(f"--split_names={item}: {error}") from error
        names[given] = name
    return names


def _hold_out(options: Options) -> dict[str, float]:
    shares: dict[str, float] = {}
    for item in options.hold_out:
        name, _, share = item.partition("=")
        try:
            check_name("split", name)
            shares[name] = float(share)
        except ValueError as error:
            raise InputError(
                f"--hold_out={item}: expected SPLIT=SHARE, such as val=0.1 ({error})"
            ) from error
        rest = options.split or SPLIT
        if not 0 < shares[name] < 1 or sum(shares.values()) >= 1 or name == rest:
            raise InputError(
                f"--hold_out={','.join(options.hold_out)}: expected shares of {rest} between 0 and "
                "1, less than 1 in all, for other splits"
            )
    return shares


def without_duplicates(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Mark records whose id an earlier one has, and tell of the others whose image one has."""
    ids, images = FirstSplits(), FirstSplits()
    for outcome in outcomes:
        if not outcome.reason:
            first = ids.meet(text_key(outcome.id), outcome.split)
            if first == outcome.split:
                outcome.reason = DUPLICATE
            elif first is not None:
                outcome.reason = f"{DUPLICATE} of {outcome.split}, which {first} has already"
            else:
                outcome.same_image_in = images.meet(outcome.image_key, outcome.split)
        yield outcome


def _too_many_skipped(summary: Summary, max_skipped: float, kept_list: Path) -> str:
    left_out = summary.left_out()
    reasons = "\n".join(f"  {count:,} x {what}" for count, what in summary.skipped_kinds(300))
    return (
        f"{summary.skipped.total() - left_out:,} of {summary.total() - left_out:,} samples "
        f"({summary.skipped_share():.2%}) cannot be used:\n{reasons}\n"
        f"They are listed in {kept_list}. No data set was written: mend them, or allow a larger "
        f"share than --max_skipped={max_skipped:g}"
    )


def define_flags() -> None:
    """Define the flags; not on import, where they would meet those of the other commands."""
    flags.DEFINE_enum("format", None, FORMATS, "Form of the input.", required=True)
    flags.DEFINE_string(
        "input",
        None,
        "File, directory, glob or brace pattern; for tfds the name of a data set, or the directory "
        "of a version of it; for RGB-infrared pairs the directory of the unpacked archives.",
        required=True,
    )
    flags.DEFINE_string("output", None, "Directory of the data sets.", required=True)
    flags.DEFINE_string("name", None, "Name of the new data set in --output.", required=True)
    flags.DEFINE_string(
        "images",
        "",
        "Directory that image paths are relative to; default: that of the table. If it holds none "
        "of the first images, its folders are searched: that which a column names (such as the "
        "class), those called like the split (train2017), else whichever has the image.",
    )
    flags.DEFINE_string(
        "split",
        "",
        "Split of what names none; default: that which its file is called like, such as test of "
        f"rsicd_test.json, else {SPLIT}.",
    )
    flags.DEFINE_enum(
        "class_folder",
        "",
        ("", "first", "last"),
        "Of nested folders, the one that names the class: the first (default, if there are "
        "several), or the last, as in RSI-CB and Million-AID.",
    )
    flags.DEFINE_list(
        "split_names",
        [],
        "GIVEN=NAME, comma-separated: what the input calls a split, and its name in the data set. "
        "Usual spellings (validation, dev, Train, train2017, training_set, Karpathy's restval) "
        "become train, val or test. For folder, GIVEN may be any folder.",
    )
    flags.DEFINE_list(
        "hold_out",
        [],
        f"SPLIT=SHARE, comma-separated, such as val=0.1: put this share of {SPLIT} there. The "
        "image decides, so that copies of one never lie in two splits.",
    )
    for role, (flag, usual) in ROLES.items():
        default = f"the first of {', '.join(usual)}" if len(usual) > 1 else "".join(usual)
        default = default or "the image path"
        if role in LIST_ROLES:
            flags.DEFINE_list(
                flag,
                [],
                f"Columns of {role}, comma-separated; default: {default}, with its numbered "
                f"siblings such as {usual[0]}_1.",
            )
        else:
            flags.DEFINE_string(flag, "", f"Column of {role}; default: {default}.")
    flags.DEFINE_string(
        "encoding", "", "Of jsonl, csv and json files, such as gb18030; default: utf-8."
    )
    flags.DEFINE_string(
        "delimiter",
        "",
        "Between the cells of csv files: one character, or tab; default: a tab in .tsv files, else "
        "the comma, tab, semicolon or bar that the first line has most of.",
    )
    flags.DEFINE_enum(
        "quoting",
        "",
        QUOTINGS,
        "Of csv files: none takes quotation marks as they are, and each line for a row; default: a "
        "cell may be in quotation marks, and then have delimiters and line breaks.",
    )
    flags.DEFINE_boolean(
        "follow_links", False, "Read images that links below the image root point to elsewhere."
    )
    flags.DEFINE_list(
        "ignore",
        [],
        "Columns, extensions of files, or folders, that look like captions, images, infrared "
        "images or splits and are left out on purpose.",
    )
    flags.DEFINE_integer(
        "resize",
        0,
        "Store images as JPEG with this shorter side in pixels if they are larger; 0: original "
        "bytes.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "max_pixels",
        limits.MAX_PIXELS,
        "Skip larger images; the default is the most that is decoded anywhere.",
        lower_bound=1,
        upper_bound=limits.MAX_PIXELS,
    )
    flags.DEFINE_float(
        "max_skipped", 0.01, "Share of skipped samples above which the command fails.", 0, 1
    )
    flags.DEFINE_integer("workers", 0, "Processes; 0: one for each core.", lower_bound=0)
    flags.DEFINE_boolean("overwrite", False, "Replace the data set if it exists.")


def options_from_flags() -> Options:
    """Read the parsed flags."""
    values = flags.FLAGS
    given = {role: values[flag].value for role, (flag, _) in ROLES.items()}
    columns = {
        role: (names,) if isinstance(names, str) else tuple(names)
        for role, names in given.items()
        if names
    }
    fields = [field.name for field in dataclasses.fields(Options) if field.name != "columns"]
    others: dict[str, Any] = {field: values[field].value for field in fields}
    for several in ("ignore", "split_names", "hold_out"):
        others[several] = tuple(others[several])
    for path in ("input", "output", "images"):
        others[path] = os.path.expanduser(others[path])  # bash leaves --output=~/data as it is
    return Options(columns=columns, **others)


def main(argv: list[str]) -> None:
    """Run the command; wrong input ends it with a message and status 1."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    printable_output()
    options = options_from_flags()
    start = time.monotonic()
    with errors.one_line("prepare", "removes what this one has written, and begins again"):
        summary = prepare(options)
    elapsed = time.monotonic() - start
    directory = Path(options.output) / options.name / records.VERSION
    print(f"{options.name}: {directory}, prepared in {elapsed:.1f} s")
    print(f"\n{summary.table()}")
    if summary.skipped:
        print(f"\nThe skipped samples and the reasons are listed in {directory}/skipped.jsonl")


if __name__ == "__main__":
    define_flags()
    app.run(main)
