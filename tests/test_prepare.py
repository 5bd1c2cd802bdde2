"""The command as a whole: what it keeps, what it skips, and that it is all or nothing."""

import concurrent.futures.process
import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from rsclip_jax.data import ingest, records
from rsclip_jax.data.columns import EMPTY_ITEM
from rsclip_jax.data.images import decode
from rsclip_jax.data.mending import CONTROL, HALF, NAME
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.summary import Summary
from rsclip_jax.prepare import Options, check, prepare


def picture(seed, size=(12, 16), form="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def toy(root, count=6, **extra):
    """Write `count` images and their JSONL table below `root`."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        (root / f"images/{index}.jpg").write_bytes(picture(index))
        split = ("train", "train", "val")[index % 3]
        rows.append({"filename": f"{index}.jpg", "captions": [f"a {index}", "b"], "split": split})
    write_rows(root, rows)
    return rows


def write_rows(root, rows):
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (root / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")


def options(root, **changes):
    given = {
        "format": "jsonl",
        "input": str(root / "rows.jsonl"),
        "images": str(root / "images"),
        "output": str(root / "data"),
        "name": "toy",
        "workers": 1,
        **changes,
    }
    return Options(**given)


def command(root, *flags):
    return [
        *(sys.executable, "-m", "rsclip_jax.prepare", "--format=jsonl", "--name=toy"),
        *(f"--input={root}/rows.jsonl", f"--images={root}/images", f"--output={root}/data"),
        *flags,
    ]


def skipped(root, path="data/toy/1.0.0/skipped.jsonl"):
    return [json.loads(line) for line in (root / path).read_text("utf-8").splitlines()]


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_original_bytes_texts_and_splits_arrive_unchanged(tmp_path):
    rows = toy(tmp_path)
    rows[1] = {
        "filename": "海港 1.png",
        "captions": ["码头 with ships"],
        "long_captions": ["A very long one. " * 30],
        "ir": "ir.png",
        "ir_captions": ["warm water"],
        "label": "port",
    }
    (tmp_path / "images/海港 1.png").write_bytes(picture(7, form="PNG") + b"\0\0")
    (tmp_path / "images/ir.png").write_bytes(picture(8, form="PNG"))
    write_rows(tmp_path, rows)
    summary = prepare(options(tmp_path, split="extra"))
    assert summary.records == {"train": 3, "val": 2, "extra": 1}
    train = records.open_source(tmp_path / "data", "toy", "train")
    assert [(record["id"], record["image"]) for record in train] == [
        (f"{index}.jpg", picture(index)) for index in (0, 3, 4)
    ]
    (extra,) = records.open_source(tmp_path / "data", "toy", "extra")
    assert extra == {
        "id": "海港 1.png",
        "image": picture(7, form="PNG") + b"\0\0",
        "ir": picture(8, form="PNG"),
        "captions": ["码头 with ships"],
        "long_captions": [("A very long one. " * 30).strip()],
        "ir_captions": ["warm water"],
        "label": "port",
        "source": "toy",
    }


def test_every_reason_to_skip_is_listed_and_the_rest_is_kept(tmp_path):
    rows = toy(tmp_path, count=3)
    images = tmp_path / "images"
    (images / "cut.jpg").write_bytes(picture(0, (40, 40))[:-300])
    (images / "empty.jpg").touch()
    (images / "large.jpg").write_bytes(picture(0, (50, 51)))
    (images / "page.jpg").write_text("<html>")
    (tmp_path / "outside.jpg").write_bytes(picture(0))
    os.symlink(tmp_path / "outside.jpg", images / "link.jpg")
    caption = {"captions": ["one"]}
    expected = {
        "cut.jpg": "unreadable image",
        "empty.jpg": "empty file",
        "large.jpg": "image too large",
        "page.jpg": "unreadable image",
        "../outside.jpg": "path leaves the image root",
        str(tmp_path / "outside.jpg"): "path leaves the image root",
        "link.jpg": "path leaves the image root by a link (--follow_links reads it)",
        "absent.jpg": "missing file",
    }
    rows += [{"filename": name, **caption} for name in expected]
    rows += [
        {"filename": "0.jpg", **caption},
        {"filename": "1.jpg", "captions": [" ", ""]},
        {"filename": "1.jpg", "captions": ["one"], "split": "all"},
        {"filename": "1.jpg", "captions": ["one"], "ir": "page.jpg"},
        {"captions": ["one"]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json")
    summary = prepare(options(tmp_path, max_pixels=2500, max_skipped=0.9))
    found = skipped(tmp_path)
    assert [(line["path"], line["reason"].split(":")[0]) for line in found] == [
        *expected.items(),
        ("0.jpg", "duplicate id"),
        ("1.jpg", "no caption and no label"),
        ("1.jpg", "impossible split"),
        ("1.jpg", "unreadable image (infrared)"),
        ("", "no image"),
        ("", "not JSON"),
    ]
    assert found[0]["id"] == "cut.jpg" and found[0]["where"] == "rows.jsonl:4"
    assert summary.skipped["path leaves the image root"] == 2  # and one by a link
    assert [r["id"] for r in records.open_source(tmp_path / "data", "toy", "train")] == [
        *("0.jpg", "1.jpg"),
    ]


def test_too_many_skipped_samples_leave_no_data_set_but_their_list(tmp_path):
    rows = toy(tmp_path, count=9)
    write_rows(tmp_path, [*rows, {"filename": "absent.jpg", "captions": ["one"]}])
    with pytest.raises(
        InputError, match=r"1 of 10 samples .10.00%.*\n.*1 x missing file, such as 'absent.jpg'\n"
    ):
        prepare(options(tmp_path, max_skipped=0.09))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["toy.skipped.jsonl"]
    assert skipped(tmp_path, "data/toy.skipped.jsonl")[0]["path"] == "absent.jpg"
    prepare(options(tmp_path, max_skipped=0.1))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["toy"]


def test_nothing_usable_is_no_data_set_whatever_the_limit(tmp_path):
    toy(tmp_path, count=1)
    (tmp_path / "images/0.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 x empty file"):
        prepare(options(tmp_path, max_skipped=1.0))
    assert not (tmp_path / "data/toy").exists()


def test_the_output_is_the_same_for_any_number_of_workers(tmp_path, monkeypatch):
    rows = toy(tmp_path, count=30)
    (tmp_path / "images/7.jpg").write_bytes(b"broken")
    write_rows(tmp_path, [*rows, rows[3]])
    monkeypatch.setattr(ingest, "CHUNK_SAMPLES", 4)
    for workers in (1, 2):
        output = str(tmp_path / f"{workers}")
        prepare(options(tmp_path, workers=workers, max_skipped=0.1, output=output))
    one, two = (content(tmp_path / f"{workers}/toy/1.0.0") for workers in (1, 2))
    assert one == two
    assert len(skipped(tmp_path, "2/toy/1.0.0/skipped.jsonl")) == 2


def test_few_bytes_are_under_way_at_a_time(tmp_path, monkeypatch):
    toy(tmp_path, count=40)
    size = os.path.getsize(tmp_path / "images/0.jpg")
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 2 * size)
    monkeypatch.setattr(ingest, "WAITING_BYTES", 5 * size)
    taken = []

    def samples():
        for index in range(40):
            taken.append(index)
            image = picture(index)
            yield ingest.Sample(f"{index}", index, id=f"{index}", image=image, label="x")

    recipe = ingest.Recipe("", "train", "toy", 0, 10**6)
    for position, outcome in enumerate(ingest.ingest(samples(), recipe, 2)):
        assert outcome.id == f"{position}"
        assert len(taken) <= position + 10
    assert len(taken) == 40


def test_images_are_shrunk_on_demand_only(tmp_path):
    rows = toy(tmp_path, count=3)
    (tmp_path / "images/1.jpg").write_bytes(picture(1, (64, 48), "PNG"))
    (tmp_path / "images/ir.jpg").write_bytes(picture(2, (64, 48)))
    rows[1]["ir"] = "ir.jpg"
    write_rows(tmp_path, rows)
    prepare(options(tmp_path, resize=24))
    small, big = records.open_source(tmp_path / "data", "toy", "train")
    assert small["image"] == picture(0)
    assert decode(big["image"]).shape == decode(big["ir"]).shape == (32, 24, 3)
    assert big["image"][:3] == b"\xff\xd8\xff"


def test_captions_that_lists_lack_are_counted(tmp_path):
    rows = toy(tmp_path, count=2)
    rows[0]["captions"] = ["a", None, ""]
    write_rows(tmp_path, rows)
    assert prepare(options(tmp_path)).as_dict()["mended_texts"] == {EMPTY_ITEM: 2}


def test_class_folders_and_tars_are_prepared_too(tmp_path):
    (tmp_path / "classes/port").mkdir(parents=True)
    (tmp_path / "classes/port/a.jpg").write_bytes(picture(1))
    classes = str(tmp_path / "classes")
    prepare(options(tmp_path, format="folder", input=classes, images="", name="f"))
    (record,) = records.open_source(tmp_path / "data", "f", "train")
    assert (record["id"], record["label"], record["captions"]) == ("port/a.jpg", "port", [])

    with tarfile.open(tmp_path / "s-0000.tar", "w") as tar:
        for name, data in (("1.img_content", picture(2)), ("1.caption", b"one")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    tars = options(
        tmp_path, format="webdataset", input=f"{tmp_path}/s-{{0000..0000}}.tar", images="", name="t"
    )
    prepare(tars)
    (record,) = records.open_source(tmp_path / "data", "t", "train")
    assert (record["image"], record["captions"]) == (picture(2), ["one"])


def test_nwpu_captions_are_prepared_as_they_are_distributed(tmp_path):
    for index, name in enumerate(("airport", "beach")):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / f"images/{name}/{name}_001.jpg").write_bytes(picture(index))
    texts = {"raw": "a .", "raw_1": "b .", "raw_2": "a .", "raw_3": "c .", "raw_4": "d ."}
    document = {
        name: [{"filename": f"{name}_001.jpg", "imgid": 0, "split": "test", **texts}]
        for name in ("airport", "beach")
    }
    (tmp_path / "dataset_nwpu.json").write_text(json.dumps(document))
    prepare(options(tmp_path, format="json", input=str(tmp_path / "dataset_nwpu.json")))
    airport, beach = records.open_source(tmp_path / "data", "toy", "test")
    assert (airport["id"], airport["label"]) == ("airport/airport_001.jpg", "airport")
    assert beach["image"] == picture(1)
    assert beach["captions"] == ["a .", "b .", "a .", "c .", "d ."]


def test_csv_with_one_caption_a_row_gives_one_record_an_image(tmp_path):
    toy(tmp_path, count=2)
    rows = "filename,title\n0.jpg,港口\n1.jpg,a\n0.jpg,two\n1.jpg,b\n0.jpg,港口\n"
    (tmp_path / "rows.csv").write_bytes(rows.encode("gb18030"))
    table = str(tmp_path / "rows.csv")
    summary = prepare(options(tmp_path, format="csv", input=table, encoding="gb18030"))
    assert not summary.skipped
    found = records.open_source(tmp_path / "data", "toy", "train")
    assert {record["id"]: record["captions"] for record in found} == {
        "0.jpg": ["港口", "two", "港口"],
        "1.jpg": ["a", "b"],
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"output": "gs://bucket/data"}, "--output=gs://bucket/data: expected a local path"),
        ({"name": "my-toy"}, "--name: .*letters"),
        ({"split": "train 1"}, "--split: "),
        ({"split_names": ("restval",)}, "--split_names=restval: expected GIVEN=NAME"),
        ({"split_names": ("a=b c",)}, "--split_names=a=b c: split name 'b c' is not possible"),
        ({"input": "absent.jsonl"}, "absent.jsonl does not exist"),
        ({"columns": {"label": ("lable",)}}, "--label_column=lable"),
        ({"quoting": "none"}, "--quoting means nothing for --format=jsonl"),
        ({"format": "folder"}, "--images means nothing for --format=folder"),
        ({"format": "tfds", "images": "", "follow_links": True}, "--follow_links means nothing"),
        ({"format": "webdataset", "images": "", "encoding": "utf-8"}, "--encoding means nothing"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_written(tmp_path, changes, message):
    toy(tmp_path)
    with pytest.raises(InputError, match=message):
        prepare(options(tmp_path, **changes))
    assert not (tmp_path / "data").exists()


def test_a_read_only_output_is_told_before_the_work(tmp_path, monkeypatch):
    toy(tmp_path)
    prepare(options(tmp_path))
    before = content(tmp_path / "data/toy/1.0.0")
    # As on a read-only disk: permissions do not stop the user that many containers run as.
    monkeypatch.setattr("rsclip_jax.prepare.os.access", lambda path, mode: False)
    monkeypatch.setattr("rsclip_jax.prepare.open_table", None)
    for changes in ({"overwrite": True}, {"output": str(tmp_path / "new/data")}):
        with pytest.raises(InputError, match=r"cannot be written to .*another directory"):
            prepare(options(tmp_path, **changes))
    assert content(tmp_path / "data/toy/1.0.0") == before
    assert not (tmp_path / "new").exists()


def test_an_output_that_is_a_file_is_told_before_the_work(tmp_path, monkeypatch):
    toy(tmp_path)
    monkeypatch.setattr("rsclip_jax.prepare.open_table", None)
    for output in ("rows.jsonl", "rows.jsonl/data"):
        with pytest.raises(InputError, match=r"rows.jsonl is a file; give a directory"):
            prepare(options(tmp_path, output=str(tmp_path / output)))


def test_a_worker_that_dies_is_told(tmp_path, monkeypatch):
    def submit(*_):
        future = concurrent.futures.Future()
        future.set_exception(concurrent.futures.process.BrokenProcessPool())
        return future

    toy(tmp_path)
    monkeypatch.setattr(concurrent.futures.ProcessPoolExecutor, "submit", submit)
    with pytest.raises(InputError, match=r"a worker process died .*--workers"):
        prepare(options(tmp_path, workers=2))
    assert list((tmp_path / "data").iterdir()) == []


def test_an_existing_data_set_is_replaced_only_with_overwrite(tmp_path):
    toy(tmp_path)
    prepare(options(tmp_path))
    before = content(tmp_path / "data/toy/1.0.0")
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare(options(tmp_path))
    toy(tmp_path, count=9)
    (tmp_path / "images/1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="empty file"):
        prepare(options(tmp_path, overwrite=True))
    assert content(tmp_path / "data/toy/1.0.0") == before
    summary = prepare(options(tmp_path, overwrite=True, max_skipped=0.2))
    assert summary.records.total() == 8


def test_the_summary_counts_what_is_there(tmp_path):
    rows = toy(tmp_path, count=4)
    rows[0]["captions"] = ["one " * 75, "one " * 76, "one " * 246, "one " * 247]
    rows[1]["captions"] = ["one"]
    rows[1]["long_caption"] = "one " * 300
    (tmp_path / "images/2.jpg").write_bytes(picture(2, (30, 20)))
    write_rows(tmp_path, rows)
    numbers = prepare(options(tmp_path)).as_dict()
    assert numbers == json.loads((tmp_path / "data/toy/1.0.0/summary.json").read_text())
    assert numbers["records"] == {"train": 3, "val": 1}
    assert numbers["image_width"] == {"min": 16, "median": 16, "max": 20}
    assert numbers["image_height"] == {"min": 12, "median": 12, "max": 30}
    assert numbers["texts_per_image"]["captions"] == {"min": 1, "mean": 9 / 4, "max": 4}
    # Two tokens mark start and end; rows 2 and 3 have captions "a 2", "b", "a 3", "b".
    lengths = [77, 78, 248, 249, 3, 4, 3, 4, 3]
    assert numbers["clip_tokens"]["captions"] == {
        "texts": 9,
        "distinct": 8,
        "mean": pytest.approx(np.mean(lengths)),
        "p95": 249,
        "max": 249,
        "share_above_77": pytest.approx(3 / 9),
        "share_above_248": pytest.approx(1 / 9),
    }
    assert numbers["clip_tokens"]["long_captions"]["mean"] == 302
    assert "ir_captions" not in numbers["clip_tokens"]


def test_the_command_prints_a_summary_and_fails_with_a_message(tmp_path):
    rows = toy(tmp_path)
    rows[0]["label"] = "港口"
    write_rows(tmp_path, rows)
    ascii = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command(tmp_path, "--workers=2"), capture_output=True, text=True, env=ascii
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "train                     4",
        "total                     6",
        "> 77",
        "0.0%",
        r"\u6e2f\u53e3",
    ):
        assert words in done.stdout
    again = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.startswith("prepare: ") and "exists already" in again.stderr
    assert "Traceback" not in again.stderr


STALLED = """
import pathlib, sys, time
from absl import app
from rsclip_jax import prepare
from rsclip_jax.data.sources import Source

opened = prepare.open_table

def open_stalling(*arguments, **more):
    source = opened(*arguments, **more)
    def samples():
        for index, sample in enumerate(source):
            if index == 400:  # more than can be under way
                pathlib.Path(sys.argv[0]).touch()
                time.sleep(60)
            yield sample
    return Source(samples, source.size, source.root)

prepare.open_table = open_stalling
prepare.define_flags()
app.run(prepare.main)
"""


@pytest.fixture
def stalled_run(tmp_path):
    """A run that has stopped, with records written, in the middle of its input."""
    toy(tmp_path, count=450)
    marker = tmp_path / "stalled"
    flags = command(tmp_path, "--workers=2")[3:]
    code = f"import sys; sys.argv[0] = {str(marker)!r}\n{STALLED}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags],
        start_new_session=True,
        stderr=subprocess.PIPE,
        # A test run in the background of a shell ignores Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not marker.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.05)
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_run_leaves_nothing_complete_and_a_second_one_finishes(tmp_path, stalled_run):
    process = stalled_run
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="utf-8") as file:
        children = file.read().split()
    assert len(children) >= 2
    leftovers = tmp_path / "data/.toy.incomplete"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert any(leftovers.rglob("*.unfinished"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [leftovers.name]
    with pytest.raises(FileNotFoundError, match="there is none"):
        records.open_source(tmp_path / "data", "toy", "train")
    deadline = time.monotonic() + 20
    while any(map(alive, children)):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.05)
    prepare(options(tmp_path))
    prepare(options(tmp_path, output=str(tmp_path / "undisturbed")))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["toy"]
    assert content(tmp_path / "data/toy/1.0.0") == content(tmp_path / "undisturbed/toy/1.0.0")


def test_an_interrupted_run_says_what_becomes_of_what_it_wrote(tmp_path, stalled_run):
    os.killpg(stalled_run.pid, signal.SIGINT)  # as Ctrl-C in a terminal: all processes get it
    _, error = stalled_run.communicate(timeout=30)
    assert stalled_run.returncode == 130
    assert b"prepare: interrupted; the same command removes what this one has written" in error
    assert b"Traceback" not in error
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".toy.incomplete"]


def test_a_write_that_fails_leaves_no_data_set(tmp_path):
    toy(tmp_path)
    # Shards of ArrayRecord are 64 KiB at least: the limit stands for a full disk.
    done = subprocess.run(
        command(tmp_path, "--workers=1"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("prepare: cannot write a shard of ")
    assert list((tmp_path / "data").iterdir()) == []


def test_odd_images_are_kept_counted_and_said(tmp_path):
    with open(tmp_path / "data.jsonl", "w") as file:
        for name, pixels in {
            "black": np.zeros((8, 8, 3), np.uint8),
            "grey": np.full((8, 8, 3), 90, np.uint8),
            "grey2": np.full((8, 8, 3), 91, np.uint8),
            "dot": np.zeros((1, 1, 3), np.uint8),
            "fine": np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8),
            "deep": np.arange(64, dtype=np.uint16).reshape(8, 8) * 100,
        }.items():
            Image.fromarray(pixels).save(tmp_path / f"{name}.png")
            file.write(json.dumps({"image": f"{name}.png", "captions": ["a field"]}) + "\n")
    summary = prepare(options(tmp_path, input=str(tmp_path / "data.jsonl"), images=str(tmp_path)))
    assert summary.records.total() == 6
    assert summary.as_dict()["odd_images"] == {
        "black, or constant": 1,
        "constant, every pixel alike": 2,
        "of more than 8 bits: each is stretched between its own percentiles": 1,
        "of one pixel": 1,
    }
    assert "       2  constant, every pixel alike" in summary.table()


def test_the_summary_tells_classes_infrared_and_where_texts_come_from(tmp_path):
    rows = toy(tmp_path, count=40)
    for index, row in enumerate(rows):
        row["label"] = f"class {index % 16:02d}" if index < 39 else ""
    rows[0] |= {"captions": [], "ir": "1.jpg"}
    rows[1] |= {"captions": [], "long_captions": ["a long one"]}
    rows[2] |= {"label": "port\n" + "x" * 100}
    rows[3] |= {"captions": ["3 on the left", "b"]}
    rows[4] |= {"ir_captions": ["trees in the north"]}
    write_rows(tmp_path, rows)
    summary = prepare(options(tmp_path))
    numbers = summary.as_dict()
    assert numbers["with_infrared"] == {"records": 1, "share": 1 / 40}
    assert numbers["label_sentences"] == {"records": 2, "share": 2 / 40}
    assert numbers["name_direction"] == {"records": 2, "share": 2 / 40}
    assert numbers["without_captions_and_label"] == {"records": 0, "share": 0.0}
    assert list(numbers["classes"].items())[:2] == [("class 00", 3), ("class 01", 3)]
    assert len(numbers["classes"]) == 17 and sum(numbers["classes"].values()) == 39
    assert numbers["clip_tokens"]["captions"]["texts"] == 2 * 38
    assert numbers["clip_tokens"]["captions"]["distinct"] == 38 + 1
    table = summary.table()
    for line in (
        "         1  (2.5%) have an infrared image",
        '         2  (5.0%) have no caption: their text will be "a remote sensing image of LABEL"',
        "         2  (5.0%) name a direction, such as left (for their flips: "
        "config.input.augment_text)",
        "classes (17)",
        "  class 06                                  3",
        "  7 more, of 2 to 1 records each: all are in summary.json",
        "  1 records have no class",
    ):
        assert line in table.splitlines()
    assert max(map(len, table.splitlines())) <= 100


def test_summaries_of_parts_add_up_to_that_of_the_whole(monkeypatch):
    monkeypatch.setattr("rsclip_jax.data.summary.MAX_CLASSES", 3)
    outcomes = []
    for index in range(9):
        example = {"image": b"J", "ir": b"I" * (index % 2), "label": f"{index % 5}"}
        example |= {"captions": [f"{index % 4} on the left"]}
        example |= {"long_captions": [], "ir_captions": []}
        outcomes.append(ingest.Outcome("", 0, "", "", "train", size=(1, 1)))
        outcomes[-1].describe(example)
    whole, first, second = Summary("toy"), Summary("toy"), Summary("toy")
    for index, outcome in enumerate(outcomes):
        whole.add(outcome)
        (first if index < 5 else second).add(outcome)
    first.update(second)
    assert first.as_dict() == whole.as_dict()
    numbers = whole.as_dict()
    assert numbers["classes"] == {"0": 2, "1": 2, "2": 2}
    assert numbers["other_classes"] == 3
    assert numbers["with_infrared"]["records"] == 4
    assert numbers["name_direction"]["records"] == 9
    assert numbers["clip_tokens"]["captions"]["distinct"] == 4
    assert "3 records are of classes beyond" in whole.table()


def test_texts_that_cannot_be_stored_are_mended_and_the_image_stays(tmp_path):
    rows = toy(tmp_path, count=4)
    rows[0]["captions"] = ["a pier \ud83d", "b"]
    rows[1]["captions"] = ["\0a\0 quay\x1b", "\0", "tab\tstays"]
    rows[2] |= {"label": "caf\udce9", "id": "two\ud800"}
    rows[3] |= {"label": "caf\udce8", "captions": ["\U0001f6f0"]}
    for number, row in enumerate(rows):
        row.setdefault("id", f"{number}")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = prepare(options(tmp_path, columns={"id": ("id",)}))
    assert not summary.skipped
    stored = {
        r["id"]: r
        for s in ("train", "val")
        for r in records.open_source(tmp_path / "data", "toy", s)
    }
    assert stored["0"]["captions"] == ["a pier \ufffd", "b"]
    assert stored["1"]["captions"] == ["a  quay", "tab\tstays"]
    assert stored["two\\ud800"]["label"] == "caf\\udce9"
    assert (stored["3"]["label"], stored["3"]["captions"]) == ("caf\\udce8", ["\U0001f6f0"])
    assert summary.as_dict()["mended_texts"] == {HALF: 1, CONTROL: 2, NAME: 3}
    assert f"         2  {CONTROL}" in summary.table().splitlines()


def test_names_of_files_in_other_encodings_are_kept(tmp_path):
    folder = os.fsencode(tmp_path) + b"/classes/caf\xe9"
    os.makedirs(folder)
    with open(folder + b"/\xff.jpg", "wb") as file:
        file.write(picture(1))
    given = {"format": "folder", "input": str(tmp_path / "classes"), "images": ""}
    prepare(options(tmp_path, **given))
    (record,) = records.open_source(tmp_path / "data", "toy", "train")
    assert (record["id"], record["label"]) == ("caf\\udce9/\\udcff.jpg", "caf\\udce9")


def splits_of(root, **changes):
    summary = prepare(options(root, **changes))
    return summary, dict(summary.records)


def test_the_usual_spellings_of_splits_become_train_val_and_test(tmp_path, capsys):
    rows = toy(tmp_path, count=8)
    names = ("train", "Training", "restval", "VAL", "validation", "dev", "test", "extra")
    for row, name in zip(rows, names, strict=True):
        row["split"] = name
    write_rows(tmp_path, rows)
    summary, counts = splits_of(tmp_path, max_skipped=0.2)
    assert counts == {"train": 3, "val": 3, "test": 1, "extra": 1}
    line = "         1  of split 'restval' are in train (--split_names=restval=NAME decides)"
    assert line in summary.table().splitlines()
    assert summary.as_dict()["split_names"]["restval"] == {"split": "train", "records": 1}
    assert not {"train", "test", "extra"} & set(summary.as_dict()["split_names"])
    named = ("restval=restval", "extra=test", "fold1=train")
    _, counts = splits_of(tmp_path, split_names=named, overwrite=True)
    assert counts == {"train": 2, "restval": 1, "val": 3, "test": 2}
    assert "--split_names: no record is of 'fold1'" in capsys.readouterr().err


def test_records_that_name_no_split_or_an_unknown_one_are_told(tmp_path):
    rows = toy(tmp_path, count=6)
    assert "split" not in splits_of(tmp_path)[0].table()
    for row, name in zip(rows, ("train", "", None, "fold_1", "test", "fold_1"), strict=True):
        row["split"] = name
    write_rows(tmp_path, rows)
    lines = splits_of(tmp_path, overwrite=True)[0].table().splitlines()
    assert "         2  that name no split are in train (--split decides)" in lines
    assert (
        "         2  of split 'fold_1' are in a split of their own, fold_1 "
        "(--split_names=fold_1=NAME decides)"
    ) in lines
    for row in rows:
        del row["split"]
    write_rows(tmp_path, rows)
    assert "split" not in splits_of(tmp_path, overwrite=True)[0].table()


def test_one_file_called_like_a_split_is_that_split_unless_told_otherwise(tmp_path, capsys):
    rows = [{"filename": row["filename"], "captions": ["a"]} for row in toy(tmp_path, count=2)]
    write_rows(tmp_path, rows)
    path = str((tmp_path / "rows.jsonl").rename(tmp_path / "captions_val2017.jsonl"))
    assert splits_of(tmp_path, input=path)[1] == {"val": 2}
    note = "what names no split itself has that of its file's name: val (--split decides for all)"
    assert note in capsys.readouterr().err
    for given in ({"split": "train"}, {"split_names": ("val=train",)}):
        assert splits_of(tmp_path, input=path, overwrite=True, **given)[1] == {"train": 2}


def test_a_class_folder_called_like_a_held_out_split_is_told(tmp_path):
    (tmp_path / "test/port").mkdir(parents=True)
    (tmp_path / "test/port/1.jpg").touch()
    given = {"format": "folder", "input": f"{tmp_path}/test/", "images": ""}
    (note,) = check(options(tmp_path, **given)).notes
    assert note.startswith("--input is called like the split 'test'") and "--split=test" in note
    assert not check(options(tmp_path, **given, split="train")).notes


def test_impossible_names_of_splits_say_what_renames_them(tmp_path):
    rows = toy(tmp_path, count=3)
    for row in rows:
        row["split"] = "0"
    write_rows(tmp_path, rows)
    with pytest.raises(
        InputError, match="3 x impossible split, such as split name '0' is not possible"
    ):
        prepare(options(tmp_path))
    assert "--split_names=0=train" in skipped(tmp_path, "data/toy.skipped.jsonl")[0]["reason"]
    assert splits_of(tmp_path, split_names=("0=val",))[1] == {"val": 3}


def test_of_one_id_the_held_out_record_stays(tmp_path):
    rows = toy(tmp_path, count=3)  # train, train, val
    again = [{**row, "split": "testing", "captions": ["x", "y"]} for row in rows[1:]]
    more = [{**rows[0], "split": "extra"}, {**rows[2], "split": "train"}, rows[0]]
    write_rows(tmp_path, [*rows, *again, *more])
    summary = prepare(options(tmp_path, max_skipped=0.7, split_names=("extra=val",)))
    assert summary.records == {"val": 1, "test": 2}
    assert summary.skipped == {
        "duplicate id of train, which test has already": 2,
        "duplicate id of train, which val has already": 2,
        "duplicate id of val, which test has already": 1,
    }
    test = records.open_source(tmp_path / "data", "toy", "test")
    assert [(record["id"], record["captions"]) for record in test] == [
        ("1.jpg", ["x", "y"]),
        ("2.jpg", ["x", "y"]),
    ]
    table = summary.table()
    assert "         2  duplicate id of train, which test has already" in table.splitlines()
    assert "of one id the first stays, in tables a held-out one" in table


def test_images_that_are_in_another_split_too_are_kept_and_counted(tmp_path):
    rows = toy(tmp_path, count=6)
    for name in ("4", "5"):
        (tmp_path / f"images/{name}.jpg").write_bytes(picture(0))
    for row, split in zip(rows, ("train", "train", "train", "train", "train", "test"), strict=True):
        row["split"] = split
    write_rows(tmp_path, rows)
    summary = prepare(options(tmp_path))
    assert summary.records.total() == 6
    counts = {"of test that train has already": 1, "of train that it has already": 1}
    assert summary.as_dict()["same_images"] == counts
    assert "         1  of test that train has already" in summary.table().splitlines()


def test_a_share_is_held_out_of_train_by_the_image(tmp_path, capsys):
    rows = [row | {"split": ""} for row in toy(tmp_path, 40)]
    (tmp_path / "images/twin.jpg").write_bytes(picture(0))
    write_rows(tmp_path, [*rows, {"filename": "twin.jpg", "captions": ["c"], "split": ""}])
    prepare(options(tmp_path))
    assert "--hold_out=val=0.1 holds a tenth out" in capsys.readouterr().err
    splits = {}
    for seed in (0, 1):  # the same again
        summary = prepare(options(tmp_path, hold_out=("val=0.3", "test=0.2"), overwrite=True))
        assert sum(summary.records.values()) == 41 and min(summary.records.values()) > 2
        for split in ("train", "val", "test"):
            ids = [row["id"] for row in records.open_source(tmp_path / "data", "toy", split)]
            assert splits.setdefault(split, ids) == ids, seed
    assert f"{summary.records['val']}  of train are drawn into val (--hold_out)" in summary.table()
    assert summary.split_names == {("", "train"): 41}
    (of_twins,) = [split for split, ids in splits.items() if "0.jpg" in ids]
    assert "twin.jpg" in splits[of_twins]
    for wrong in ("val", "val=x", "val=0", "val=1", "train=0.1", "va l=0.1"):
        with pytest.raises(InputError, match=r"--hold_out=.*expected"):
            check(options(tmp_path, hold_out=(wrong,), overwrite=True))


def test_pairs_of_images_need_no_texts(tmp_path):
    toy(tmp_path)
    write_rows(tmp_path, [{"image": "0.jpg", "ir": "1.jpg"}, {"image": "2.jpg", "ir": "3.jpg"}])
    assert prepare(options(tmp_path)).records == {"train": 2}
    write_rows(tmp_path, [{"image": "0.jpg", "nothing": "1"}])
    with pytest.raises(InputError, match="captions, labels or infrared images; name one"):
        check(options(tmp_path, name="more"))


def test_captions_called_long_or_infrared_are(tmp_path):
    toy(tmp_path)
    write_rows(
        tmp_path, [{"image": "0.jpg", "caption": "a", "caption_long": "b", "ir_caption": "c"}]
    )
    prepare(options(tmp_path))
    (row,) = records.open_source(tmp_path / "data", "toy", "train")
    assert (row["captions"], row["long_captions"], row["ir_captions"]) == (["a"], ["b"], ["c"])
