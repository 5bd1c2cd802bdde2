"""Captions by a language model: what it is asked, what is taken, what is rejected, what is paid."""

import base64
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from chat_server import Reply, serve
from PIL import Image

from rsclip_jax.build import stages
from rsclip_jax.build.boxes import Box, boxes_to_meta
from rsclip_jax.build.caption import write_table
from rsclip_jax.build.caption_checks import Limits
from rsclip_jax.build.caption_stages import (
    CheckCaptions,
    WriteBoxCaptions,
    caption_stage,
    check_captions,
    fusionrs_stages,
    lrs2m_stages,
    with_box_captions,
)
from rsclip_jax.build.captioning import CaptionConfig, caption_rows, count_provenance, make_request
from rsclip_jax.build.endpoint import Endpoint, EndpointConfig, EndpointError, costs
from rsclip_jax.build.files import read_image
from rsclip_jax.build.ingest import Input, read_piece
from rsclip_jax.build.pace import Pace
from rsclip_jax.build.rows import new_row, read_rows, write_rows
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.stages import Drop, Stage
from rsclip_jax.data.folders import open_folder
from rsclip_jax.data.tables import open_table

SHORT = "two large ships lie in a harbor between two piers"
LONG = (
    "A harbor with three piers opens to the south. Two grey ships lie at the western pier, side "
    "by side, and a smaller white boat at the eastern one. Rows of red containers fill the quay "
    "behind them. A railway with four parallel tracks follows the northern edge. Dark water takes "
    "up the lower half, smooth and without waves."
)


def write_images(directory, count):
    directory.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((8, 8, 3), number % 256, np.uint8)
        pixels[0, 0] = number // 256
        Image.fromarray(pixels).save(directory / f"{number:03d}.png")
    return sorted(map(str, directory.iterdir()))


def endpoint_config(server, tmp_path, **more):
    settings = {"first_wait": 0.01, "tries": 2, "concurrency": 4, "timeout": 20.0} | more
    return EndpointConfig(server.url, "seer", str(tmp_path / "answers"), **settings)


def saying(key, text):
    return Reply(json.dumps({key: text}))


