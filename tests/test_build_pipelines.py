"""The pipelines of LRS2M and FusionRS, whole, with a server that misbehaves and with none."""

import collections
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chat_server import Reply, serve
from test_build_captioning import LONG, SHORT, saying, shown
from test_build_ingest import encoded

from configs.build import fusionrs as fusionrs_config
from configs.build import lrs2m as lrs2m_config
from rsclip_jax.build import fusionrs, lrs2m
from rsclip_jax.build.chance import drawn
from rsclip_jax.build.cleaning import find_fault
from rsclip_jax.build.files import tree_state
from rsclip_jax.build.infrared import find_view
from rsclip_jax.build.runners import Runner
from rsclip_jax.data import images
from rsclip_jax.data.records import dataset_fingerprint, open_source
from rsclip_jax.data.sources import InputError

FAILURES = [
    Reply(status=429, body={"error": {"message": "slow down"}}),
    Reply(status=500, body="oops"),
    Reply("{'caption'"),  # is asked to mend it
]


def write_table(folder, rows):
    """Write rows, whose `image` and `ir` are bytes, as a JSONL table; return its path."""
    folder.mkdir(parents=True)
    with open(folder / "table.jsonl", "w", encoding="utf-8") as table:
        for number, row in enumerate(rows):
            for kind in ("image", "ir"):
                if kind in row:
                    (folder / f"{kind}{number:02d}.jpg").write_bytes(row[kind])
                    row = row | {kind: f"{kind}{number:02d}.jpg"}
            table.write(json.dumps(row) + "\n")
    return str(folder / "table.jsonl")


def with_server(config, server):
    config.endpoint.update(base_url=server.url, model="seer", concurrency=2, timeout=20.0)
    config.endpoint.update(prompt_price=10_000.0, completion_price=50_000.0)
    return config


def table_of(text):
    return text.split("\n\n")[0].strip().splitlines()


def test_lrs2m_from_bare_images_to_a_data_set(tmp_path, capsys):
    rows = [{"image": encoded(number), "label": "harbor"} for number in range(6)]
    rows.append(rows[0])
    rows.append({"image": b"no image"})
    rows.append({"image": encoded(8), "captions": ["two piers"], "long_captions": [LONG]})
    rows[8]["captions"] = ["a harbor with two piers"]
    rows.append({"image": encoded(9), "captions": ["I cannot see it"]})
    config = lrs2m_config.get_config("public")
    config.sources.rsicd.path = write_table(tmp_path / "input", rows)
    config.validation = 0.34

    def reply(body, number):
        if number < len(FAILURES):
            return FAILURES[number]
        if "4 to 8 sentences" not in body["messages"][0]["content"]:
            return saying("caption", SHORT)
        return saying("caption", "a picture" if shown(body)[0] == rows[3]["image"] else LONG)

    workdir = tmp_path / "w"
    with serve(reply) as server:
        text = lrs2m.build(with_server(config, server), str(workdir), Runner(workers=1))
        # Short: 6 images; long: these and one more; the answer that had to be mended; 429 and 500.
        assert len(server.bodies) == 6 + 7 + 1 + 2
        before = dataset_fingerprint(workdir / "data", "lrs2m_public")
        shutil.rmtree(workdir / "stages")  # even so nothing is asked again
        lrs2m.build(config, str(workdir), Runner(workers=1), overwrite=True)
        assert len(server.bodies) == 16
    assert dataset_fingerprint(workdir / "data", "lrs2m_public") == before
    header, _, rsicd, _ = table_of(text)
    assert header == (
        "| set   | size | invalid | dup removed | with short caption | with long caption | "
        "failed checks | remain |"
    )
    assert rsicd.replace(" ", "") == "|rsicd|10|1|1|8|7|1|6|"
    splits = {s: list(open_source(workdir / "data", "lrs2m_public", s)) for s in ("train", "val")}
    assert {split: len(records) for split, records in splits.items()} == {"train": 4, "val": 2}
    for record in splits["train"] + splits["val"]:
        own = record["image"] == rows[8]["image"]
        assert record["captions"] == (rows[8]["captions"] if own else [SHORT])
        assert record["long_captions"] == [LONG]
    directory = workdir / "data/lrs2m_public/1.0.0"
    card = json.loads((directory / "card.json").read_text())
    captioning = card["captioning"]
    assert captioning["captions"] == {
        "captions by seer-served, short/1": 5,
        "long_captions by seer-served, long/1": 5,
    }
    assert captioning["paid"]["answers"] == 14 and captioning["paid"]["prompt_tokens"] == 1400
    assert captioning["paid"]["cost"] == 14 * (100 * 0.01 + 20 * 0.05) == 28.0
    paid = "paid to seer, all runs: 14 answers, 1,400 prompt tokens, 280 completion tokens, cost 28"
    assert paid in (directory / "card.md").read_text() and paid in text
    told = (directory / "card.md").read_text()
    assert "long_captions: too short" in told and "check_short: talk" in told
    assert (workdir / "answers").is_dir()


