"""The pipeline of RS5M from fetched images to a data set, whole, cut off, and refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from PIL import Image
from test_build_ingest import encoded, img2dataset_output

from configs.build import rs5m as config_file
from rsclip_jax.build import rs5m, stages, write
from rsclip_jax.build.runners import Progress, Runner
from rsclip_jax.build.stages import StageError
from rsclip_jax.data.records import dataset_fingerprint, open_source
from rsclip_jax.data.text import ClipTokenizer


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two web sources, and a labelled one that no filter touches."""
    folder = tmp_path_factory.mktemp("input")
    img2dataset_output(folder / "web")
    # Of laioncoco: an image that laion2b has too, a damaged one, one without a keyword.
    images = [encoded(2), b"no image", encoded(7), *(encoded(20 + n) for n in range(9))]
    with open(folder / "coco.jsonl", "w", encoding="utf-8") as table:
        for number, data in enumerate(images):
            (folder / f"{number}.jpg").write_bytes(data)
            caption = "a dog" if number == 2 else f"satellite photo {number}"
            table.write(json.dumps({"file": f"{number}.jpg", "caption": caption}) + "\n")
    (folder / "labelled" / "harbor").mkdir(parents=True)
    for number in range(8):
        (folder / "labelled" / "harbor" / f"{number}.png").write_bytes(encoded(2, "PNG"))
    Image.new("RGB", (9, 9)).save(folder / "labelled" / "harbor" / "7.png")
    config = config_file.get_config()
    config.sources.laion2b.path = str(folder / "web")
    config.sources.laioncoco.path = str(folder / "coco.jsonl")
    config.sources.laioncoco.form = "jsonl"
    config.sources.fmow.path = str(folder / "labelled")
    config.sources.fmow.licence = "as published"
    config.validation = 0.25
    return config


@pytest.fixture(scope="module")
def built(config, tmp_path_factory):
    """The workdir of a build that nothing disturbed, and what it said."""
    workdir = tmp_path_factory.mktemp("built") / "w"
    return workdir, rs5m.build(config, str(workdir), Runner(workers=1))


def records_of(directory):
    splits = {split: open_source(directory, "rs5m", split) for split in ("train", "val")}
    return {split: list(source) for split, source in splits.items()}


def test_web_pairs_and_labelled_images_become_a_data_set(built):
    workdir, text = built
    assert table_of(text) == [
        "| set       | size | after keywords | downloaded | invalid | dup removed | remain |",
        "| --------- | ---: | -------------: | ---------: | ------: | ----------: | -----: |",
        "| laioncoco |   12 |             11 |         11 |       1 |           1 |      9 |",
        "| fmow      |    8 |              8 |          8 |       0 |           0 |      8 |",
        "| laion2b   |    3 |              3 |          2 |       0 |           0 |      2 |",
        "| total     |   23 |             22 |         21 |       1 |           1 |     19 |",
    ]
    records = records_of(workdir / "data")
    every = {record["id"]: record for split in records.values() for record in split}
    assert len(every) == 19 == sum(map(len, records.values()))
    held_out = [record["source"] for record in records["val"]]
    assert sorted(held_out) == ["fmow"] * 2 + ["laioncoco"] * 2
    assert every["laion2b/000000002"]["image"] == encoded(2)
    assert every["laion2b/000000002"]["captions"] == ["aerial image 2"]
    assert every["fmow/harbor/3.png"]["label"] == "harbor"
    assert "laioncoco/0.jpg" not in every
    card = json.loads((workdir / "data/rs5m/1.0.0/card.json").read_text())
    captions = [text for record in every.values() for text in record["captions"]]
    tokens = card["all"]["clip_tokens"]["captions"]
    assert tokens["texts"] == len(captions) == 11
    assert tokens["mean"] == ClipTokenizer().lengths(captions).mean()
    assert card["licences"]["fmow"] == "as published"
    assert card["all"]["image_bytes"] == sum(len(record["image"]) for record in every.values())
    told = (workdir / "data/rs5m/1.0.0/card.md").read_text()
    assert "| laioncoco |     7 |   2 |     9 |" in told
    assert "hashes: near duplicate" in told and "fmow: as published" in told
    assert "8 records have no short caption: fmow 8." in told
    assert "Images to look at, kept:\n\n- fmow: 1 black, or constant\n" in told
    assert card["all"]["odd_images"] == {"black, or constant": 1}
    assert card["all"]["classes"] == {"harbor": 8}
    assert tokens["distinct"] == len(set(captions))


def test_a_second_run_has_nothing_to_do_but_the_writing(config, built, capsys, monkeypatch):
    workdir, _ = built
    config = config.copy_and_resolve_references()
    config.sources.fmow.licence = "CC0"
    with pytest.raises(FileExistsError, match="--overwrite"):
        rs5m.build(config, str(workdir), Runner(workers=1))
    before = dataset_fingerprint(workdir / "data", "rs5m")
    told = []

    class Watched(Progress):
        def __exit__(self, *given):
            told.append(self.written())
            super().__exit__(*given)

    monkeypatch.setattr(write, "Progress", Watched)
    rs5m.build(config, str(workdir), Runner(workers=1), overwrite=True)
    assert told == [19]
    told = capsys.readouterr().out
    assert told.count(": kept, ") == 7
    assert "\n8 rows have no caption and get none (fmow): caption their images first" in told
    assert "fmow: CC0" in (workdir / "data/rs5m/1.0.0/card.md").read_text()
    assert dataset_fingerprint(workdir / "data", "rs5m") == before


