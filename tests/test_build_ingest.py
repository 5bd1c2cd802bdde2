"""Rows from tables, folders, tars and img2dataset's output; keywords; what images tell."""

import dataclasses
import hashlib
import io
import json
import os
import tarfile

import apache_beam as beam
import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from configs.build import fusionrs
from rsclip_jax.build import files
from rsclip_jax.build.command import inputs_of
from rsclip_jax.build.fetched import Fetched, write_url_list
from rsclip_jax.build.image_checks import check_images
from rsclip_jax.build.infrared import with_infrared
from rsclip_jax.build.ingest import Input, ingest_stage, read_piece
from rsclip_jax.build.keywords import GROUP_1, GROUP_2, find_keyword
from rsclip_jax.build.rows import new_row, read_rows, write_dropped, write_rows
from rsclip_jax.build.stages import DROPPED, Drop, Table
from rsclip_jax.data.sources import InputError


def encoded(seed=0, form="JPEG", size=(20, 16)):
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size).save(buffer, form)
    return buffer.getvalue()


def read_all(given):
    pieces = given.pieces()
    return [result for piece in pieces for result in read_piece(given, piece)]


def test_a_table_gives_rows_with_what_it_tells_besides(tmp_path):
    (tmp_path / "1.jpg").write_bytes(encoded())
    lines = [
        {
            "filename": "1.jpg",
            "captions": ["a", "b"],
            "split": "Dev",
            "URL": " http://a/1 ",
            "gsd": 0.3,
            "source": "a site",
        },
        {"filename": "../2.jpg", "captions": ["a"], "label": "farm", "source": "a site"},
        {"filename": "1.jpg", "captions": ["again", "twice"], "label": ""},
        {"filename": "3.jpg", "captions": ["a"], "split": "fold 1"},
        {"filename": "4.jpg", "captions": ["a"], "split": "TEST-2"},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    gone = read_all(Input("set", "jsonl", str(path)))
    row = gone.pop(1)  # where the last row of its id was
    fold, test = (gone.pop(2) for _ in range(2))
    assert (fold["split"], test["split"]) == ("", "test")
    assert row == new_row(
        id="set/1.jpg",
        image=str(tmp_path.resolve() / "1.jpg"),
        captions=["a", "b"],
        source="set",
        split="val",
        url="http://a/1",
        meta='{"gsd": 0.3, "source": "a site"}',
    )
    assert [reason.split(":")[0] for _, _, reason in gone] == [
        "path leaves the image root",
        "duplicate id",
        "not JSON",
    ]
    assert gone[0][:2] == ("set/../2.jpg", "set")


def test_files_called_like_splits_are_those(tmp_path, capsys):
    (tmp_path / "1.jpg").write_bytes(encoded())
    rows = {"train": {}, "valid": {}, "test": {"split": "val"}}
    for name, row in rows.items():
        row |= {"image": "1.jpg", "captions": [name], "id": name}
        (tmp_path / f"captions_{name}.jsonl").write_text(json.dumps(row))
    path = str(tmp_path / "*.jsonl")

    def check(given, *expected):
        with beam.Pipeline(runner="BundleBasedDirectRunner") as pipeline:
            read = pipeline | ingest_stage([given]).transform
            splits = read["rows"] | beam.Map(lambda row: (row["captions"][0], row["split"]))
            assert_that(splits, equal_to(list(expected)))

    check(Input("set", "jsonl", path), ("train", ""), ("valid", "val"), ("test", "val"))
    assert "source 'set': what names no split itself" in capsys.readouterr().out
    tests = Input("set", "jsonl", path, split="test")
    check(tests, ("train", "test"), ("valid", "test"), ("test", "val"))


def test_half_a_character_costs_no_more_than_its_row(tmp_path):
    half = {
        "captions": ["bad \ud83d half"],
        "label": "\ude00",
        "note": "\ud83d",
        "source": "\ud83d",
    }
    half |= {"long_captions": ["\ud83d"], "ir_captions": ["\ud83d"], "candidates": ["\ud83d", "a"]}
    lines = [
        {"id": "1", "file": "1.jpg"} | half,
        {"id": "2", "file": "2\ud83d.jpg", "caption": "a"},
        {"id": "3", "file": "3.jpg", "url": "http://a/\ud83d"},
        {"id": "\ud83d", "file": "4.jpg"},
        {"id": "\ud83d.", "file": ["\ud83d"]},
    ]
    (tmp_path / "1.jpg").write_bytes(encoded())
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    row, *gone = read_all(Input("set", "jsonl", str(path), columns={"id": ["id"]}))
    write_rows(str(tmp_path / "rows.parquet"), [row])
    assert next(read_rows(str(tmp_path / "rows.parquet"))) == row
    assert row["captions"] == ["bad \ufffd half"] and row["label"] == "\ufffd"
    assert row["long_captions"] == row["ir_captions"] == ["\ufffd"]
    assert row["candidates"] == ["\ufffd", "a"]
    assert json.loads(row["meta"]) == {"note": "\ufffd", "source": "\ufffd"}
    write_dropped(str(tmp_path / "dropped.parquet"), gone)
    assert [(name, reason.split("'")[0]) for name, _, reason in gone] == [
        ("set/2", "not Unicode: image "),
        ("set/3", "not Unicode: url "),
        ("set/\ufffd", "not Unicode: id "),
        ("set/t.jsonl:5", "not a text in column "),
    ]


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_tar_members_are_referred_to_by_offset(tmp_path):
    path = tmp_path / "s-0.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(2):
            add(tar, f"{number}.jpg", encoded(number))
            add(tar, f"{number}.txt", f"caption {number}".encode())
    rows = read_all(Input("web", "webdataset", str(path)))
    assert [row["id"] for row in rows] == ["web/0", "web/1"]
    assert [row["captions"] for row in rows] == [["caption 0"], ["caption 1"]]
    assert [files.read_image(row["image"]) for row in rows] == [encoded(0), encoded(1)]
    assert rows[1]["image"].startswith(f"{path}#")


def test_names_that_archives_have_in_common_are_told_apart(tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as tar:
            for name in ("000.jpg", "000.txt"):
                tar.addfile(tarfile.TarInfo(name))
    given = Input("web", "webdataset", str(tmp_path))
    rows = [row for piece in given.pieces() for row in read_piece(given, piece)]
    assert [row["id"] for row in rows] == ["web/s-0/000", "web/s-1/000"]


def img2dataset_output(folder, webdataset=True, parquet=True):
    """What that tool writes for three URLs, of which the second could not be fetched."""
    folder.mkdir()
    meta = [
        {
            "url": f"http://a.org/{n}.jpg",
            "caption": f"aerial image {n}",
            "key": f"00000000{n}",
            "status": "failed_to_download" if n == 1 else "success",
            "error_message": "HTTP Error 404" if n == 1 else None,
            "width": None if n == 1 else 20,
            "sha256": "..",
            "country": "Kenya",
        }
        for n in range(3)
    ]
    if parquet:
        pq.write_table(pa.Table.from_pylist(meta), folder / "00000.parquet")
    fetched = [told for told in meta if told["status"] == "success"]
    if webdataset:
        with tarfile.open(folder / "00000.tar", "w") as tar:
            for told in fetched:
                add(tar, f"{told['key']}.jpg", encoded(int(told["key"])))
                add(tar, f"{told['key']}.json", json.dumps(told, indent=4).encode())
                add(tar, f"{told['key']}.txt", told["caption"].encode())
    else:
        (folder / "00000").mkdir()
        for told in fetched:
            (folder / "00000" / f"{told['key']}.jpg").write_bytes(encoded(int(told["key"])))
            (folder / "00000" / f"{told['key']}.json").write_text(json.dumps(told))
    (folder / "00000_stats.json").write_text("{}")


@pytest.mark.parametrize("webdataset", [True, False])
@pytest.mark.parametrize("parquet", [True, False])
def test_img2dataset_is_read_as_it_is(tmp_path, webdataset, parquet):
    img2dataset_output(tmp_path / "out", webdataset, parquet)
    rows = {row["id"]: row for row in read_all(Input("web", "img2dataset", str(tmp_path / "out")))}
    assert set(rows) == {f"web/00000000{n}" for n in (range(3) if parquet else (0, 2))}
    row = rows["web/000000002"]
    assert files.read_image(row["image"]) == encoded(2)
    assert row["url"] == "http://a.org/2.jpg" and row["captions"] == ["aerial image 2"]
    assert json.loads(row["meta"]) == {"country": "Kenya"}
    if parquet:
        failed = rows["web/000000001"]
        assert failed["image"] == ""
        assert json.loads(failed["meta"])["not_fetched"] == "failed_to_download: HTTP Error 404"


def test_images_fetched_later_join_by_their_url(tmp_path):
    img2dataset_output(tmp_path / "out")
    rows = [
        new_row(id=f"r{n}", source="web", url=url)
        for n, url in enumerate(["HTTP://A.org/0.jpg", "http://a.org/1.jpg", "http://b.org/", ""])
    ]
    rows.append(new_row(id="local", image="x.jpg"))
    write_rows(str(tmp_path / "rows.parquet"), rows)
    table = Table(str(tmp_path), "", {"rows.parquet": 5}, {"web": 4}, {})
    assert write_url_list(table, str(tmp_path / "urls.parquet")) == 3
    assert pq.read_table(tmp_path / "urls.parquet")["url"].to_pylist() == sorted(
        row["url"] for row in rows[:3]
    )

    def check(decisions):
        update = dict(decisions)
        assert files.read_image(update.pop("r0")["image"]) == encoded(0)
        assert update == {
            "r1": {DROPPED: "not downloaded: failed_to_download"},
            "r2": {DROPPED: "not downloaded: not in the list"},
            "r3": {DROPPED: "not downloaded: no URL"},
        }

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(rows) | Fetched(str(tmp_path / "out")), check)


def test_mistakes_in_a_source_are_told_at_once(tmp_path):
    with pytest.raises(InputError, match="form 'jsonlines', expected one of jsonl, csv"):
        Input("a", "jsonlines", "x")
    with pytest.raises(InputError, match="needs no building"):
        Input("a", "vedai", "x")
    with pytest.raises(InputError, match="split 'fold 1', expected train, val or test"):
        Input("a", "jsonl", "x", split="fold 1")
    with pytest.raises(InputError, match="class_folder 'inner', expected one of first, last"):
        Input("a", "folder", "x", class_folder="inner")
    with pytest.raises(InputError, match="does not exist"):
        ingest_stage([Input("a", "jsonl", str(tmp_path / "none.jsonl"))])
    (tmp_path / "a.jsonl").write_text('{"file": "1.jpg", "caption": "x"}\n')
    given = Input("a", "jsonl", str(tmp_path / "a.jsonl"), str(tmp_path))
    with pytest.raises(InputError, match="none of the first 1 images"):
        ingest_stage([given])
    (tmp_path / "1.jpg").write_bytes(encoded())
    with pytest.raises(InputError, match="names of their own"):
        ingest_stage([given, given])
    before = ingest_stage([given]).fingerprint("")
    assert before == ingest_stage([dataclasses.replace(given, licence="CC0")]).fingerprint("")
    (tmp_path / "a.jsonl").write_text('{"file": "1.jpg", "caption": "another"}\n')
    assert before != ingest_stage([given]).fingerprint("")


def test_encoding_and_class_folder_are_fields_of_the_config(tmp_path):
    config = fusionrs.get_config("pairs")
    config.sources.pairs.path = str(tmp_path / "a.jsonl")
    text = '{"file": "1.jpg", "caption": "\u98de\u673a"}\n'
    (tmp_path / "a.jsonl").write_text(text, encoding="gb18030")
    (tmp_path / "1.jpg").write_bytes(encoded())
    with pytest.raises(
        InputError, match=r"'pairs'.*--encoding .*config\.sources\.pairs .*encoding"
    ):
        ingest_stage(inputs_of(config))
    config.sources.pairs.encoding = "gb18030"
    (given,) = inputs_of(config)
    ingest_stage([given])
    assert read_all(given)[0]["captions"] == ["\u98de\u673a"]
    assert given == Input("pairs", "jsonl", given.path, encoding="gb18030")  # else the defaults
    (tmp_path / "sets" / "land" / "farm").mkdir(parents=True)
    (tmp_path / "sets" / "land" / "farm" / "1.jpg").write_bytes(encoded())
    config.sources.pairs.update(form="folder", path=str(tmp_path / "sets"), class_folder="last")
    assert [row["label"] for row in read_all(*inputs_of(config))] == ["farm"]


def test_new_images_in_class_folders_are_seen(tmp_path):
    (tmp_path / "farm" / "a").mkdir(parents=True)
    (tmp_path / "farm" / "a" / "1.jpg").write_bytes(encoded())
    before = ingest_stage([Input("a", "folder", str(tmp_path))]).fingerprint("")
    assert ingest_stage([Input("a", "folder", str(tmp_path))]).fingerprint("") == before
    (tmp_path / "farm" / "a" / "2.jpg").write_bytes(encoded())
    assert ingest_stage([Input("a", "folder", str(tmp_path))]).fingerprint("") != before


def test_there_are_as_many_keywords_as_in_the_paper():
    assert (len(GROUP_1), len(GROUP_2)) == (27, 15)
    for keyword in (*GROUP_1, *GROUP_2):
        assert find_keyword(f"The {keyword.upper()} of it") == keyword.upper()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Aerial imagery of a farm", "Aerial imag"),
        ("an aerial\nview", "aerial\nview"),
        ("space-borne images", "space-borne imag"),
        ("sentinel 2 tile", "sentinel 2"),
        ("Sentinel-2A tile", "Sentinel-2"),
        ("Landsat8", "Landsat"),
        ("aerial_photo_12.jpg", "aerial_photo"),
        ("a modish coat by Naipaul", ""),
        ("Sentinel-10", ""),
        ("aerospace imaging", ""),
        ("an airplane seen from the ground", ""),
    ],
)
def test_keywords_begin_words(text, found):
    assert find_keyword(text) == found


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP"])
def test_images_are_measured(tmp_path, form):
    data, ir = encoded(1, form), encoded(2, "PNG", (8, 8))
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(ir)
    row = new_row(id="r", image=str(tmp_path / "a"), ir=str(tmp_path / "b"))
    assert check_images(row, 1000) == row | {
        "width": 20,
        "height": 16,
        "image_bytes": len(data) + len(ir),
        "sha256": hashlib.sha256(data).hexdigest(),
        "phash": str(imagehash.phash(Image.open(io.BytesIO(data)))),
        "ir_sha256": hashlib.sha256(ir).hexdigest(),
        "ir_phash": str(imagehash.phash(Image.open(io.BytesIO(ir)))),
    }


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>", "unreadable image: .* of no known format"),
        (encoded()[:200], "unreadable image"),
        (encoded(size=(200, 100)), "image too large"),
        (None, "unreadable file"),
    ],
)
def test_what_is_no_image_is_dropped_with_the_reason(tmp_path, data, reason):
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    with pytest.raises(Drop, match=f"^{reason}"):
        check_images(new_row(id="r", image=str(tmp_path / "a")), 10_000)
    (tmp_path / "good").write_bytes(encoded())
    row = new_row(id="r", image=str(tmp_path / "good"), ir=str(tmp_path / "a"))
    with pytest.raises(Drop, match=f"^infrared {reason}"):
        check_images(row, 10_000)


