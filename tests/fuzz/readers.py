"""What reads the files of strangers: bytes in; out comes nothing, or an error that tells a user.

`READERS` names each reader with the inputs that mutation starts from. A finding is an exception
that `errors.told` does not take for an answer to the user, a broken promise (an assertion below), a
process that dies, or one that takes too long or too much memory.
"""

import contextlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter
from golden_models import state
from PIL import Image

from rsclip_jax import errors, weights
from rsclip_jax.build import annotations, answers, cleaning, ratings, rows, stages
from rsclip_jax.data import directions, image_check, images, records, tables, tars, text, views
from rsclip_jax.data.schema import serialize
from rsclip_jax.training import metrics, workdir
from rsclip_jax.weights import files

MAX_PIXELS = 1_000_000
TRAINER = Path(__file__).parents[1] / "data" / "pytorch" / "trainer.pt"


@dataclass(frozen=True)
class Reader:
    """A reader and its inputs.

    Attributes:
      read: of a directory of its own, and the bytes.
      seeds: valid inputs.
    """

    read: Callable[[Path, bytes], None]
    seeds: Callable[[], list[bytes]]


class Finding(AssertionError):
    """A reader did with its input what it must not."""


def attempt(reader: Reader, data: bytes) -> None:
    """Read an input, in a directory that is removed afterwards.

    Raises:
      Finding: the reader failed in a way that no user could make sense of.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(io.StringIO()):
        try:
            reader.read(Path(directory), data)
        except Exception as error:
            if not errors.told(error):
                raise Finding(f"{type(error).__name__}: {error}") from error


def _image(_: Path, data: bytes) -> None:
    try:
        size, _ = image_check.inspect_image(data, MAX_PIXELS)
    except ValueError:
        # Records may hold what was never checked.
        with contextlib.suppress(ValueError):
            images.decode(data)
        return
    assert images.dimensions(data) == size
    pixels = images.decode(data)
    assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8
    out = np.empty((16, 16, 3), np.uint8)
    augmentation = views.Augmentation(crop=(0.2, 1.0), flip=True, right_angles=True)
    draws = [data[i % len(data)] / 256 for i in range(views.GEOMETRY_DRAWS)]
    views.train_view(data, views.draw_geometry(augmentation, draws, *size), out)


def _photographs() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    colour, found = Image.fromarray(pixels), []
    for image, form, options in (
        (colour, "JPEG", {}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("L"), "JPEG", {}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "PNG", {}),
        (colour.convert("P"), "PNG", {}),
        (colour.convert("RGBA"), "PNG", {}),
        (colour.convert("I;16"), "PNG", {}),
        (colour, "WEBP", {"lossless": True}),
        (colour, "WEBP", {}),
        (colour, "BMP", {}),
        (colour.convert("P"), "GIF", {}),
        (colour, "JPEG2000", {}),
        (colour, "AVIF", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


def _tiffs() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    found = []
    for image in (pixels, pixels[..., 0], pixels.astype(np.uint16) * 257, pixels / np.float32(255)):
        for compression in (1, 5):  # none, LZW
            options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
            found.append(cv2.imencode(".tif", image, options)[1].tobytes())
    return found


def _table(form: str, suffix: str) -> Callable[[Path, bytes], None]:
    def read(directory: Path, data: bytes) -> None:
        (directory / "a.jpg").write_bytes(b"an image")
        path = directory / f"table{suffix}"
        path.write_bytes(data)
        for sample in tables.open_table(form, str(path), ignore=()):
            assert sample.problem or (sample.image and sample.id), sample
            for words in (*sample.captions, *sample.long_captions, sample.label):
                words.encode()

    return read


_CAPTIONED = [
    {"filepath": "a.jpg", "caption": "a red ship, at sea", "split": "train", "label": "harbour"},
    {"filepath": "b/c.jpg", "caption": 'the "old" town — 中', "split": "val", "label": "town"},
]


def _csv() -> list[bytes]:
    head = "filepath,caption_1,caption_2,split\n"
    quoted = 'a.jpg,"a ship, ""red""",second,train\nb.jpg,"two\nlines",,test\n'
    tabs = "filepath\ttitle\n.\\a.jpg\ta bridge\n"
    return [(head + quoted).encode(), tabs.encode(), (head + quoted).encode("utf-8-sig")]


