"""Speed of the input pipeline beside the limit that decoding and resizing alone set.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --data_dir=data --name=rsicd --image_size=128
    python -m benchmarks.input_pipeline --source_size=1024 --batch_size=32

    python -m venv torchenv && torchenv/bin/pip install torch torchvision webdataset
    python -m benchmarks.input_pipeline --torch_python=torchenv/bin/python

Without --name it writes a data set of procedural 256-pixel JPEG files (--source_size) with five
captions each into a temporary directory. Measured in turn, on as many threads, over crops of the
same distribution:

    area    the bare limit: bytes in memory -> simplejpeg (fast DCT) -> crop -> OpenCV resize, area
            averaging where the crop shrinks and bicubic where it grows
    same    a harder limit: decode, crop and resize as the pipeline does it, which takes bilinear
            for area, and scaled decoding of large files
    full    the pipeline: reads ArrayRecord, decodes, crops at random, resizes, flips and turns,
            tokenises a caption of 77 tokens (--long: also a composed one of 248), fills the batch
    float   with --torch_python: webdataset and torchvision on as many worker processes, whose start
            counts, from tar files of the same JPEG files to normalised tensors; `torch_input.py`
    uint8   the same up to uint8 images, as the pipeline leaves them; neither tokenises or rotates

Neither limit reads a file, draws a random number, flips, tokenises or keeps its results. Each round
measures all of them; medians over the rounds, and of the ratios within a round, are printed by wall
time and by CPU time of the process, which is the steadier one on a busy machine.
"""

import functools
import io
import itertools
import json
import math
import os
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from absl import app, flags

from rsclip_jax.data import images, views
from rsclip_jax.data.pipeline import train_dataset, train_iterator
from rsclip_jax.data.records import open_source, write_dataset
from rsclip_jax.data.text import ClipTokenizer
from rsclip_jax.host import available_cores