def shown(body):
    """Return the bytes of the images in a request."""
    parts = body["messages"][1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [base64.b64decode(url.split(",")[1]) for url in urls]


def test_rows_get_captions_in_order_with_their_provenance(tmp_path):
    paths = write_images(tmp_path / "images", 30)
    rows = [new_row(id=f"r{i}", image=path, captions=["old"]) for i, path in enumerate(paths)]
    place = {Path(path).read_bytes(): i for i, path in enumerate(paths)}

    def reply(body, number):
        (image,) = shown(body)
        return saying("caption", f"ship number {place[image]} lies in a harbor")

    with serve(reply) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        config = CaptionConfig("short", sampling=(("temperature", 0.5), ("seed", 7)))
        outcomes = list(caption_rows(iter(rows), config, endpoint, read_image))
    assert [outcome.problem for outcome in outcomes] == [""] * 30
    for i, outcome in enumerate(outcomes):
        assert outcome.row["captions"] == ["old", f"ship number {i} lies in a harbor"]
        (entry,) = json.loads(outcome.row["provenance"])
        assert entry["sampling"] == {"temperature": 0.5, "seed": 7}
        assert (entry["model"], entry["prompt"]) == ("seer-served", "short/1")
        assert (entry["field"], entry["prompt_tokens"]) == ("captions", 100)
        assert entry["date"].startswith("20") and len(entry["prompt_sha256"]) == 16
    assert rows[0]["captions"] == ["old"]
    assert all(body["seed"] == 7 and "max_tokens" not in body for body in server.bodies)


def test_what_each_task_asks(tmp_path):
    rgb, ir = write_images(tmp_path / "images", 2)
    boxes = [
        Box("ship", 0.4, 0.4, 0.6, 0.6),
        Box("ship", 0, 0, 0.1, 0.1),
        Box("pier", 0, 0, 1, 0.1),
    ]
    row = new_row(
        id="a",
        image=rgb,
        ir=ir,
        captions=["a harbor"],
        label="Sea_Harbor",
        meta=json.dumps(boxes_to_meta(boxes)),
    )
    long = make_request(row, CaptionConfig("long"), read_image)
    assert "counts" in long.system and "layout" in long.system and "colours" in long.system
    assert long.fields == {"caption": "text"} and long.images == (Path(rgb).read_bytes(),)
    infrared = make_request(row, CaptionConfig("infrared"), read_image)
    assert infrared.sampling == {"temperature": 0.2, "max_tokens": 180}  # FusionRS
    assert infrared.images == (Path(ir).read_bytes(),) and "a harbor" in infrared.user
    assert infrared.fields == {"ir_aware_caption": "text"} and "{" in infrared.system
    both = make_request(row, CaptionConfig("infrared", images=("image", "ir")), read_image)
    assert both.images == (Path(rgb).read_bytes(), Path(ir).read_bytes())
    rewrite = make_request(row, CaptionConfig("rewrite", count=4), read_image)
    assert rewrite.images == () and rewrite.fields == {"captions": "texts"}
    assert rewrite.user.splitlines() == [
        "Class of the scene: sea harbor",
        "Objects in the centre: a ship",
        "Objects elsewhere: a ship and a pier",
    ]
    assert "Write 4 different captions" in rewrite.system
    for task in ("infrared", "rewrite"):
        with pytest.raises(ValueError, match="nothing to go by"):
            make_request(new_row(id="a", image=rgb), CaptionConfig(task), read_image)
    with pytest.raises(ValueError, match="no ir"):
        make_request(row | {"ir": ""}, CaptionConfig("infrared"), read_image)


def test_labels_are_rewritten_once_and_told_apart_by_row(tmp_path):
    rows = [new_row(id=f"r{i}", label="harbor") for i in range(40)]
    texts = [f"a harbor with its {thing}" for thing in ("piers", "ships", "boats")]
    with serve(lambda *_: saying("captions", texts)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        config = CaptionConfig("rewrite", count=3)
        outcomes = list(caption_rows(rows, config, endpoint, read_image))
        assert len(server.bodies) == 1
    taken = [outcome.row["captions"][0] for outcome in outcomes]
    assert all(8 <= taken.count(text) <= 19 for text in texts) and len(taken) == 40


@pytest.mark.parametrize(
    ("task", "key", "text", "problem"),
    [
        ("short", "caption", "ship", "too short"),
        ("short", "caption", "This image shows a harbor with two ships", "talk"),
        ("short", "caption", "a harbor that is probably used by fishermen", "speculation"),
        ("short", "caption", "a busy airport with two long runways", "another class"),
        ("short", "caption", "a harbor with five ships in it", "too many"),
        ("short", "caption", "a harbor with a plane in it", "object not there"),
        ("long", "caption", SHORT, "too short"),
        ("long", "caption", " ".join(["A ship lies in the harbor."] * 10), "repetition"),
        ("infrared", "ir_aware_caption", "warm ships lie in a dark harbor", "infrared filter"),
    ],
)
def test_a_caption_that_fails_its_checks_is_not_taken(tmp_path, task, key, text, problem):
    (path,) = write_images(tmp_path / "images", 1)
    meta = boxes_to_meta([Box("ship", 0, 0, 0.1, 0.1), Box("ship", 0.2, 0.2, 0.4, 0.4)])
    row = new_row(
        id="a", image=path, ir=path, captions=["a harbor"], label="harbor", meta=json.dumps(meta)
    )
    config = CaptionConfig(task, classes=("airport", "harbor"), objects=("plane", "ship"))
    with serve(lambda *_: saying(key, text)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        (outcome,) = caption_rows([row], config, endpoint, read_image)
    assert outcome.problem.startswith(problem) and outcome.row == row


def test_what_is_the_rows_fault_spares_the_others_and_costs_nothing(tmp_path):
    paths = write_images(tmp_path / "images", 2)
    rows = [new_row(id="a", image=str(tmp_path / "none.png")), new_row(id="b", image=paths[1])]
    rows.append(new_row(id="c", image=paths[0], meta='{"boxes": [["ship", 1]]}'))
    with serve(lambda *_: saying("caption", SHORT)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        config = CaptionConfig("short", objects=("ship",))
        outcomes = list(caption_rows(rows, config, endpoint, read_image))
        assert len(server.bodies) == 1
    assert [outcome.problem.split(":")[0] for outcome in outcomes] == [
        "unusable row",
        "",
        "unusable row",
    ]


def test_answers_that_cannot_be_stored_stop_the_spending(tmp_path, monkeypatch):
    paths = write_images(tmp_path / "images", 40)
    rows = [new_row(id=path, image=path) for path in paths]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rsclip_jax.build.files.write", full)
    with serve(lambda *_: saying("caption", SHORT)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        with pytest.raises(OSError, match="No space"):
            list(caption_rows(rows, CaptionConfig("short"), endpoint, read_image))
        assert len(server.bodies) < 40


@dataclasses.dataclass
class Given(beam.PTransform):
    """The rows of a file, as a stage."""

    path: str

    def expand(self, begin):
        return begin | beam.Create([self.path]) | beam.FlatMap(read_rows)


def test_a_stage_drops_what_fails_and_is_done_again_for_nothing(tmp_path):
    paths = write_images(tmp_path / "images", 12)
    rows = [new_row(id=f"r{i}", image=path, source="s") for i, path in enumerate(paths)]
    write_rows(str(tmp_path / "rows.parquet"), rows)
    bad = {Path(path).read_bytes() for path in paths[::4]}

    def reply(body, number):
        return saying("caption", "a picture" if shown(body)[0] in bad else SHORT)

    def run(workdir, keep):
        endpoint = endpoint_config(server, tmp_path)
        steps = [
            Stage("given", Given(str(tmp_path / "rows.parquet")), "source"),
            caption_stage("caption", CaptionConfig("short"), endpoint, keep_failed=keep),
            Stage("check", CheckCaptions(limits={"min_words": 1})),
        ]
        return stages.run(steps, str(workdir), Runner(workers=1), say=lambda _: None)

    with serve(reply) as server:
        tables = run(tmp_path / "a", keep=False)
        assert tables[1].dropped == {"s": {"too short": 3}} and len(tables[2]) == 9
        assert all(row["captions"] == [SHORT] for row in tables[2].read())
        tables = run(tmp_path / "b", keep=True)
        assert len(tables[1]) == 12 == len(server.bodies)
        told = run(tmp_path / "a", keep=False)
        assert told[1].fingerprint != tables[1].fingerprint


def test_captions_of_a_bundle_are_counted_while_it_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Pace, "FIRST", 0.0)
    paths = write_images(tmp_path / "images", 3)
    rows = [new_row(id=f"r{i}", image=path, source="s") for i, path in enumerate(paths)]
    write_rows(str(tmp_path / "rows.parquet"), rows)
    with serve(lambda *_: saying("caption", SHORT)) as server:
        steps = [
            Stage("given", Given(str(tmp_path / "rows.parquet")), "source"),
            caption_stage("caption", CaptionConfig("short"), endpoint_config(server, tmp_path)),
        ]
        stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)
    assert re.search(r"short captions: 1 rows, [\d,.]+/s in a bundle", capfd.readouterr().err)


def test_the_line_of_pace_comes_early_and_then_seldom(monkeypatch):
    times = iter([0.0, 1.0, 2.0, 3.0, 11.9, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    pace = Pace()
    assert [pace.add("rows") for _ in range(5)] == ["", "2 rows, 1.0/s", "", "", "5 rows, 0.4/s"]


def test_a_server_that_refuses_fails_the_stage_with_its_message(tmp_path):
    (path,) = write_images(tmp_path / "images", 1)
    write_rows(str(tmp_path / "rows.parquet"), [new_row(id="a", image=path)])
    with serve(lambda *_: Reply(status=404, body={"error": "no model seer"})) as server:
        endpoint = endpoint_config(server, tmp_path)
        steps = [
            Stage("given", Given(str(tmp_path / "rows.parquet")), "source"),
            caption_stage("caption", CaptionConfig("short"), endpoint),
        ]
        with pytest.raises(stages.StageError, match=r"404: no model seer.*base_url end in /v1"):
            stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)


@pytest.mark.parametrize("keep_failed", [False, True])
def test_a_busy_server_fails_the_stage_and_no_row_is_lost(tmp_path, keep_failed):
    paths = write_images(tmp_path / "images", 12)
    rows = [new_row(id=f"r{i}", image=path, source="s") for i, path in enumerate(paths)]
    write_rows(str(tmp_path / "rows.parquet"), rows)
    unlucky = {Path(path).read_bytes() for path in paths[1:3]}

    def reply(body, number):
        busy = shown(body)[0] in unlucky
        return Reply(status=503, body="busy") if busy else saying("caption", SHORT)

    with serve(reply) as server:
        endpoint = endpoint_config(server, tmp_path)
        steps = [
            Stage("given", Given(str(tmp_path / "rows.parquet")), "source"),
            caption_stage("caption", CaptionConfig("short"), endpoint, keep_failed),
        ]
        expected = (
            r"did not take: [12], .*seer at http.*2 tries.*503: busy \(asked for r[12]\)\. All "
        )
        with pytest.raises(stages.StageError, match=expected):
            stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)
        assert len(server.bodies) <= 10 + 2 * 2  # What has not begun is given up.
        server.reply = lambda *_: saying("caption", SHORT)
        table = stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)[-1]
        assert list(server.paid.values()) == [1] * 12
    assert not table.dropped and [row["captions"] for row in table.read()] == [[SHORT]] * 12


def test_captions_are_checked_and_boxes_captioned_as_stages(tmp_path):
    meta = json.dumps(boxes_to_meta([Box("ship", 0.4, 0.4, 0.6, 0.6)]))
    rows = [
        new_row(id="a", captions=["a harbor", "I cannot see it"]),
        new_row(id="b", captions=["probably a harbor"], meta=meta),
        new_row(id="c", captions=["harbor"]),
        new_row(id="d", meta=meta),
    ]
    write_rows(str(tmp_path / "rows.parquet"), rows)
    steps = [
        Stage("given", Given(str(tmp_path / "rows.parquet")), "source"),
        Stage("boxes", WriteBoxCaptions()),
        Stage("check", CheckCaptions(limits={"min_words": 2})),
    ]
    table = stages.run(steps, str(tmp_path / "w"), Runner(workers=1), say=lambda _: None)[-1]
    kept = {row["id"]: row["captions"] for row in table.read()}
    assert kept["a"] == ["a harbor"] and table.dropped == {"": {"too short": 1}}
    assert kept["b"][0] == kept["d"][0] == "A ship in the centre of the image."
    nameless = new_row(id="f", meta='{"boxes": [["_", 0.4, 0.4, 0.6, 0.6]]}')
    with pytest.raises(Drop, match="unusable boxes: boxes in meta: expected"):
        with_box_captions(nameless)
    with pytest.raises(Drop, match="speculation"):
        check_captions(rows[1], "captions", {}, (), (), 0.0)
    row = new_row(id="e", captions=["a", "two grey ships"], caption_scores=[0.3, 0.2])
    kept = check_captions(row, "captions", {"min_words": 1}, (), (), 0.25)
    assert kept["captions"] == ["a"] and "caption_scores" not in kept
    with pytest.raises(Drop, match=r"too short"):  # what the words tell comes first
        check_captions(row, "captions", {}, (), (), 0.35)
    with pytest.raises(ValueError, match="2 captions and 1 scores of them"):
        check_captions(row | {"caption_scores": [0.3]}, "captions", {}, (), (), 0.2)


def test_settings_are_checked():
    for settings in ({"task": "medium"}, {"task": "infrared", "images": ("rgb",)}):
        with pytest.raises(ValueError, match=r"medium|rgb"):
            CaptionConfig(**settings)
    assert CaptionConfig("long").target == "long_captions"
    assert CaptionConfig("long", field="captions", limits=Limits()).target == "captions"


def run_command(server, tmp_path, *more, **settings):
    command = [
        *(sys.executable, "-m", "rsclip_jax.build.caption", "--format=folder"),
        *(f"--input={tmp_path}/images", "--task=long", f"--output={tmp_path}/long.jsonl"),
        *(f"--base_url={server.url}", "--model=seer", "--concurrency=4", *more),
    ]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True, **settings
    )


def test_kill_9_in_the_middle_loses_nothing_and_pays_for_nothing_twice(tmp_path):
    """The server's own count of what it was asked is compared with the store's."""
    write_images(tmp_path / "images" / "harbor", 40)
    hold, reached = threading.Event(), threading.Event()

    def reply(body, number):
        if number < 20:
            return saying("caption", LONG)
        if number == 23:  # four of four under way: answered only when nobody listens any more
            reached.set()
        return Reply(json.dumps({"caption": LONG}), wait=hold)

    with serve(reply) as server:
        process = run_command(server, tmp_path)
        assert reached.wait(60), process.communicate(timeout=5)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "long.jsonl").exists()
        hold.set()
        prices = ("--prompt_price=10000", "--completion_price=50000")
        process = run_command(server, tmp_path, *prices)
        told, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        # 40 images and the four requests that the kill cut off.
        assert len(server.bodies) == 44 and sum(server.paid.values()) == 44
        assert len(server.paid) == 40 and sorted(server.paid.values())[-5:] == [1, 2, 2, 2, 2]
        assert "40 captions" in told
        assert "paid by this run: 20 answers, 2,000 prompt tokens, 400 completion tokens" in told
        all_runs = "all runs: 40 answers, 4,000 prompt tokens, 800 completion tokens, cost 80.00; 4"
        assert all_runs + " requests sent that brought no answer, perhaps charged" in told
        before = (tmp_path / "long.jsonl").read_text()
        endpoint = Endpoint(EndpointConfig(server.url, "seer", f"{tmp_path}/long.jsonl.answers"))
        source = open_folder(f"{tmp_path}/images")  # once more: everything is there
        write_table(source, CaptionConfig("long"), endpoint, f"{tmp_path}/long.jsonl")
        assert (tmp_path / "long.jsonl").read_text() == before and len(server.bodies) == 44
    rows = [json.loads(line) for line in before.splitlines()]
    assert [row["id"] for row in rows] == [f"harbor/{number:03d}.png" for number in range(40)]
    assert all(row["long_captions"] == [LONG] and row["label"] == "harbor" for row in rows)
    assert {entry["model"] for row in rows for entry in row["provenance"]} == {"seer-served"}