def test_rows_that_a_stage_gives_a_caption_are_not_called_bare():
    rows = [
        {"source": "cc3m", "captions": ["aerial view"]},
        {"source": "fmow", "captions": []},
        {"source": "millionaid", "captions": [], "candidates": ["a port"]},
        {"source": "millionaid", "captions": []},
    ]
    table, config = SimpleNamespace(read=lambda fields: rows), config_file.get_config()
    assert rs5m._count_bare(table, config) == {"fmow": 1, "millionaid": 2}
    config.geometa.fmow = "fmow"
    config.captions.first = "ViT-H-14"
    assert rs5m._count_bare(table, config) == {"millionaid": 1}


def test_workers_of_another_runner_make_the_same_data_set(config, built, tmp_path, monkeypatch):
    """Beam's job server and worker pool: the protocol of Flink's and Spark's."""
    workdir, text = built
    monkeypatch.chdir(tmp_path)  # workers import the installed package, not this checkout
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    jobs = LocalJobServicer(str(tmp_path / "staging"))
    pool, workers = BeamFnExternalWorkerPoolServicer.start(use_process=True)
    try:
        runner = Runner(
            "PortableRunner",
            f"--job_endpoint=localhost:{jobs.start_grpc_server()} --environment_type=EXTERNAL "
            f"--environment_config={pool}",
        )
        told = rs5m.build(config, str(tmp_path / "w"), runner)
    finally:
        jobs.stop()
        workers.stop(0)
    assert table_of(told) == table_of(text)
    found = dataset_fingerprint(tmp_path / "w/data", "rs5m")
    assert found == dataset_fingerprint(workdir / "data", "rs5m")


def table_of(text):
    return text.split("\n\n")[0].strip().splitlines()


# Dies at the thirteenth image that it checks, in the second wave, in a process of its own.
SLOW = """
import json, sys, time
from ml_collections import ConfigDict
from pathlib import Path
from rsclip_jax.build import image_checks, rs5m, stages
from rsclip_jax.build.runners import Progress, Runner

stages.SHARD_ROWS, stages.WAVE_SHARDS = 12, 1
check, checked = image_checks.check_image, []
def slow(*given):
    checked.append(0)
    if len(checked) == 13:
        Path(sys.argv[2], "marker").touch()
        time.sleep(100)
    return check(*given)
image_checks.check_image = slow
rs5m.build(ConfigDict(json.loads(sys.argv[1])), sys.argv[2] + "/w", Runner(workers=1))
"""


def test_a_killed_pipeline_goes_on_and_loses_nothing(config, built, tmp_path, monkeypatch):
    arguments = [sys.executable, "-c", SLOW, config.to_json(), str(tmp_path)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "marker").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    invalid = tmp_path / "w/stages/03_invalid"
    waves = sorted(path.name for path in invalid.glob("wave-*"))
    assert waves and not (invalid / "table.json").exists()
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "w/stages").glob("*/part-*")}

    monkeypatch.setattr(stages, "SHARD_ROWS", 12)
    monkeypatch.setattr(stages, "WAVE_SHARDS", 1)
    rs5m.build(config, str(tmp_path / "w"), Runner(workers=1))
    again = {p: p.stat().st_mtime_ns for p in written if p.exists()}
    assert again == written  # what was done was not done again
    directories = [tmp_path / "w/data", built[0] / "data"]
    assert len({dataset_fingerprint(directory, "rs5m") for directory in directories}) == 1
    killed, undisturbed = map(records_of, directories)
    assert killed == undisturbed and len(killed["train"]) + len(killed["val"]) == 19


def test_an_image_that_is_no_longer_what_it_was_stops_the_writing(config, built):
    workdir, _ = built
    changed = Path(config.sources.laioncoco.path).with_name("5.jpg")
    data = changed.read_bytes()
    changed.write_bytes(encoded(99))
    try:
        with pytest.raises(StageError, match=r"row 'laioncoco/5.jpg': .* has changed since"):
            rs5m.build(config, str(workdir), Runner(workers=1), overwrite=True)
    finally:
        changed.write_bytes(data)
    assert sum(map(len, records_of(workdir / "data").values())) == 19  # the old one is still there


def test_urls_are_listed_for_fetching_and_then_joined(tmp_path):
    urls = [f"http://a.org/{number}.jpg" for number in range(3)]
    captions = ["aerial view", "satellite image", "a cat"]
    path = tmp_path / "urls-0.parquet"
    pq.write_table(pa.table({"URL": urls, "TEXT": captions}), path)
    config = config_file.get_config()
    config.sources.cc3m.form, config.sources.cc3m.path = "urls", str(path)
    text = rs5m.build(config, str(tmp_path / "w"), Runner(workers=1))
    assert text.startswith("2 images are to be fetched: img2dataset --url_list=")
    assert pq.read_table(tmp_path / "w/urls.parquet")["url"].to_pylist() == urls[:2]
    img2dataset_output(tmp_path / "fetched")
    config.fetched = str(tmp_path / "fetched")
    text = rs5m.build(config, str(tmp_path / "w"), Runner(workers=1))
    assert "| cc3m  |    3 |              2 |          1 |       0 |           0 |      1 |" in text
    (record,) = open_source(tmp_path / "w/data", "rs5m", "train")
    assert record["image"] == encoded(0) and record["captions"] == ["aerial view"]


def test_the_command_names_the_nearest_field(tmp_path):
    command = [sys.executable, "-m", "rsclip_jax.build.rs5m", f"--workdir={tmp_path}/w"]
    given = ["--config=configs/build/rs5m.py", "--config.sources.laoin2b.path=x"]
    result = subprocess.run(
        command + given, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert result.returncode == 1
    assert result.stderr.startswith("rs5m: --config.sources.laoin2b.path: the config has no such")
    assert "--config.sources.laion2b.path" in result.stderr