def _jsonl() -> list[bytes]:
    lists = [{"image": "a.jpg", "captions": ["one", "two"], "ir": None, "id": 3}]
    return ["\n".join(map(json.dumps, rows)).encode() for rows in (_CAPTIONED, lists)]


def _json() -> list[bytes]:
    karpathy = [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "a ship"}]}]
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "id": 2, "caption": "a ship"}],
    }
    return [json.dumps(d).encode() for d in ({"images": karpathy}, coco, _CAPTIONED)]


def _tar(directory: Path, data: bytes) -> None:
    path = directory / "00000.tar"
    path.write_bytes(data)
    for sample in tars.open_tars(str(path), ignore=()):
        assert sample.problem or sample.id, sample


def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for name, data in (("a.jpg", b"image"), ("a.txt", b"a ship\ntwo"), ("a.json", b"{}")):
                member = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else "b" * 120 + name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        found.append(buffer.getvalue())
    return found


def _weights(directory: Path, data: bytes) -> None:
    (directory / "model.safetensors").write_bytes(data)
    weights.config_of(directory / "model.safetensors")


def _safetensors() -> list[bytes]:
    tensors = state("openclip_tiny_quickgelu")
    zeros = {name: np.zeros(array.shape, np.float16) for name, array in tensors.items()}
    return [safetensors.numpy.save(zeros)]


def _torch_files() -> list[bytes]:
    return [path.read_bytes() for path in sorted(TRAINER.parent.glob("*.pt"))]


def _torch(directory: Path, data: bytes) -> None:
    (directory / "model.pt").write_bytes(data)
    files.read(directory / "model.pt")


def _pickle(directory: Path, data: bytes) -> None:
    """Read the bytes as the pickle in an archive of PyTorch, whose checksums are right."""
    path = directory / "model.pt"
    with zipfile.ZipFile(TRAINER) as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, data if name.endswith("data.pkl") else whole.read(name))
    files.read(path)


def _pickles() -> list[bytes]:
    with zipfile.ZipFile(TRAINER) as whole:
        return [whole.read(name) for name in whole.namelist() if name.endswith("data.pkl")]


def _settings(directory: Path, data: bytes) -> None:
    """Read the bytes as the settings beside weights."""
    (directory / "open_clip_model.safetensors").write_bytes(_safetensors()[0])
    (directory / "open_clip_config.json").write_bytes(data)
    weights.config_of(directory)


def _open_clip_configs() -> list[bytes]:
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    words = {"context_length": 77, "vocab_size": 97, "width": 64, "heads": 2, "layers": 2}
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": words}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    return [json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}).encode()]


def _workdir(directory: Path, data: bytes) -> None:
    for name in ("config.json", "metrics.jsonl"):
        (directory / name).write_bytes(data)
    metrics.read_metrics(directory)
    workdir.load_config(directory / "config.json")


def _shard(directory: Path, data: bytes) -> None:
    path = directory / "set-train.array_record-00000-of-00001"
    path.write_bytes(data)
    records.check_shard(path, 2)
    for record in records.RecordSource([(str(path), 0, 2)], "set"):
        assert set(record) >= {"id", "image", "captions"}


def _shards() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        both = [{"id": name, "image": b"image", "captions": ["a ship"]} for name in "ab"]
        where = records.write_dataset(directory, "set", {"train": both})
        (shard,) = where.rglob("*.array_record*")
        return [shard.read_bytes()]


def _record(directory: Path, data: bytes) -> None:
    """Read the bytes as the one record of a whole shard."""
    path = str(directory / "set-train.array_record-00000-of-00001")
    writer = ArrayRecordWriter(path, "group_size:1")
    writer.write(data)
    writer.close()
    for record in records.RecordSource([(path, 0, 1)], "set"):
        assert set(record) >= {"id", "image", "captions"}


def _records() -> list[bytes]:
    return [serialize({"id": "a", "image": b"image", "captions": ["a ship"], "label": "ship"})]


def _boxes(form: str, name: str, names: tuple[str, ...] = ()) -> Callable[[Path, bytes], None]:
    def read(directory: Path, data: bytes) -> None:
        (directory / "a.jpg").touch()
        (directory / name).write_bytes(data)
        given = directory / name if form == "coco" else directory
        output = str(directory / "out.jsonl")
        with contextlib.redirect_stdout(io.StringIO()):
            annotations.write_table(form, str(given), str(directory), names, output)

    return read


