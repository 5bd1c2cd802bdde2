"""CPU time and memory of the stages of `rsclip_jax.build.rs5m`, on synthetic images.

    python -m benchmarks.build_scale --folder=FOLDER --records=50000
    python -m benchmarks.build_scale --folder=FOLDER --records=200000 --scale=0.25

The records are two sources as img2dataset leaves them, tars of 5,000 with a Parquet file each:
noise of 400 x 520 pixels in the mean (RS5M's are 403 x 523), cut out of 64 textures at random, each
image with gradients of its own, as JPEG files of 23 kB. One image in eight is an earlier one,
encoded anew; one URL in 33 is an earlier one; one caption in twelve has no keyword, one image in 25
was not fetched, one in a thousand is damaged. The build is the real one, without the stages of
models. 200,000 records take 11 GB of disk; they are made once.

Printed for each stage: rows, wall time, CPU time of all processes (user and system, so a busy
machine changes it little), rows for a second of one core, and the greatest memory of all processes
together, as /proc tells it every quarter of a second: PSS, in which shared pages count once.

--table=1000000 instead takes a million rows without images through the stages that look at all of
them. --urls=200000 also measures how a table of URLs and texts is read and filtered, one text in
700 with a keyword (of RS5M's 4.2 billion it was one in 690).
"""

import dataclasses
import functools
import hashlib
import io
import multiprocessing
import os
import resource
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import app, flags

from configs.build import rs5m as config_file
from rsclip_jax.build import files, rows, rs5m, stages
from rsclip_jax.build.command import finish
from rsclip_jax.build.duplicates import HashDuplicates
from rsclip_jax.build.keywords import GROUP_1
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.split import ShareSplit
from rsclip_jax.build.urls import UrlDuplicates

_FOLDER = flags.DEFINE_string("folder", None, "Where records and results are put.", required=True)
_RECORDS = flags.DEFINE_integer("records", 50_000, "Rows that are read.", 10_000)
_SCALE = flags.DEFINE_float("scale", 1.0, "Of the images' sides.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes of the build; 0: one for each core.")
_URLS = flags.DEFINE_integer("urls", 0, "Rows of a table of URLs to be measured besides.")
_TABLE = flags.DEFINE_integer("table", 0, "Rows without images, instead of the records.")

_SHARD = 5000
_SOURCES = ("laion2b", "laioncoco")
_WORDS = "the of a field road houses trees river green large next to many from near city".split()


def main(argv: Sequence[str]) -> None:
    """Make the records, build, print."""
    del argv
    folder = Path(_FOLDER.value).absolute()
    if _TABLE.value:
        print(draw(build_stages(table_stages(_TABLE.value), str(folder / f"table{_TABLE.value}"))))
        return
    config = config_file.get_config()
    make_records(folder, _RECORDS.value, config)
    workdir = str(folder / f"work{_RECORDS.value}")
    print(f"{_RECORDS.value:,} records")
    lines = build(config, workdir)
    print(draw(lines))
    if _URLS.value:
        print(f"\n{_URLS.value:,} rows of a URL table")
        make_urls(folder / "urls.parquet", _URLS.value)
        config = config_file.get_config()
        config.sources.laion400m.update(form="urls", path=str(folder / "urls.parquet"))
        texts = build(config, str(folder / "work_urls"), only=2)
        print(draw(texts))


class Line(NamedTuple):
    """What a stage took: rows, seconds, bytes."""

    stage: str
    read: int
    left: int
    wall: float
    cpu: float
    memory: int


def draw(lines: list[Line]) -> str:
    """Draw the table."""
    header = ["stage", "rows in", "rows out", "wall, s", "CPU, s", "rows/s and core", "MiB"]
    total = Line(
        "all",
        lines[0].read,
        lines[-1].left,
        sum(line.wall for line in lines),
        sum(line.cpu for line in lines),
        max(line.memory for line in lines),
    )
    cells = [
        [
            *(line.stage, f"{line.read:,}", f"{line.left:,}", f"{line.wall:,.0f}"),
            *(f"{line.cpu:,.0f}", f"{int(line.read / line.cpu):,}", f"{line.memory >> 20:,}"),
        ]
        for line in [*lines, total]
    ]
    return stages.markdown_table(header, cells)