def test_the_table_of_the_command_is_what_prepare_reads(tmp_path):
    write_images(tmp_path / "images" / "harbor", 3)
    replies = [LONG, "a picture", LONG]
    with serve(lambda body, number: saying("caption", replies[number])) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path, concurrency=1))
        source = open_folder(str(tmp_path / "images"))
        output = str(tmp_path / "long.jsonl")
        counts = write_table(source, CaptionConfig("long"), endpoint, output)
    assert counts == {"": 2, "too short": 1}
    assert "too short" in Path(f"{output}.problems.jsonl").read_text(encoding="utf-8")
    samples = list(open_table("jsonl", output, str(tmp_path / "images")))
    assert [sample.long_captions for sample in samples] == [[LONG], [], [LONG]]
    assert [(sample.image, sample.label) for sample in samples] == [
        (f"harbor/{number:03d}.png", "harbor") for number in range(3)
    ]


def test_what_links_or_paths_lead_to_outside_is_not_sent_to_the_server(tmp_path):
    write_images(tmp_path / "out", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "out/000.png")
    (tmp_path / "in/own.png").write_bytes((tmp_path / "out/001.png").read_bytes())
    names = ("link.png", "../out/000.png", str(tmp_path / "out/000.png"), "own.png")
    rows = [json.dumps({"image": name, "label": "harbor"}) for name in names]
    rows.append(json.dumps({"image": "own.png", "ir": "link.png", "label": "harbor", "id": "ir"}))
    (tmp_path / "in/table.jsonl").write_text("\n".join(rows), encoding="utf-8")
    source = open_table("jsonl", str(tmp_path / "in/table.jsonl"))
    link = "path leaves the image root by a link (--follow_links reads it)"
    outside = {link: 2, "path leaves the image root": 2}
    with serve(lambda *_: saying("caption", LONG)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        given = source, CaptionConfig("long"), endpoint, str(tmp_path / "out.jsonl")
        assert write_table(*given) == outside | {"": 1}
        assert [shown(body) for body in server.bodies] == [
            [(tmp_path / "out/001.png").read_bytes()]
        ]
        assert write_table(*given, follow_links=True)[""] == 3


def test_the_command_captions_the_infrared_images_of_a_table(tmp_path):
    write_images(tmp_path / "images", 2)
    row = {"image": "images/000.png", "ir": "images/001.png", "captions": ["a harbor", "ships"]}
    (tmp_path / "table.jsonl").write_text(json.dumps(row) + "\n")
    text = "Bright ships lie in dark water, with sharp outlines."
    with serve(lambda *_: saying("ir_aware_caption", text)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        source = open_table("jsonl", str(tmp_path / "table.jsonl"))
        output = tmp_path / "out.jsonl"
        write_table(source, CaptionConfig("infrared"), endpoint, str(output))
        assert shown(server.bodies[0]) == [(tmp_path / "images/001.png").read_bytes()]
    written = json.loads(output.read_text())
    assert written["ir_captions"] == [text] and written.items() >= row.items()


def test_the_command_keeps_other_columns_and_rewrites_boxes(tmp_path):
    write_images(tmp_path / "images", 2)
    boxes = [["ship", 0.4, 0.4, 0.6, 0.6], ["ship", 0.0, 0.0, 0.1, 0.1]]
    rows = [
        {"image": "000.png", "captions": ["a harbor"], "id": 17, "lat": 0.0, "note": "\ud83d é"},
        {"image": "001.png", "captions": ["ships"], "id": 18, "lat": 1.5, "boxes": boxes},
    ]
    rows[1]["provenance"] = [{"field": "captions", "model": "earlier"}]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    with serve(lambda *_: saying("captions", ["two ships in a harbor"])) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        source = open_table("jsonl", str(tmp_path / "table.jsonl"), str(tmp_path / "images"))
        counts = write_table(source, CaptionConfig("rewrite"), endpoint, str(output))
        assert counts == {"unusable row": 1, "": 1}
        (body,) = server.bodies
    said = body["messages"][1]["content"]
    assert said == "Objects in the centre: a ship\nObjects elsewhere: a ship"
    bare, rewritten = map(json.loads, output.read_text().splitlines())
    assert bare == rows[0] | {"note": "\ufffd é"}
    assert [entry["model"] for entry in rewritten.pop("provenance")] == ["earlier", "seer-served"]
    del rows[1]["provenance"]
    assert rewritten == rows[1] | {"captions": ["ships", "two ships in a harbor"]}


def test_half_characters_do_not_stop_the_table(tmp_path):
    """Of texts they are replaced; the name of a file is kept, so that it is found again."""
    name = "odd\udc80.png"
    os.rename(write_images(tmp_path / "images", 1)[0], tmp_path / "images" / name)
    row = {"image": name, "captions": ["bad \ud83d half"], "label": "\ud83d harbor"}
    (tmp_path / "table.jsonl").write_text(json.dumps(row) + "\n")
    output = tmp_path / "out.jsonl"
    replies = [SHORT, "a ship"]
    with serve(lambda body, number: saying("caption", replies[number])) as server:
        source = open_table("jsonl", str(tmp_path / "table.jsonl"), str(tmp_path / "images"))
        for cache, counts in (("a", {"": 1}), ("b", {"too short": 1})):
            endpoint = Endpoint(endpoint_config(server, tmp_path / cache))
            assert write_table(source, CaptionConfig("short"), endpoint, str(output)) == counts
            (sample,) = open_table("jsonl", str(output), str(tmp_path / "images"))
            assert (sample.image, sample.label) == (name, "\ufffd harbor")
            texts = ["bad \ufffd half", SHORT]
            assert sample.captions == (texts if cache == "a" else texts[:1])


def test_a_server_that_refuses_leaves_no_table(tmp_path):
    write_images(tmp_path / "images" / "harbor", 1)
    source = open_folder(str(tmp_path / "images"))
    with serve(lambda *_: Reply(status=401, body={"error": {"message": "who are you?"}})) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path, api_key_env="NO_SUCH_KEY"))
        with pytest.raises(EndpointError, match=r"who are you\?.*NO_SUCH_KEY is not set"):
            write_table(source, CaptionConfig("long"), endpoint, str(tmp_path / "long.jsonl"))
    assert not (tmp_path / "long.jsonl").exists()