@pytest.fixture
def linked(tmp_path):
    """Return a folder with an image, a link to a private one, and a pipe; and the private one."""
    secret = tmp_path / "private.jpg"
    secret.write_bytes(encoded(7))
    (tmp_path / "in" / "port").mkdir(parents=True)
    (tmp_path / "in/port/1.jpg").write_bytes(encoded(1))
    (tmp_path / "in/port/2.jpg").symlink_to(secret)
    os.mkfifo(tmp_path / "in/port/3.jpg")
    rows = [{"image": f"port/{n}.jpg", "captions": ["a port"]} for n in (1, 2, 3)]
    (tmp_path / "in/rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "in"


@pytest.mark.parametrize(("form", "path"), [("folder", "."), ("jsonl", "rows.jsonl")])
def test_a_link_out_of_the_root_is_no_image_and_a_pipe_is_not_waited_for(linked, form, path):
    given = Input("set", form, str(linked / path))
    one, link, pipe = read_all(given)
    assert link == (
        *("set/port/2.jpg", "set"),
        "path leaves the image root by a link (--follow_links reads it): 'port/2.jpg'",
    )
    assert check_images(one, 10**6)["width"] == 20
    with pytest.raises(Drop, match=r"3\.jpg is a pipe, a device or a directory"):
        check_images(pipe, 10**6)
    _, link, _ = read_all(dataclasses.replace(given, follow_links=True))
    assert check_images(link, 10**6)["width"] == 20


def test_views_that_links_lead_to_outside_are_not_taken(linked):
    row = new_row(id="port/2.jpg", source="set")
    with pytest.raises(Drop, match=r"infrared image leaves .* by a link"):
        with_infrared(row, str(linked), 10**6)


def test_links_and_pipes_in_a_shard_of_img2dataset_are_told(tmp_path):
    shard = tmp_path / "out" / "00000"
    shard.mkdir(parents=True)
    (tmp_path / "private.jpg").write_bytes(encoded(7))
    (tmp_path / "private.json").write_text('{"caption": "private"}', encoding="utf-8")
    (shard / "1.jpg").symlink_to(tmp_path / "private.jpg")
    (shard / "2.json").symlink_to(tmp_path / "private.json")
    os.mkfifo(shard / "3.json")
    (shard / "4.jpg").write_bytes(encoded(4))
    (shard / "4.json").write_text('{"caption": "a port"}', encoding="utf-8")
    (shard / "1.json").write_text("[" * 100_000, encoding="utf-8")
    *problems, row = read_all(Input("web", "img2dataset", str(tmp_path / "out")))
    assert [(name, reason.partition(":")[0]) for name, _, reason in problems] == [
        (f"web/{number}", "not a regular file, as img2dataset writes them") for number in (1, 2, 3)
    ]
    assert (row["id"], row["captions"]) == ("web/4", ["a port"])


def test_a_tar_of_img2dataset_with_impossible_sizes_is_told(tmp_path):
    info = tarfile.TarInfo("1.jpg")
    info.size = -512
    (tmp_path / "00000.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match=r"00000.tar is damaged \(a negative size"):
        read_all(Input("web", "img2dataset", str(tmp_path)))


def test_lists_within_lists_without_end_cost_their_row_alone(tmp_path):
    (tmp_path / "1.jpg").write_bytes(encoded())
    deep = "[" * 900 + "]" * 900
    rows = f'{{"image": "1.jpg", "captions": "a"}}\n{{"image": "1.jpg", "x": {deep}}}'
    (tmp_path / "t.jsonl").write_text(rows, encoding="utf-8")
    row, dropped = read_all(Input("set", "jsonl", str(tmp_path / "t.jsonl")))
    assert row["captions"] == ["a"]
    assert dropped[2].startswith("nested too deep")