def test_lrs2m_without_a_server_keeps_the_captions_there_are(tmp_path, capsys):
    rows = [{"image": encoded(number), "label": "harbor"} for number in range(4)]
    config = lrs2m_config.get_config("public")
    config.sources.rsicd.path = write_table(tmp_path / "bare", rows)
    with pytest.raises(InputError, match=r"no row is left \(4 no caption\): .*endpoint.base_url"):
        lrs2m.build(config, str(tmp_path / "w"), Runner(workers=1))
    boxes = [["ship", 0.4, 0.4, 0.6, 0.6]]
    rows += [{"image": encoded(4), "boxes": boxes}, {"image": encoded(5), "boxes": [["ship", 1]]}]
    rows.append({"image": encoded(6), "captions": ["ships in a harbor"]})
    config.sources.rsicd.path = write_table(tmp_path / "some", rows)
    text = lrs2m.build(config, str(tmp_path / "w"), Runner(workers=1))
    assert "no config.endpoint.base_url: no captions are written" in capsys.readouterr().out
    assert table_of(text)[2].replace(" ", "") == "|rsicd|7|2|0|0|0|2|"
    records = open_source(tmp_path / "w/data", "lrs2m_public", "train")
    captions = {record["id"]: record["captions"] for record in records}
    assert captions["rsicd/image06.jpg"] == ["ships in a harbor"]
    assert captions["rsicd/image04.jpg"][0] == "A ship in the centre of the image."
    card = (tmp_path / "w/data/lrs2m_public/1.0.0/card.md").read_text()
    assert "Captions by a model" not in card and "box_captions: unusable boxes" in card


def test_a_server_is_told_by_address_and_model(tmp_path):
    config = lrs2m_config.get_config("public")
    config.endpoint.base_url = "http://localhost:1/v1"
    with pytest.raises(InputError, match=r"config\.endpoint\.model is empty"):
        lrs2m.build(config, str(tmp_path / "w"), Runner(workers=1))


WORDS = ("bright", "dark", "wide", "narrow", "long", "short")
GOOD = "Bright roofs stand out from dark ground with sharp outlines."
AWARE = [GOOD, GOOD, "Warm roofs lie on dark ground.", "Green fields lie beside dark ground."]


def fusionrs_input(folder):
    """Ten images with an infrared one, thirteen without; what is wrong is at the end of these."""

    def caption(number):
        return f"a {WORDS[number % 6]} road with {number} cars near a {WORDS[number // 6]} field"

    pairs = [
        {"image": encoded(n), "ir": encoded(100 + n), "captions": [caption(n), "a second caption"]}
        for n in range(10)
    ]
    plain = [{"image": encoded(n), "captions": [caption(n)]} for n in range(10, 19)]
    plain[1]["captions"] = [f"  {caption(0).upper()} !"]  # that of a pair
    plain[2]["captions"] = ["stock photo", "a river between two hills"]
    plain[3] |= {"captions": [], "label": "Sparse_Residential"}
    plain[4]["image"] = pairs[1]["image"]
    plain.append({"image": encoded(30), "captions": ["Copyright of somebody"]})
    plain.append({"image": encoded(31), "captions": ["aerial view of the area"]})
    plain.append({"image": b"no image", "captions": ["a long road"]})
    plain.append({"image": encoded(32), "captions": ["a bridge that nobody translates"]})
    return write_table(folder / "pairs", pairs), write_table(folder / "plain", plain)


@pytest.fixture
def fusionrs_given(tmp_path):
    config = fusionrs_config.get_config()
    pairs, plain = fusionrs_input(tmp_path)
    config.sources.rsicd.update(form="jsonl", path=plain)
    config.sources.rsitmd.update(form="jsonl", path=pairs)
    config.sizes.update(val=4, test=5)
    config.minimum = 1
    config.ir_aware.share = 0.5
    return config