def test_a_busy_server_ends_the_command_after_what_is_under_way(tmp_path):
    write_images(tmp_path / "images" / "harbor", 6)

    def reply(body, number):
        return saying("caption", LONG) if number else Reply(status=429, body="slow down")

    output = tmp_path / "long.jsonl"
    source = open_folder(str(tmp_path / "images"))
    with serve(reply) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path, tries=1))
        with pytest.raises(EndpointError, match=r"did not take: 1, .*429: slow down"):
            write_table(source, CaptionConfig("long"), endpoint, str(output))
        assert not output.exists()
        counts = write_table(source, CaptionConfig("long"), endpoint, str(output))
        assert counts == {"": 6} and list(server.paid.values()) == [1] * 6
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["long_captions"] for row in rows] == [[LONG]] * 6


def test_what_has_not_begun_is_given_up_when_the_server_is_busy(tmp_path):
    paths = write_images(tmp_path / "images", 4)
    rows = [new_row(id=path, image=path) for path in paths]
    with serve(lambda *_: Reply(status=503, body="busy", delay=0.3)) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path, tries=1, concurrency=1))
        with pytest.raises(EndpointError, match=r"did not take: [12], "):
            list(caption_rows(rows, CaptionConfig("short"), endpoint, read_image))
        assert len(server.bodies) <= 2


