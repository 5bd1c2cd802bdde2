"""Stages: each turns a table of rows into the next, in Beam pipelines of its own, and is kept.

WORKDIR/stages/NN_NAME/ holds the rows of a stage (part-*.parquet), what it dropped
(dropped/*.parquet: id, source, reason) and, written last, table.json. A run does the stages whose
table.json is missing or was made by other settings; of a stage of rows that was cut off, it does
the waves (of WAVE_SHARDS input files) that are missing.

A stage is a `beam.PTransform`, a plain `@dataclasses.dataclass` whose fields are its settings
(those with compare=False, such as a number of connections, do not change the result). By
`Stage.kind`:

  source     pipeline -> rows
  rows       rows -> rows, or {"rows": rows, "dropped": (id, source, reason)}, such as
             `beam.ParDo(...).with_outputs("dropped", main="rows")`; `each_row` makes one of a
             function
  decisions  rows -> (id, {field: value}) for the rows that change, {DROPPED: reason} for those that
             go. Only these pairs and the ids are shuffled, and the rows are read a second time
"""

import collections
import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from rsclip_jax import host
from rsclip_jax.build import files
from rsclip_jax.build.rows import Row, read_rows, write_dropped, write_rows
from rsclip_jax.build.runners import Progress, Runner
from rsclip_jax.build.shuffle import CoGroupByKey

SHARD_ROWS = 2000
WAVE_SHARDS = 128  # at most half a million rows, of which a stage that is killed loses the work
DROPPED = "dropped"
FORM = 2  # raised when tables of older code must not be continued


class StageError(RuntimeError):
    """A stage failed; the message says where and why."""


class Drop(Exception):
    """Raised by the function of `each_row`: the row goes, for this reason.

    Reasons are counted by what they say before the first colon.
    """


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Attributes:
      name: lower-case letters, digits, underscores; unique in its pipeline.
      transform: see above.
      kind: "source", "rows" or "decisions".
      column: title of its column in the stage table, "" for none; stages that drop under one
        title share a column.
      shows: what stands there: "rows" that remain, or those "dropped".
      settings: more that its result depends on, such as the content of a file that it reads.
      pieces: of a source, into how many its input can be cut.
    """

    name: str
    transform: beam.PTransform
    kind: str = "rows"
    column: str = ""
    shows: str = "rows"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    pieces: int = 1

    def __post_init__(self):
        if self.kind not in ("source", "rows", "decisions") or self.shows not in ("rows", DROPPED):
            raise ValueError(f"stage {self.name}: kind {self.kind!r}, shows {self.shows!r}")

    def fingerprint(self, above: str) -> str:
        """Hash all that the rows depend on; `above` is the fingerprint of the table that it reads.

        Raises:
          TypeError: a setting that is no JSON.
        """
        fields = {
            field.name: getattr(self.transform, field.name)
            for field in dataclasses.fields(self.transform)  # type: ignore[arg-type]
            if field.compare
        }
        settings = {
            "fields": fields,
            "more": self.settings,
            "transform": type(self.transform).__name__,
        }
        return _hash([FORM, self.name, self.kind, settings, above])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows that a stage left.

    Attributes:
      directory: where its files lie.
      fingerprint: see `Stage.fingerprint`.
      parts: names of its files, and the rows in each.
      rows: source -> number of rows.
      dropped: source -> reason -> number of rows dropped by this stage.
      seconds: that the stage took.
    """

    directory: str
    fingerprint: str
    parts: dict[str, int]
    rows: dict[str, int]
    dropped: dict[str, dict[str, int]]
    seconds: float = 0.0

    @property
    def paths(self) -> list[str]:
        """The Parquet files with its rows."""
        return [files.join(self.directory, name) for name in self.parts]

    def __len__(self) -> int:
        return sum(self.rows.values())

    def read(self, fields: Sequence[str] | None = None) -> Iterator[Row]:
        """Read the rows, in no particular order."""
        return (row for path in self.paths for row in read_rows(path, fields))

    def read_dropped(self) -> Iterator[dict[str, str]]:
        """Read {"id", "source", "reason"} of what the stage dropped."""
        for path in files.list_files(files.join(self.directory, DROPPED)):
            yield from read_rows(path)


