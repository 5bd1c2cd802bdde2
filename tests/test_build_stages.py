"""Stages of a data set in the making: what is kept, what is done again, what the table says."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import apache_beam as beam
import pytest

from rsclip_jax.build import files, stages
from rsclip_jax.build.rows import new_row, read_rows, write_rows
from rsclip_jax.build.runners import Progress, Runner
from rsclip_jax.build.stages import DROPPED, Drop, Stage, StageError, each_row


def make(number):
    return new_row(id=f"r{number}", source="even" if number % 2 == 0 else "odd", width=number)


@dataclasses.dataclass
class Numbers(beam.PTransform):
    count: int

    def expand(self, begin):
        return begin | beam.Create(range(self.count)) | beam.Map(make)


def drop_multiples_of_five(row):
    if row["width"] % 5 == 0:
        raise Drop(f"five: {row['width']}")
    return row | {"height": 2 * row["width"]}


@dataclasses.dataclass
class NoFives(beam.PTransform):
    connections: int = dataclasses.field(default=1, compare=False)

    def expand(self, rows):
        return rows | each_row(drop_multiples_of_five)


def decide(row):
    if row["width"] % 3 == 0:
        yield row["id"], {DROPPED: "three"}
    elif row["width"] == 7:
        yield row["id"], {"split": "test"}


@dataclasses.dataclass
class Threes(beam.PTransform):
    log: str = dataclasses.field(default="", compare=False)

    def expand(self, rows):
        if self.log:
            Path(self.log).open("a", encoding="utf-8").write("expanded\n")
        return rows | beam.FlatMap(decide)


def pipeline(count=30, log="", connections=1):
    return [
        Stage("numbers", Numbers(count), "source", column="size"),
        Stage("fives", NoFives(connections), column="fives removed", shows=DROPPED),
        Stage("threes", Threes(log), "decisions", column="after threes"),
    ]


def test_rows_dropped_and_decided_are_counted_by_source(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SHARD_ROWS", 4)
    monkeypatch.setattr(stages, "WAVE_SHARDS", 3)
    tables = stages.run(pipeline(), str(tmp_path), Runner(workers=1), say=lambda _: None)
    left = [n for n in range(30) if n % 5 and n % 3]
    rows = sorted(tables[-1].read(), key=lambda row: row["width"])
    assert [row["id"] for row in rows] == [f"r{n}" for n in left]
    assert [row["height"] for row in rows] == [2 * n for n in left]
    assert [row["id"] for row in rows if row["split"] == "test"] == ["r7"]
    assert tables[1].dropped == {"even": {"five": 3}, "odd": {"five": 3}}
    gone = sorted(tables[1].read_dropped(), key=lambda row: row["id"])
    assert gone[0] == {"id": "r0", "source": "even", "reason": "five: 0"} and len(gone) == 6
    table = stages.stage_table(pipeline(), tables)
    assert table.splitlines() == [
        "| set   | size | fives removed | after threes | remain |",
        "| ----- | ---: | ------------: | -----------: | -----: |",
        "| even  |   15 |             3 |            8 |      8 |",
        "| odd   |   15 |             3 |            8 |      8 |",
        "| total |   30 |             6 |           16 |     16 |",
    ]


def test_only_what_is_missing_is_done_again(tmp_path):
    said: list[str] = []
    log = tmp_path / "log"
    run = lambda **more: stages.run(  # noqa: E731
        pipeline(log=str(log), **more), str(tmp_path / "w"), Runner(workers=1), said.append
    )
    run()
    run()
    assert log.read_text().count("expanded") == 1
    run(connections=7)  # which does not change the rows
    assert log.read_text().count("expanded") == 1
    run(count=31)  # changes the first stage, hence all
    assert log.read_text().count("expanded") == 2
    assert [line.split(",")[0] for line in said[6:9]] == [
        "numbers: kept",
        "fives: kept",
        "threes: kept",
    ]


def test_finished_waves_survive_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SHARD_ROWS", 5)
    monkeypatch.setattr(stages, "WAVE_SHARDS", 1)
    seen = tmp_path / "seen"
    broken = tmp_path / "broken"
    broken.touch()
    steps = [pipeline()[0], Stage("fragile", Fragile(str(seen), str(broken)))]
    with pytest.raises(StageError, match=r"stage fragile: ValueError: row r\d+ is too much"):
        stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)
    before = seen.read_text().split()
    assert len(before) >= 10
    directory = tmp_path / "w" / "stages" / "01_fragile"
    finished = {
        row["id"]
        for wave in directory.glob("wave-*.json")
        for part in json.loads(wave.read_text())["parts"]
        for row in read_rows(str(directory / part))
    }
    assert len(finished) == 10
    broken.unlink()
    seen.unlink()
    table = stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)[-1]
    assert {row["id"] for row in table.read()} == {f"r{n}" for n in range(30)}
    assert not finished & set(seen.read_text().split())
    # Nothing of the failed attempt is left.
    assert {p.name for p in directory.glob("*")} == {*table.parts, "table.json"}


@dataclasses.dataclass
class Fragile(beam.PTransform):
    """Fails at the third wave as long as a file is there."""

    seen: str
    broken: str

    def expand(self, rows):
        return rows | beam.Map(note_row, self.seen, self.broken)


def note_row(row, seen, broken):
    done = Path(seen).read_text(encoding="utf-8").split() if Path(seen).exists() else []
    if Path(broken).exists() and len(done) >= 12:
        raise ValueError(f"row {row['id']} is too much")
    with open(seen, "a", encoding="utf-8") as file:
        file.write(f"{row['id']}\n")
    return row


def test_waves_of_files_that_were_made_anew_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SHARD_ROWS", 8)
    monkeypatch.setattr(stages, "WAVE_SHARDS", 1)
    steps, workdir = pipeline()[:2], str(tmp_path)
    first, second = stages.run(steps, workdir, Runner(workers=1), say=lambda _: None)
    # As if the second had been killed after its first wave, and the first then deleted.
    (tmp_path / "stages/01_fives/table.json").unlink()
    wave = tmp_path / "stages/01_fives/wave-00000.json"
    parts = {name: second.parts[name] for name in list(second.parts)[:1]}
    wave.write_text(
        json.dumps(
            {"parts": parts, "dropped_parts": [], "rows": {}, "dropped": {}, "seconds": 0}
            | {"fingerprint": stages._hash([second.fingerprint, first.paths[:1]])}
        )
    )
    (tmp_path / "stages/00_numbers/table.json").unlink()
    table = stages.run(steps, workdir, Runner(workers=1), say=lambda _: None)[-1]
    assert sorted(row["width"] for row in table.read()) == [n for n in range(30) if n % 5]


def test_two_rows_of_one_id_are_an_error(tmp_path):
    twice = Stage("twice", Twice(), "source")
    with pytest.raises(StageError, match=r"the id 'r0' has 2 rows"):
        stages.run([twice, pipeline()[2]], str(tmp_path), Runner(workers=1), say=lambda _: None)


@dataclasses.dataclass
class Twice(beam.PTransform):
    def expand(self, begin):
        return begin | beam.Create([0, 0]) | beam.Map(make)


def test_rows_survive_parquet_and_unknown_fields_are_refused(tmp_path):
    path = str(tmp_path / "rows.parquet")
    rows = [new_row(id="ä", captions=["one", ""], width=3), new_row(id="b", clip_score=0.25)]
    write_rows(path, rows)
    assert list(read_rows(path)) == rows
    assert list(read_rows(path, ["id"])) == [{"id": "ä"}, {"id": "b"}]
    with pytest.raises(ValueError, match="unknown fields \\['clip_scores'\\]"):
        new_row(id="c", clip_scores=1.0)
    with pytest.raises(ValueError, match="lacks \\['captions'"):
        write_rows(path, [{"id": "c", "source": ""}])


def test_references_name_files_and_parts_of_files(tmp_path):
    path = str(tmp_path / "a#1.tar")
    files.write(path, b"0123456789")
    assert files.read_image(path) == b"0123456789"
    assert files.read_image(files.reference(path, 3, 4)) == b"3456"
    with pytest.raises(OSError, match="ends 3 bytes too early"):
        files.read_image(files.reference(path, 8, 5))


def test_progress_tells_rows_and_when_it_ends(tmp_path):
    (tmp_path / "dropped").mkdir()
    (tmp_path / "part-00-600.parquet").touch()  # of a run before
    progress = Progress("hash", str(tmp_path), 1000)
    assert progress.line(progress.written(), 10) == "hash: 600 of 1,000 rows, 10 s"
    (tmp_path / "dropped" / "part-01-50.parquet").touch()
    (tmp_path / "shard-train-00000-ab-50.array_record").touch()
    for other in ("table.json", "wave-00000.json", "shard-train-00001-12.unfinished"):
        (tmp_path / other).touch()
    assert progress.line(600, 100) == "hash: 700 of 1,000 rows, 100 s, ETA 0:05:00"
    assert Progress("read", str(tmp_path), 0).line(0, 2000) == "read: 700 rows, 2,000 s"


def test_several_processes_do_a_stage_and_tell_what_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(stages, "SHARD_ROWS", 5)
    steps = pipeline()[:1]
    stages.run(steps, str(tmp_path), Runner(workers=1), say=lambda _: None)
    steps.append(Stage("processes", Processes(os.getpid())))
    with pytest.raises(StageError, match=r"stage processes: ValueError: row r29 is the last$"):
        stages.run(steps, str(tmp_path), Runner(workers=2), say=lambda _: None)
    steps[0] = Stage("numbers", Numbers(29), "source")
    stages.run(steps[:1], str(tmp_path), Runner(workers=1), say=lambda _: None)
    table = stages.run(steps, str(tmp_path), Runner(workers=2), say=lambda _: None)[-1]
    assert len({row["height"] for row in table.read()}) == 2


@dataclasses.dataclass
class Processes(beam.PTransform):
    parent: int = dataclasses.field(compare=False)

    def expand(self, rows):
        return rows | beam.Map(tell_process, self.parent)


def tell_process(row, parent):
    assert os.getpid() != parent
    if row["id"] == "r29":
        raise ValueError("row r29 is the last")
    return row | {"height": os.getpid()}