def test_fusionrs_from_images_to_two_data_sets(tmp_path, fusionrs_given):
    config, workdir, folder = fusionrs_given, tmp_path / "w", tmp_path / "translated"

    def reply(body, number):
        if number < len(FAILURES):
            return FAILURES[number]
        image = images.decode(shown(body)[0])
        return saying("ir_aware_caption", AWARE[int(image.sum()) % len(AWARE)])

    with serve(reply) as server:
        with_server(config, server)
        text = fusionrs.build(config, str(workdir), Runner(workers=1))
        assert text.startswith("10 images have no infrared image: translate those that ")
        with open(workdir / "translate.jsonl", encoding="utf-8") as file:
            for line in map(json.loads, file):
                if line["id"] != "rsicd/image12.jpg":
                    path = folder / line["ir"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    # A translator's output: another image, and another one for each.
                    path.write_bytes(encoded(int(line["id"][-6:-4]) + 200, "PNG"))
        config.translated = str(folder)
        text = fusionrs.build(config, str(workdir), Runner(workers=1))
        asked = len(server.bodies)
        fingerprint = dataset_fingerprint(workdir / "data", "fusionrs")
        fusionrs.build(config, str(workdir), Runner(workers=1), overwrite=True)
        assert len(server.bodies) == asked
        assert dataset_fingerprint(workdir / "data", "fusionrs") == fingerprint
        goes_on_between_the_data_sets(config, workdir)
        assert len(server.bodies) == asked
    assert [line.replace(" ", "") for line in table_of(text) if "---" not in line] == [
        "|set|size|invalid|aftercleaning|withinfrared|remain|",
        "|rsicd|13|1|10|9|9|",
        "|rsitmd|10|0|10|10|10|",
        "|total|23|1|20|19|19|",
    ]
    records = {
        split: list(open_source(workdir / "data", "fusionrs", split))
        for split in ("train", "val", "test")
    }
    assert {split: len(of) for split, of in records.items()} == {"train": 10, "val": 4, "test": 5}
    home = {record["id"]: split for split, of in records.items() for record in of}
    every = {record["id"]: record for of in records.values() for record in of}
    assert home["rsicd/image01.jpg"] == home["rsitmd/image00.jpg"]  # the same caption
    assert home["rsicd/image04.jpg"] == home["rsitmd/image01.jpg"]  # the same image
    assert all(len(record["captions"]) == 1 for record in every.values())
    assert every["rsicd/image02.jpg"]["captions"] == ["a river between two hills"]
    assert every["rsicd/image03.jpg"]["captions"] == ["sparse residential"]
    assert every["rsicd/image05.jpg"]["ir"] == encoded(205, "PNG")
    # Asked about the share that was drawn, all of it train's; what the filter rejects is counted.
    chosen = [name for name in every if drawn(name, 0.5)]
    assert 5 <= len(chosen) <= 10 and all(home[name] == "train" for name in chosen)
    expected = {
        name: AWARE[int(images.decode(every[name]["ir"]).sum()) % len(AWARE)] for name in chosen
    }
    got = {name: record["ir_captions"] for name, record in every.items() if record["ir_captions"]}
    assert got == {name: [caption] for name, caption in expected.items() if caption == GOOD}
    rejected = collections.Counter(caption for caption in expected.values() if caption != GOOD)
    assert len(rejected) == 2  # both kinds came up
    card = json.loads((workdir / "data/fusionrs/1.0.0/card.json").read_text())
    assert card["captioning"]["problems"] == {
        f"ir_captions: infrared filter, {category}": rejected[caption]
        for caption, category in ((AWARE[2], "temperature"), (AWARE[3], "colour"))
    }
    assert card["captioning"]["paid"]["answers"] == len(chosen) + 1
    dropped = card["stages"][2]["dropped"]["rsicd"]
    assert dropped == {"noise": 1, "generic": 1}
    assert card["stages"][3]["dropped"]["rsicd"] == {"no infrared image": 1}
    aware = list(open_source(workdir / "data", "fusionrs_ir_aware", "train"))
    assert {record["id"]: record["ir_captions"] for record in aware} == got
    more = json.loads((workdir / "data/fusionrs_ir_aware/1.0.0/card.json").read_text())
    reasons = collections.Counter()
    for of in more["stages"][-1]["dropped"].values():
        reasons.update(of)
    assert reasons.pop("no caption") == len(every) - len(chosen)
    assert sum(reasons.values()) == sum(rejected.values())


def goes_on_between_the_data_sets(config, workdir):
    """Check what follows a kill after the first data set."""
    first, second = workdir / "data/fusionrs", workdir / "data/fusionrs_ir_aware"
    fingerprint = dataset_fingerprint(workdir / "data", "fusionrs_ir_aware")
    written = (first / "1.0.0/card.json").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="fusionrs_ir_aware exists already"):
        fusionrs.build(config, str(workdir), Runner(workers=1))
    shutil.rmtree(second)
    other = config.copy_and_resolve_references()
    other.resize = 32
    with pytest.raises(FileExistsError, match="data/fusionrs exists already"):
        fusionrs.build(other, str(workdir), Runner(workers=1))
    table = Path(config.sources.rsicd.path)
    then = table.stat().st_mtime_ns
    os.utime(table, ns=(then, then + 10**9))  # other rows, for all one knows
    with pytest.raises(FileExistsError, match="data/fusionrs exists already"):
        fusionrs.build(config, str(workdir), Runner(workers=1))
    os.utime(table, ns=(then, then))
    text = fusionrs.build(config, str(workdir), Runner(workers=1))
    assert text.startswith("fusionrs: kept, ") and "fusionrs_ir_aware: " in text
    assert (first / "1.0.0/card.json").stat().st_mtime_ns == written
    assert dataset_fingerprint(workdir / "data", "fusionrs_ir_aware") == fingerprint