def run(
    stages: Sequence[Stage],
    workdir: str,
    runner: Runner,
    say: Callable[[str], None] = print,
    tables: Sequence[Table] = (),
) -> list[Table]:
    """Run the stages that are not there yet, and return the tables of all.

    Args:
      tables: of the first stages, if they were run before.

    Raises:
      StageError: a stage failed. Those before it are kept, and so are its finished waves.
      BlockingIOError: another process works in `workdir`.
    """
    tables = list(tables)
    with _lock(workdir):
        for number, stage in list(enumerate(stages))[len(tables) :]:
            directory = files.join(workdir, "stages", f"{number:02d}_{stage.name}")
            above = tables[-1] if tables else None
            fingerprint = stage.fingerprint(above.fingerprint if above else "")
            table = _finished(directory, fingerprint)
            verb = "kept"
            if table is None:
                scratch = files.join(workdir, "shuffle")
                table = _run_stage(stage, above, directory, fingerprint, runner, scratch)
                verb = "made"
            gone = sum(sum(reasons.values()) for reasons in table.dropped.values())
            told = f"{len(table):,} rows, {gone:,} dropped, {table.seconds:,.0f} s"
            say(f"{stage.name}: {verb}, {told}")
            tables.append(table)
    return tables


@contextlib.contextmanager
def _lock(workdir: str) -> Iterator[None]:
    if not files.is_local(workdir):
        yield
        return
    os.makedirs(workdir, exist_ok=True)
    handle = os.open(workdir, os.O_RDONLY)
    try:
        host.lock(handle, workdir)  # dies with the process
        yield
    except BlockingIOError:
        raise BlockingIOError(f"another process works in {workdir} at this moment") from None
    finally:
        os.close(handle)


def _finished(directory: str, fingerprint: str) -> Table | None:
    path = files.join(directory, "table.json")
    if not files.exists(path):
        return None
    info = json.loads(files.read_text(path))
    return Table(directory, **info) if info["fingerprint"] == fingerprint else None


def _run_stage(
    stage: Stage,
    above: Table | None,
    directory: str,
    fingerprint: str,
    runner: Runner,
    scratch: str,
) -> Table:
    files.remove([files.join(directory, "table.json")])
    paths = above.paths if above else []
    if stage.kind == "rows" and runner.is_local:
        waves = [paths[i : i + WAVE_SHARDS] for i in range(0, len(paths), WAVE_SHARDS)] or [[]]
    else:
        waves = [paths]
    parts: dict[str, int] = {}
    gone_parts: list[str] = []
    rows: collections.Counter[str] = collections.Counter()
    dropped: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    seconds = 0.0
    kept = []
    for number, shards in enumerate(waves):
        path = _wave_path(directory, number)
        info = json.loads(files.read_text(path)) if files.exists(path) else {}
        if info.get("fingerprint") == _hash([fingerprint, shards]):
            kept += [f"wave-{number:05d}.json", *info["parts"], *info["dropped_parts"]]
    _remove_others(directory, kept)
    with Progress(stage.name, directory, len(above) if above else 0):
        for number, shards in enumerate(waves):
            path = _wave_path(directory, number)
            if not files.exists(path):
                start = time.monotonic()
                pieces = len(shards) or stage.pieces
                with (
                    failure(stage.name),
                    runner.pipeline(stage.name, pieces, scratch) as pipeline,
                ):
                    _build(pipeline, stage, shards, directory, path)
                info = json.loads(files.read_text(path))
                # Of these very files: made anew, the table above has its rows in other ones.
                info |= {"fingerprint": _hash([fingerprint, shards])}
                info |= {"seconds": time.monotonic() - start}
                files.write(path, json.dumps(info).encode())
            info = json.loads(files.read_text(path))
            parts |= info["parts"]
            gone_parts += info["dropped_parts"]
            rows.update(info["rows"])
            for source, reasons in info["dropped"].items():
                dropped[source].update(reasons)
            seconds += info["seconds"]
    table = Table(
        directory,
        fingerprint,
        dict(sorted(parts.items())),
        dict(sorted(rows.items())),
        {source: dict(sorted(reasons.items())) for source, reasons in sorted(dropped.items())},
        round(seconds, 3),
    )
    _remove_others(directory, [*parts, *gone_parts])
    info = dataclasses.asdict(table)
    del info["directory"]
    files.write(files.join(directory, "table.json"), json.dumps(info, indent=1).encode())
    return table