def test_boxes_of_a_csv_are_read_and_odd_ones_in_the_way_of_rewriting_only(tmp_path):
    write_images(tmp_path / "images", 2)
    good = json.dumps([["ship", 0.1, 0.1, 0.2, 0.2]]).replace('"', '""')
    path = tmp_path / "images" / "t.csv"
    path.write_text(f'file,label,boxes\n000.png,harbor,"{good}"\n001.png,harbor,3\n')
    with serve(lambda body, _: saying("caption", "a ship lies in the harbor")) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        source = open_table("csv", str(path))
        output = str(tmp_path / "short.jsonl")
        assert write_table(source, CaptionConfig("short"), endpoint, output) == {"": 2}
        server.reply = lambda body, _: saying("captions", ["a ship lies in the harbor"] * 5)
        counts = write_table(source, CaptionConfig("rewrite"), endpoint, output)
        assert counts == {"": 1, "unusable row": 1}
        assert "Objects elsewhere: a ship" in server.bodies[-1]["messages"][1]["content"]


def test_candidates_are_drawn_by_seed_and_read_by_rs5m(tmp_path):
    write_images(tmp_path / "images" / "harbor", 2)
    drawn = ["a harbor with two grey ships", "I cannot see the image", "a quay and four red cranes"]

    def reply(body, number):
        assert body["temperature"] == 1.0 and body["top_p"] == 0.95
        return saying("caption", drawn[body["seed"] % 3])

    with serve(reply) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path))
        output = str(tmp_path / "candidates.jsonl")
        counts = write_table(
            open_folder(str(tmp_path / "images")), CaptionConfig("candidates"), endpoint, output
        )
        assert sorted(body["seed"] for body in server.bodies) == sorted([*range(20)] * 2)
    assert counts == {"": 2}
    given = Input("millionaid", "jsonl", output, images=str(tmp_path / "images"))
    for row in read_piece(given, output):
        assert row["candidates"] == [drawn[0], drawn[2]]
        assert row["captions"] == [] and row["label"] == "harbor"
    with serve(lambda body, _: saying("caption", "another model saw two piers")) as server:
        endpoint = Endpoint(endpoint_config(server, tmp_path / "other"))
        source = open_table("jsonl", output, str(tmp_path / "images"))
        more = str(tmp_path / "more.jsonl")
        write_table(source, CaptionConfig("candidates", count=2), endpoint, more)
    for row in read_piece(given, more):
        assert row["candidates"] == [drawn[0], drawn[2], "another model saw two piers"]