def test_fusionrs_tells_what_it_lacks(tmp_path, fusionrs_given, capsys):
    config = fusionrs_given
    config.sources.rsicd.path = ""
    config.sources.rsitmd.split = "test"
    config.sizes.val = 5
    with pytest.raises(InputError, match=r"10 rows are to be held out of 10: .*config\.sizes\.val"):
        fusionrs.build(config, str(tmp_path / "w"), Runner(workers=1))
    config.sizes.update(val=1, test=1)
    text = fusionrs.build(config, str(tmp_path / "w"), Runner(workers=1))
    told = capsys.readouterr().out
    assert "no config.endpoint.base_url: no infrared-aware" in told
    assert "10 rows came with a split of their own, which is not kept" in told
    assert text.endswith("no row has an infrared-aware caption: fusionrs_ir_aware is not written")
    config.sources.rsitmd.path = write_table(
        tmp_path / "bare", [{"image": encoded(0), "captions": []}]
    )
    with pytest.raises(InputError, match=r"no row is left \(1 no caption\): rows need a caption"):
        fusionrs.build(config, str(tmp_path / "v"), Runner(workers=1))


def caption_of(image, field):
    """A caption as a model might write it of this image and no other."""
    mark = "".join(chr(ord("a") + byte % 26) for byte in hashlib.sha256(image).digest()[:6])
    if field == "ir_captions":
        return f"{GOOD} A sign says {mark}."
    return f"{LONG} A sign says {mark}." if field == "long_captions" else f"{SHORT} and {mark}"


def differences(path, plain, given):
    """Yield the flags that make one config of another."""
    for key, value in given.items():
        if isinstance(value, dict):
            yield from differences(f"{path}.{key}", plain[key], value)
        elif value != plain[key]:
            yield f"{path}.{key}={value}"