_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Directory of the prepared data sets.")
_NAME = flags.DEFINE_string("name", None, "Data set to read; by default one is made.")
_SPLIT = flags.DEFINE_string("split", "train", "Its split.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the result in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images in a batch.")
_BATCHES = flags.DEFINE_integer("batches", 8, "Batches of one measurement.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "How often all is measured.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads; 0: one for each core.")
_SOURCE_SIZE = flags.DEFINE_integer("source_size", 256, "Side of the procedural images.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", None, "Interpreter that has torch, torchvision and webdataset."
)
_LONG = flags.DEFINE_bool("long", False, "Also compose and tokenise long captions, 248 tokens.")


def main(_: Sequence[str]) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        data_dir, name = _DATA_DIR.value, _NAME.value
        if name is None:
            data_dir, name = temporary, "procedural"
            write_dataset(data_dir, name, {_SPLIT.value: procedural_records()})
        wall, cpu, count = measure(data_dir, name, temporary)
    threads = _THREADS.value or available_cores()
    report("wall", wall, count, threads)
    report("CPU", cpu, count, 1)


def procedural_records(count: int = 16384, distinct: int = 1024) -> Iterator[dict]:
    """Make records of smooth noise and edges: JPEG files of the size of aerial photographs'.

    So many, since Grain's shuffle takes 75 us a sample for a thousand, but 8 us from 16,384 on;
    fewer of larger images.
    """
    rng = np.random.default_rng(0)
    area = (_SOURCE_SIZE.value / 256) ** 2
    count, distinct = math.ceil(count / max(area, 1)), math.ceil(distinct / max(area, 1))
    encoded = [_procedural_jpeg(rng, _SOURCE_SIZE.value) for _ in range(distinct)]
    words = ["field", "road", "houses", "trees", "river", "green", "large", "next", "to", "many"]
    for i in range(count):
        captions = [" ".join(sentence) + " ." for sentence in rng.choice(words, (5, 9))]
        yield {"id": str(i), "image": encoded[i % distinct], "captions": captions}


def _procedural_jpeg(rng: np.random.Generator, side: int) -> bytes:
    image = np.full((side, side, 3), 120, np.float32)
    for pixels, strength in ((64, 90), (256 / 24, 45), (2.56, 38)):
        cells = round(side / pixels)
        noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        noise = noise.mean(axis=2, keepdims=True) * 0.8 + noise * 0.2
        image += strength * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(round(12 * (side / 256) ** 2)):
        (top, left), (height, width) = rng.integers(0, side, 2), rng.integers(8, 60, 2)
        image[top : top + height, left : left + width] += rng.uniform(-70, 70)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(image, quality=80, colorsubsampling="420")


def measure(
    data_dir: str, name: str, temporary: str
) -> tuple[dict[str, list[float]], dict[str, list[float]], int]:
    """Alternate between the limits and the pipeline.

    Args:
      temporary: folder for the files of --torch_python.

    Returns:
      What was measured -> wall seconds of each round, -> CPU seconds, and the images of a round.
    """
    threads = _THREADS.value or available_cores()
    count = _BATCHES.value * _BATCH_SIZE.value
    config = {
        "data_dir": data_dir,
        "data": {name: 1.0},
        "split": _SPLIT.value,
        "batch_size": _BATCH_SIZE.value,
        "lengths": {"text": 77} | ({"text_long": 248} if _LONG.value else {}),
        "subset": 1.0,
        "ir": False,
        "ir_view": "translated",
        "ir_text_source": "ir_caption",
        "caption": "random",
        "long_caption": "auto",
        "crop": (0.5, 1.0),
        "flip": True,
        "right_angles": True,
        "rotate": 0.0,
        "threads": threads,
        "workers": 0,
    }
    tokenizers = {field: ClipTokenizer(length) for field, length in config["lengths"].items()}
    dataset = train_dataset(config, _IMAGE_SIZE.value, tokenizers, seed=0)
    first_steps = itertools.count(0, _BATCHES.value)
    source = open_source(data_dir, name, _SPLIT.value)
    rng = np.random.default_rng(0)
    augmentation = views.Augmentation(flip=False, right_angles=False)
    encoded = [source[i % len(source)]["image"] for i in range(count)]
    samples = [
        (data, views.draw_geometry(augmentation, rng.random(8), *images.dimensions(data)))
        for data in encoded
    ]
    print(
        f"{name}: {len(source)} records, {statistics.mean(map(len, encoded)) / 1024:.1f} KiB an "
        f"image; {threads} threads, {_ROUNDS.value} rounds of {count} images, to "
        f"{_IMAGE_SIZE.value} px"
    )
    pool = futures.ThreadPoolExecutor(threads)

    def full() -> None:
        start = next(first_steps)
        # Ends with the last batch, lest work done ahead be counted as the limits'.
        for batch in train_iterator(dataset[: start + _BATCHES.value], start, config):
            assert len(batch["image"]) == _BATCH_SIZE.value

    def limit(resize: Callable) -> Callable[[], None]:
        def task(start: int) -> None:
            for data, geometry in samples[start : start + 8]:
                resize(data, geometry)

        return lambda: list(pool.map(task, range(0, count, 8)))

    measured = {
        "area": timed(limit(decode_and_area)),
        "same": timed(limit(decode_and_resize)),
        "full": timed(full),
    }
    torch = None
    if _TORCH_PYTHON.value:
        write_tars(Path(temporary), source, count, threads)
        torch = Torch(temporary, threads, config["crop"][0])
        print(torch.describe)
        measured |= {kind: functools.partial(torch.measure, kind) for kind in ("float", "uint8")}
    for run in measured.values():
        run()
    wall: dict[str, list[float]] = {kind: [] for kind in measured}
    cpu: dict[str, list[float]] = {kind: [] for kind in measured}
    for turn in range(_ROUNDS.value):
        order = list(measured) if turn % 2 else list(reversed(measured))
        for kind in order:
            times = measured[kind]()
            wall[kind].append(times["wall"])
            cpu[kind].append(times["CPU"])
    if torch:
        torch.close()
    return wall, cpu, count


def timed(run: Callable[[], object]) -> Callable[[], dict[str, float]]:
    """Let a function return the seconds that it took."""

    def measured() -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        return {"wall": time.perf_counter() - wall, "CPU": time.process_time() - cpu}

    return measured


def write_tars(directory: Path, source: Sequence, count: int, workers: int) -> None:
    """Write `count` records as webdataset's tar files, as many for every worker."""
    shards = 4 * workers
    for shard in range(shards):
        with tarfile.open(directory / f"{shard:03}.tar", "w") as tar:
            for i in range(shard, count, shards):
                record = source[i % len(source)]
                caption = record["captions"][0].encode()
                for suffix, data in (("jpg", record["image"]), ("txt", caption)):
                    member = tarfile.TarInfo(f"{i:06}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


class Torch:
    """The process of `torch_input.py`."""

    def __init__(self, directory: str, workers: int, least: float):
        script = str(Path(__file__).parent / "torch_input.py")
        settings = [_IMAGE_SIZE.value, _BATCH_SIZE.value, workers, least]
        self._process = subprocess.Popen(
            [str(_TORCH_PYTHON.value), script, directory, *map(str, settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.describe = self._answer()

    def measure(self, kind: str) -> dict[str, float]:
        """Return the seconds of all images."""
        assert self._process.stdin
        print(kind, file=self._process.stdin, flush=True)
        times = self._answer()
        expected = _BATCHES.value * _BATCH_SIZE.value
        assert times["images"] == expected, f"{times['images']} images instead of {expected}"
        return times

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of torch_input.py ended; its message stands above")
        return json.loads(line)


def decode_and_resize(data: bytes, geometry: views.Geometry) -> np.ndarray:
    """Decode, crop and resize in the pipeline's own way, without its flips."""
    out = np.empty((_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3), np.uint8)
    views.train_view(data, geometry, out)
    return out


def decode_and_area(data: bytes, geometry: views.Geometry) -> np.ndarray:
    """Decode, crop, and resize by area where that shrinks and bicubic where not."""
    image = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    rows, columns = image.shape[:2]
    top, left, height, width = geometry.box
    crop = image[
        int(top * rows) : int((top + height) * rows),
        int(left * columns) : int((left + width) * columns),
    ]
    size = _IMAGE_SIZE.value
    shrinks = max(crop.shape[:2]) > size
    return cv2.resize(
        crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def report(title: str, seconds: dict[str, list[float]], count: int, threads: int) -> None:
    """Print images per second (of CPU time: on one core) and the ratios to the limits."""
    print(f"by {title} time" + (f" ({threads} threads on {os.cpu_count()} cores)" * (threads > 1)))
    for kind, values in seconds.items():
        median = statistics.median(values)
        line = f"  {kind:5} {count / median:8.0f} images/s  {median / count * 1e6:7.0f} us an image"
        if kind != "full":
            ratios = [limit / full for limit, full in zip(values, seconds["full"], strict=True)]
            line += f"   full reaches {statistics.median(ratios):.1%} of it"
        print(line)


if __name__ == "__main__":
    app.run(main)