def _wave_path(directory: str, number: int) -> str:
    return files.join(directory, f"wave-{number:05d}.json")


def _remove_others(directory: str, names: Sequence[str]) -> None:
    """Remove what is not listed: of bundles that failed or were killed, or of other settings."""
    keep = {files.join(directory, name) for name in names}
    here = files.list_files(directory) + files.list_files(files.join(directory, DROPPED))
    files.remove([path for path in here if path not in keep])


@contextlib.contextmanager
def failure(stage: str) -> Iterator[None]:
    """Turn what goes wrong inside into a `StageError` that names the stage."""
    try:
        yield
    except Exception as error:
        raise StageError(f"stage {stage}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """Tell what went wrong; of the traceback that a worker process sends as a text, its end."""
    text = re.sub(r" \[while running '.*'\]", "", str(error))
    if "Channel closed prematurely" in text:
        return "a worker process died (out of memory, or a decoder crashed?); try fewer --workers"
    lines = [
        line.strip() for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception): ", line)
    ]
    return lines[-1] if lines else f"{type(error).__name__}: {text}"


def _build(
    pipeline: beam.Pipeline, stage: Stage, shards: list[str], directory: str, wave_path: str
) -> None:
    """Add to a pipeline: read, transform, write, and note in `wave_path` what was written."""
    transform = copy.copy(stage.transform)  # which remembers the pipeline that it was applied to
    if stage.kind == "source":
        result: Any = pipeline | stage.name >> transform
    else:
        # The transform reads each row here, and decisions meet it again in `_Decided`.
        read = pipeline | "read" >> ReadRows(shards)
        result = read | stage.name >> transform
        if stage.kind == "decisions":
            result = result | "join" >> _Decided(shards)
    if isinstance(result, beam.PCollection):
        result = {"rows": result}
    else:
        result = {"rows": result["rows"], DROPPED: result[DROPPED]}
    notes = [result["rows"] | "write rows" >> beam.ParDo(_Write(directory, False))]
    if DROPPED in result:
        notes.append(result[DROPPED] | "write dropped" >> beam.ParDo(_Write(directory, True)))
    notes.append(pipeline | "nothing" >> beam.Create([(0, _note())]))
    (
        tuple(notes)
        | "all notes" >> beam.Flatten()
        | "together" >> beam.GroupByKey()
        | "commit" >> beam.Map(_commit, wave_path)
    )


@dataclasses.dataclass
class ReadRows(beam.PTransform):
    """Read the rows of Parquet files, several files at a time."""

    paths: list[str]

    def expand(self, begin):
        return (
            begin.pipeline
            | beam.Create(self.paths, reshuffle=False)
            | beam.Reshuffle()
            | beam.FlatMap(read_rows)
        )


def each_row(function: Callable[[Row], Row]) -> beam.PTransform:
    """Return the transform of rows by a function, which returns a row or raises `Drop`."""
    return beam.ParDo(_EachRow(function)).with_outputs(DROPPED, main="rows")


class _EachRow(beam.DoFn):
    def __init__(self, function: Callable[[Row], Row]):
        self._function = function

    def process(self, row: Row):
        try:
            yield self._function(row)
        except Drop as drop:
            yield drop_row(row, str(drop))


def drop_row(row: Row, reason: str) -> beam.pvalue.TaggedOutput:
    """Return what a DoFn yields for a row that goes."""
    return beam.pvalue.TaggedOutput(DROPPED, (row["id"], row["source"], reason))


@dataclasses.dataclass
class _Decided(beam.PTransform):
    """(id, update) -> the rows of `paths` after their updates."""

    paths: list[str]

    def expand(self, decisions):
        begin = decisions.pipeline
        files_by_number = list(enumerate(self.paths))
        homes = (
            begin
            | "files" >> beam.Create(files_by_number, reshuffle=False)
            | beam.Reshuffle()
            | "ids" >> beam.FlatMap(_ids)
        )
        moved = (
            {"homes": homes, "updates": decisions}
            | "by id" >> CoGroupByKey()
            | "to files" >> beam.FlatMap(_to_home)
        )
        every = begin | "every file" >> beam.Create(files_by_number)
        return (
            {"updates": moved, "path": every}
            | "by file" >> CoGroupByKey()
            | "update" >> beam.ParDo(_Update()).with_outputs(DROPPED, main="rows")
        )


def _ids(element: tuple[int, str]) -> Iterator[tuple[str, int]]:
    number, path = element
    return ((row["id"], number) for row in read_rows(path, ["id"]))


def _to_home(element: tuple[str, dict[str, Iterable]]) -> Iterator[tuple[int, tuple[str, dict]]]:
    name, found = element
    homes, updates = list(found["homes"]), list(found["updates"])
    if len(homes) > 1:
        raise ValueError(
            f"the id {name!r} has {len(homes)} rows; ids must be unique: give the inputs names of "
            "their own, or leave repeated ones out"
        )
    if not homes:
        raise ValueError(f"a decision about the id {name!r}, which no row has")
    update: dict[str, Any] = {}
    for one in updates:
        update |= one
    if update:
        yield homes[0], (name, update)


class _Update(beam.DoFn):
    def process(self, element: tuple[int, dict[str, Iterable]]):
        (path,) = element[1]["path"]
        updates = dict(element[1]["updates"])
        for row in read_rows(path):
            update = updates.get(row["id"], {})
            if DROPPED in update:
                yield drop_row(row, update[DROPPED])
            else:
                yield row | update


def _note() -> dict[str, Any]:
    return {"parts": {}, "dropped_parts": [], "rows": {}, "dropped": {}}


class _Write(beam.DoFn):
    """Rows, or what was dropped, to Parquet files; yields (0, note of what lies in a file)."""

    def __init__(self, directory: str, dropped: bool):
        self._directory = directory
        self._dropped = dropped

    def start_bundle(self):
        self._held: list = []

    def process(self, element):
        self._held.append(element)
        if len(self._held) == SHARD_ROWS:
            yield 0, self._flush()

    def finish_bundle(self):
        if self._held:
            yield WindowedValue((0, self._flush()), MIN_TIMESTAMP, [GlobalWindow()])

    def _flush(self) -> dict[str, Any]:
        held, self._held = self._held, []
        # A bundle may be done twice: neither run's files are in the way of the other's. The number
        # of rows is for the line of progress.
        name = f"part-{uuid.uuid4().hex[:16]}-{len(held)}.parquet"
        note = _note()
        if self._dropped:
            name = f"{DROPPED}/{name}"
            write_dropped(files.join(self._directory, name), held)
            counts: dict = collections.defaultdict(collections.Counter)
            for _, source, reason in held:
                counts[source][reason.split(":")[0]] += 1
            return note | {"dropped_parts": [name], "dropped": counts}
        write_rows(files.join(self._directory, name), held)
        return note | {
            "parts": {name: len(held)},
            "rows": collections.Counter(row["source"] for row in held),
        }


def _commit(element: tuple[int, Iterable[dict[str, Any]]], path: str) -> None:
    total = _note()
    rows: collections.Counter[str] = collections.Counter()
    dropped: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for note in element[1]:
        total["parts"] |= note["parts"]
        total["dropped_parts"] += note["dropped_parts"]
        rows.update(note["rows"])
        for source, reasons in note["dropped"].items():
            dropped[source].update(reasons)
    files.write(path, json.dumps(total | {"rows": rows, "dropped": dropped}).encode())


def stage_table(stages: Sequence[Stage], tables: Sequence[Table]) -> str:
    """Draw what each stage left or dropped of each source, the largest first, as Markdown."""
    last = tables[-1]
    columns: list[tuple[str, dict[str, int]]] = []
    for stage, table in zip(stages, tables, strict=True):
        counts = table.rows
        if stage.shows == DROPPED:
            counts = {source: sum(of.values()) for source, of in table.dropped.items()}
            if stage.column and columns and columns[-1][0] == stage.column:
                counts = dict(collections.Counter(columns.pop()[1]) + collections.Counter(counts))
        if stage.column:
            columns.append((stage.column, counts))
    columns.append(("remain", last.rows))
    size = columns[0][1]
    names = sorted(
        {s for _, of in columns for s in of}, key=lambda name: (-size.get(name, 0), name)
    )
    lines = [[name, *(f"{of.get(name, 0):,}" for _, of in columns)] for name in names]
    lines.append(["total", *(f"{sum(of.values()):,}" for _, of in columns)])
    return markdown_table(["set", *(title for title, _ in columns)], lines)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Draw a table whose first column is text and the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def draw(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    return "\n".join(map(draw, [header, rule, *lines]))