@pytest.mark.parametrize(
    ("module", "files", "arg", "stage"),
    [
        (lrs2m, lrs2m_config, "public", "05_long_captions"),
        (fusionrs, fusionrs_config, "pairs", "05_infrared_captions"),
    ],
    ids=["lrs2m", "fusionrs"],
)
def test_kill_9_in_a_pipeline_loses_nothing_and_pays_for_nothing_twice(
    module, files, arg, stage, tmp_path
):
    config = files.get_config(arg)
    (source,) = config.sources
    rows = [{"image": encoded(n), "label": "harbor"} for n in range(10)]
    asked = {f"{source}/image{n:02d}.jpg" for n in range(10)}
    fields = ["captions", "long_captions"]
    if module is fusionrs:
        for n, row in enumerate(rows):
            row |= {"ir": encoded(100 + n), "captions": [f"a road near field number {n}"]}
        config.sizes.update(val=1, test=1)
        config.ir_aware.share = 0.6
        asked = {name for name in asked if drawn(name, 0.6)}
        fields = ["ir_captions"]
    config.sources[source].path = write_table(tmp_path / "input", rows)
    hold, reached = threading.Event(), threading.Event()
    prompts = len(fields) * len(asked)
    cut = prompts - 4  # answered before the kill; with the next two, the server waits

    def reply(body, number):
        (image,) = shown(body)
        kind = "ir_aware_caption" if module is fusionrs else "caption"
        long = "4 to 8 sentences" in body["messages"][0]["content"]
        wait = hold if number >= cut else None
        if number == cut + 1:
            reached.set()
        return dataclasses.replace(saying(kind, caption_of(image, fields[long])), wait=wait)

    workdir = tmp_path / "w"
    with serve(reply) as server:
        with_server(config, server)
        flags = differences("--config", files.get_config(arg).to_dict(), config.to_dict())
        given = [f"--config={files.__file__}:{arg}", f"--workdir={workdir}", "--workers=1", *flags]
        process = subprocess.Popen(
            [sys.executable, "-m", module.__name__, *given],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        while not reached.wait(1):
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        done = {path: path.stat().st_mtime_ns for path in workdir.glob("stages/*/part-*")}
        tables = sorted(path.parent.name for path in workdir.glob("stages/*/table.json"))
        assert [name[:2] for name in tables] == [f"{n:02d}" for n in range(int(stage[:2]))]
        hold.set()
        module.build(config, str(workdir), Runner(workers=1))
        # The two that the kill cut off were paid again, and nothing else.
        assert len(server.paid) == prompts
        assert sum(server.paid.values()) == len(server.bodies) == prompts + 2
    assert {path: path.stat().st_mtime_ns for path in done} == done
    card = json.loads((workdir / f"data/{config.name}/1.0.0/card.json").read_text())
    paid = card["captioning"]["paid"]
    assert (paid["answers"], paid["unanswered"]) == (prompts, 2)
    records = {
        record["id"]: record
        for split in card["all"]["records"]
        for record in open_source(workdir / "data", config.name, split)
    }
    assert len(records) == 10
    for name, record in records.items():
        seen = record["ir" if module is fusionrs else "image"]
        for field in fields:
            assert record[field] == ([caption_of(seen, field)] if name in asked else [])


def test_views_are_found_by_id_below_their_directory(tmp_path):
    for name in ("s/a.png", "s/b.jpg.jpg", "s/c.jpg", "s/d", "secret.png"):
        path = tmp_path / "views" / name if name != "secret.png" else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    views = str(tmp_path / "views")
    found = {name: find_view(views, name) for name in ("s/a", "s/b.jpg", "s/c.jpg", "s/c")}
    assert {name: path[len(views) + 1 :] for name, path in found.items()} == {
        "s/a": "s/a.png",
        "s/b.jpg": "s/b.jpg.jpg",
        "s/c.jpg": "s/c.jpg",
        "s/c": "s/c.jpg",
    }
    assert not any(find_view(views, name) for name in ("s/d", "s/e", "s/../../secret"))
    before = tree_state(views)
    assert tree_state(views) == before
    (tmp_path / "views/s/a.png").write_bytes(b"other")
    assert tree_state(views) != before
    with pytest.raises(FileNotFoundError, match="no such directory"):
        tree_state(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        ("Many planes are parked in an airport .", ""),
        ("a view of Rio de la Plata from above with its ships", ""),
        ("Aerial of a marina, royalty-free stock photo", "noise"),
        ("The harbor of Hamburg, © 2016 somebody", "noise"),
        ("The harbor of Hamburg in Google Earth", "noise"),
        ("livestock photographed in a field", ""),
        ("two ships", "too short"),
        ("a road " * 50, "too long"),
        ("вид сверху на город", "not English"),
        ("vue aérienne de la ville et du port", "not English"),
        ("Luftbild von der Stadt und dem Hafen", "not English"),
        ("Aerial view of the area", "generic"),
        ("satellite image 2014", "generic"),
        ("satellite image of a harbor", ""),
    ],
)
def test_captions_are_cleaned(caption, fault):
    assert find_fault(caption).split(":")[0] == fault