def _coco_boxes() -> list[bytes]:
    box = {"image_id": 1, "id": 2, "category_id": 3, "bbox": [1, 2, 5, 6]}
    image = {"id": 1, "file_name": "a.jpg", "width": 20, "height": 12}
    categories = [{"id": 3, "name": "ship"}]
    document = {"images": [image], "annotations": [box], "categories": categories}
    return [json.dumps(document).encode()]


def _voc() -> list[bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    size = "<size><width>20</width><height>12</height></size>"
    thing = f"<object><name>ship</name>{box}</object>"
    return [f"<annotation><filename>a.jpg</filename>{size}{thing}</annotation>".encode()]


def _parquet(directory: Path, data: bytes) -> None:
    path = directory / "rows.parquet"
    path.write_bytes(data)
    for _ in rows.read_rows(str(path)):
        pass


def _parquets() -> list[bytes]:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "captions": [["one"], []]}), buffer)
    return [buffer.getvalue()]


def _ratings(directory: Path, data: bytes) -> None:
    (directory / "ratings.jsonl").write_bytes(data)
    ratings.read_ratings(str(directory / "ratings.jsonl"))


def _rated() -> list[bytes]:
    scores = {"relevance": 5, "hallucination": 4, "fluency": 3, "comment": "", "seconds": 2.5}
    of = {"rater": "a", "item": "set/1", "dataset": "set", "kind": "captions", "caption": "0" * 16}
    return [(json.dumps({**of, **scores, "time": "2026-01-01T00:00:00Z"}) + "\n").encode()]


def _sentencepiece(directory: Path, data: bytes) -> None:
    (directory / "words.model").write_bytes(data)
    text.SentencePieceTokenizer(directory / "words.model", 16)(["a red ship"])


def _words(_: Path, data: bytes) -> None:
    """Read the bytes as a caption, and as what a language model says."""
    words = data.decode("utf-8", "replace")
    with contextlib.suppress(answers.InvalidAnswer):
        answers.parse_answer(words, {"short": "text", "facts": "texts"})
    cleaning.find_fault(words)
    with contextlib.suppress(stages.Drop):
        cleaning.clean_captions(rows.new_row(id="a", captions=[words]))
    assert text.ClipTokenizer(16)([words]).shape == (1, 16)
    for columns, rows_ in ((-1, 1), (1, -1), (-1, -1)):

        def move(vector, columns=columns, rows_=rows_):
            return vector[0] * columns, vector[1] * rows_

        moved = directions.turned(words, move)
        if moved is not None:
            assert directions.turned(moved, move) == words, (words, moved)


def _captions() -> list[bytes]:
    sentences = (
        "A pond in the upper left corner, with a road to the north of it.",
        "two ships &amp; one <b>pier</b> at https://example.com/a?b=c",
        '<think>so</think>```json\n{"short": "a ship", "facts": ["one", "two"]}\n```',
    )
    return [sentence.encode() for sentence in sentences]


READERS: dict[str, Reader] = {
    "image": Reader(_image, _photographs),
    "tiff": Reader(_image, _tiffs),
    "csv": Reader(_table("csv", ".csv"), _csv),
    "jsonl": Reader(_table("jsonl", ".jsonl"), _jsonl),
    "json": Reader(_table("json", ".json"), _json),
    "tar": Reader(_tar, _tars),
    "safetensors": Reader(_weights, _safetensors),
    "torch": Reader(_torch, _torch_files),
    "pickle": Reader(_pickle, _pickles),
    "settings": Reader(_settings, _open_clip_configs),
    "shard": Reader(_shard, _shards),
    "record": Reader(_record, _records),
    "workdir": Reader(_workdir, lambda: [b'{"step": 1, "a": 2}\n', b'{"model": {"keep": 20}}']),
    "coco": Reader(_boxes("coco", "boxes.json"), _coco_boxes),
    "voc": Reader(_boxes("voc", "a.xml"), _voc),
    "yolo": Reader(_boxes("yolo", "a.txt", ("ship", "car")), lambda: [b"0 0.5 0.5 0.2 0.3\n"]),
    "parquet": Reader(_parquet, _parquets),
    "ratings": Reader(_ratings, _rated),
    "words": Reader(_words, _captions),
}