def run_stages(steps, rows, tmp_path):
    write_rows(str(tmp_path / "rows.parquet"), rows)
    steps = [Stage("given", Given(str(tmp_path / "rows.parquet")), "source"), *steps]
    return stages.run(steps, str(tmp_path / "work"), Runner(workers=1), say=lambda _: None)


def test_lrs2m_asks_only_for_what_is_missing(tmp_path):
    paths = write_images(tmp_path / "images", 3)
    meta = json.dumps(boxes_to_meta([Box("ship", 0.4, 0.4, 0.6, 0.6)] * 2))
    rows = [
        new_row(id="bare", image=paths[0]),
        new_row(id="boxes", image=paths[1], meta=meta),
        new_row(id="both", image=paths[2], captions=["a harbor"], long_captions=[LONG]),
    ]

    def reply(body, number):
        long = "4 to 8 sentences" in body["messages"][0]["content"]
        return saying("caption", LONG if long else SHORT)

    with serve(reply) as server:
        config = endpoint_config(server, tmp_path, prompt_price=1000.0)
        table = run_stages(
            [Stage("box_captions", WriteBoxCaptions()), *lrs2m_stages(config)], rows, tmp_path
        )[-1]
        assert len(server.bodies) == 3  # short: bare; long: bare, boxes
    left = {row["id"]: row for row in table.read()}
    assert left["bare"]["captions"] == [SHORT] and left["both"]["captions"] == ["a harbor"]
    assert left["boxes"]["captions"][0] == "Two ships in the centre of the image."
    assert all(row["long_captions"] == [LONG] for row in left.values())
    assert count_provenance(table.read()) == {
        "captions": {
            "long_captions by seer-served, long/1": 2,
            "captions by seer-served, short/1": 1,
        },
        "problems": {},
        "prompt_tokens": 300,
        "completion_tokens": 60,
    }
    assert costs(config) == {
        "model": "seer",
        "answers": 3,
        "prompt_tokens": 300,
        "completion_tokens": 60,
        "without_usage": 0,
        "unanswered": 0,
        "cost": 0.3,
        "others": {},
    }