def build(config, workdir: str, only: int | None = None) -> list[Line]:
    """Run the pipeline stage by stage (the first `only`), then the writing."""
    every = rs5m.stages_of(config)[:only]
    lines = build_stages(every, workdir)
    if not only:
        runner = Runner(workers=_WORKERS.value)
        tables = stages.run(every, workdir, runner, say=lambda _: None)
        with Measured() as measured:
            text = finish(config, workdir, runner, True, every, tables)
        left = len(tables[-1])
        lines.append(Line("write, card", left, left, *measured.result()))
        print(text.split("\n\n")[0])
    return lines


def build_stages(every: Sequence[stages.Stage], workdir: str) -> list[Line]:
    """Run stages one by one."""
    runner = Runner(workers=_WORKERS.value)
    lines: list[Line] = []
    tables: list[stages.Table] = []
    for count, stage in enumerate(every, 1):
        with Measured() as measured:
            tables = stages.run(every[:count], workdir, runner, tables=tables)
        read = len(tables[-2]) if count > 1 else len(tables[-1])
        lines.append(Line(stage.name, read, len(tables[-1]), *measured.result()))
    return lines


def table_stages(count: int) -> list[stages.Stage]:
    """Return a source of rows without images, and what RS5M's pipeline decides of all rows."""
    of = ["laion2b"]
    return [
        stages.Stage("rows", Rows(count), "source", pieces=count // _SHARD),
        stages.Stage("urls", UrlDuplicates({}, of), "decisions"),
        stages.Stage("hashes", HashDuplicates(4, {}, of), "decisions"),
        stages.Stage("split", ShareSplit(0.05), "decisions"),
    ]


@dataclasses.dataclass
class Rows(beam.PTransform):
    """Make rows with hashes by chance, one in eight that of another but for two bits."""

    count: int

    def expand(self, begin):
        pieces = begin | beam.Create(range(self.count // _SHARD), reshuffle=False)
        return pieces | beam.Reshuffle() | beam.FlatMap(some_rows)


def some_rows(piece: int) -> Iterator[dict]:
    """Make the rows of one piece."""
    rng = np.random.default_rng([4, piece])
    for number in range(piece * _SHARD, (piece + 1) * _SHARD):
        other = number and rng.random() < 1 / 8
        value = hash_of(int(rng.integers(number))) ^ 0b101 if other else hash_of(number)
        yield rows.new_row(
            id=f"laion2b/{number:09d}",
            source="laion2b",
            captions=["an aerial image of something or other, as long as a caption is"],
            url=f"https://site{number % 997}.example/images/{number}.jpg",
            phash=f"{value:016x}",
        )


def hash_of(number: int) -> int:
    """Return 64 bits by chance."""
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "big")


class Measured:
    """Measures this process and those it started while it is entered."""

    def __enter__(self) -> "Measured":
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._peak, self._own = 0, 0.0
        self._wall, self._cpu = time.monotonic(), cpu_seconds()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()
        self._wall = time.monotonic() - self._wall
        self._cpu = cpu_seconds() - self._cpu - self._own

    def result(self) -> tuple[float, float, int]:
        """Return wall seconds, CPU seconds, greatest memory in bytes."""
        return self._wall, self._cpu, self._peak

    def _watch(self) -> None:
        while not self._done.wait(0.25):
            self._peak = max(self._peak, sum(map(memory_of, family())))
        self._own = time.thread_time()


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, of those it waited for, and of those that live."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    ticks = 0
    for process in family()[1:]:
        fields = _stat(process)
        ticks += sum(map(int, fields[11:15])) if fields else 0
    return used + ticks / os.sysconf("SC_CLK_TCK")


def family() -> list[int]:
    """Return this process and those that came of it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found


def _stat(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third, none if it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def memory_of(process: int) -> int:
    """Return the proportional set size in bytes, 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def make_records(folder: Path, count: int, config) -> None:
    """Make the shards that are missing, and tell the config where those of `count` rows lie."""
    shards = range(count // _SHARD)
    missing = [n for n in shards if not (folder / "shards" / f"{n:05d}.parquet").exists()]
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    # Processes that are gone when the measuring begins.
    with multiprocessing.get_context("spawn").Pool(min(os.cpu_count() or 1, 8)) as pool:
        make = functools.partial(make_shard, folder / "shards", _SCALE.value)
        pool.map(make, missing, chunksize=1)
    for number in shards:
        # Three of five shards are of the first source.
        source = _SOURCES[number % 5 > 2]
        directory = folder / f"input{count}" / source
        directory.mkdir(parents=True, exist_ok=True)
        for suffix in ("tar", "parquet"):
            link = directory / f"{number:05d}.{suffix}"
            if not link.exists():
                link.symlink_to(folder / "shards" / link.name)
        config.sources[source].path = str(directory)


def make_shard(directory: Path, scale: float, shard: int) -> None:
    """Make a tar and the Parquet file beside it, which appears last."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([1, shard])
    told = []
    with tarfile.open(directory / f"{shard:05d}.tar", "w") as tar:
        for number in range(shard * _SHARD, (shard + 1) * _SHARD):
            chances = rng.random(4)
            url = int(rng.integers(number)) if number and chances[0] < 1 / 33 else number
            same = number and chances[1] < 1 / 8
            status = "success" if chances[2] > 1 / 25 else "failed_to_download"
            key = f"{number:09d}"
            told.append(
                {
                    "key": key,
                    "url": f"https://site{url % 997}.example/images/{url}.jpg",
                    "caption": caption(rng, 1 / 12),
                    "status": status,
                    "original_width": 640,
                    "original_height": 480,
                }
            )
            if status == "success":
                shown = int(rng.integers(number)) if same else number
                data = picture(shown, scale, 74 if same else 78)
                if chances[3] < 1 / 1000:
                    data = data[: len(data) // 2]
                member = tarfile.TarInfo(f"{key}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(told), buffer)
    files.write(str(directory / f"{shard:05d}.parquet"), buffer.getvalue())


def caption(rng: np.random.Generator, bare: float) -> str:
    """Return a text of 49 words in the mean, a share of them without a keyword."""
    words = rng.choice(_WORDS, rng.integers(8, 91)).tolist()
    if rng.random() >= bare:
        words[len(words) // 2] = str(rng.choice(GROUP_1))
    return " ".join(words)


@functools.cache
def _textures() -> list[np.ndarray]:
    """Make noise of three scales, grey with a little colour: uint8 [1024, 1024, 3] each."""
    rng = np.random.default_rng(0)
    textures = []
    for _ in range(64):
        image = np.full((1024, 1024, 3), 120, np.float32)
        for cells, strength in ((8, 70), (50, 35), (250, 12)):
            grey = rng.uniform(-1, 1, (cells, cells, 1)).astype(np.float32)
            noise = grey + rng.uniform(-0.2, 0.2, (cells, cells, 3)).astype(np.float32)
            image += strength * cv2.resize(noise, (1024, 1024), interpolation=cv2.INTER_CUBIC)
        textures.append(np.clip(image, 0, 255).astype(np.uint8))
    return textures


def picture(number: int, scale: float, quality: int) -> bytes:
    """Return an image as a JPEG file: the same for the same number, but for its quality."""
    rng = np.random.default_rng([2, number])
    texture = _textures()[rng.integers(64)]
    height, width = (int(scale * side) for side in rng.integers((220, 280), (581, 761)))
    top, left = rng.integers(1024 - height), rng.integers(1024 - width)
    cut = texture[top : top + height, left : left + width]
    slopes = rng.integers(0, 100, (6, 6), np.uint8)
    slopes = cv2.resize(slopes, (width, height), interpolation=cv2.INTER_LINEAR)
    image = cv2.addWeighted(cut, 1, cv2.cvtColor(slopes, cv2.COLOR_GRAY2BGR), 1, -50)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def make_urls(path: Path, count: int) -> None:
    """Make a table of URLs and texts, one in 700 with a keyword."""
    rng = np.random.default_rng(3)

    def columns() -> Iterator[dict]:
        for number in range(count):
            url = f"https://site{number % 997}.example/images/{number}.jpg"
            yield {"URL": url, "TEXT": caption(rng, 1 - 1 / 700)}

    if not path.exists():
        pq.write_table(pa.Table.from_pylist(list(columns())), path)


if __name__ == "__main__":
    app.run(main)