@pytest.mark.parametrize("keep_failed", [False, True])
def test_fusionrs_counts_what_the_filter_rejects_by_category(tmp_path, keep_failed):
    texts = [
        "Bright ships lie in dark water, with sharp outlines.",
        "Warm ships lie in the dark water of a harbor.",
        "Ships of metal lie in the dark water of a harbor.",
        "Red ships lie in the dark water of a harbor.",
        "Blue ships lie in the dark water of a harbor.",
    ]
    paths = write_images(tmp_path / "images", 5)
    place = {Path(path).read_bytes(): number for number, path in enumerate(paths)}
    rows = [new_row(id=path, image=path, ir=path, captions=["ships"], source="s") for path in paths]
    with serve(lambda body, _: saying("ir_aware_caption", texts[place[shown(body)[0]]])) as server:
        config = endpoint_config(server, tmp_path)
        steps = fusionrs_stages(config, keep_failed=keep_failed)
        table = run_stages(steps, rows, tmp_path)[-1]
    counts = {"colour": 2, "temperature": 1, "material": 1}
    if keep_failed:
        assert len(table) == 5 and not table.dropped
        expected = {f"ir_captions: infrared filter, {name}": n for name, n in counts.items()}
        assert count_provenance(table.read())["problems"] == expected
    else:
        assert table.dropped == {"s": {f"infrared filter, {name}": n for name, n in counts.items()}}
    assert [row["ir_captions"] for row in table.read() if row["ir_captions"]] == [[texts[0]]]
