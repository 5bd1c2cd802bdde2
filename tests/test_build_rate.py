"""Rating captions: what is drawn, the file of ratings, and what the server answers."""

import io
import json
import re
import socket
import threading

import numpy as np
import pytest
import werkzeug.serving
from PIL import Image

from rsclip_jax.build import rate, ratings
from rsclip_jax.build.ratings import CRITERIA, Rating, RatingFile
from rsclip_jax.data.records import open_source, write_dataset
from rsclip_jax.data.sources import InputError

KINDS = ("short", "long", "infrared")
SCRIPT = "<script>alert(1)</script> & <b>a harbor</b>"
ANSWER = {"rater": "ada", "relevance": 4, "hallucination": 5, "fluency": 3, "comment": ""} | {
    "seconds": 6.5
}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_captions(data, name, count=12, word="ship"):
    """Write a data set with short captions, long ones in every second record, and one infrared."""
    records = []
    for i in range(count):
        record = {"id": f"r{i}", "image": png(np.full((6, 8, 3), i, np.uint8))}
        record["captions"] = [f"{word} {i}", f"another {word} {i}"]
        record["long_captions"] = [f"a long text of {word} {i}"] if i % 2 else []
        records.append(record)
    thermal = np.arange(48, dtype=np.uint16).reshape(6, 8) * 100
    records[3] |= {"ir": png(thermal), "ir_captions": ["warm roofs"], "captions": [SCRIPT]}
    write_dataset(data, name, {"test": records})
    return open_source(data, name, "test")


@pytest.fixture
def source(tmp_path):
    return write_captions(tmp_path, "mine")


@pytest.fixture
def served(source, tmp_path):
    """Return a client of the server, its items and its file."""
    items = ratings.draw_items({"mine": source}, 12, 0, KINDS)
    file = RatingFile(str(tmp_path / "ratings.jsonl"))
    yield rate.make_app({"mine": source}, items, file).test_client(), items, file
    file.close()


def make(rater="ada", item="mine/r0/short/0", score=4, **more):
    given = {"dataset": "mine", "kind": "short", "caption": "0" * 16, "comment": "“gut”", **more}
    scores = dict.fromkeys(CRITERIA, score)
    return Rating(rater=rater, item=item, seconds=2.5, time="2026-01-01", **given | scores)


def test_a_sample_is_fixed_by_its_seed_and_grows(source):
    items = ratings.draw_items({"mine": source}, 8, 0, KINDS)
    assert len({item.record for item in items}) == 8  # different images
    assert ratings.draw_items({"mine": source}, 8, 0, KINDS) == items
    assert ratings.draw_items({"mine": source}, 100, 0, KINDS)[:8] == items
    assert ratings.draw_items({"mine": source}, 8, 1, KINDS) != items
    assert {item.kind for item in items} > {"short"}
    only = ratings.draw_items({"mine": source}, 100, 0, ("infrared",))
    assert [(item.name, item.infrared) for item in only] == [("mine/r3/infrared/0", True)]
    with pytest.raises(InputError, match=r"medium.* short, long, infrared"):
        ratings.draw_items({"mine": source}, 8, 0, ("medium",))
    for item in items:
        record = source[item.index]
        field = {"short": "captions", "long": "long_captions", "infrared": "ir_captions"}[item.kind]
        assert record["id"] == item.record and record[field][item.number] == item.text


def test_data_sets_with_the_same_images_are_compared_on_the_same(source, tmp_path):
    other = write_captions(tmp_path, "other", word="boat")
    both = {"mine": source, "other": other}
    items = ratings.draw_items(both, 7, 0, ("short",))
    drawn = {name: [item for item in items if item.dataset == name] for name in both}
    assert [len(of) for of in drawn.values()] == [4, 3]
    assert [item.index for item in drawn["mine"]][:3] == [item.index for item in drawn["other"]]
    bare = {"id": "a", "image": b"a", "label": "harbor"}
    write_dataset(tmp_path, "bare", {"test": [bare]})
    with pytest.raises(InputError, match=r"bare/test.* short or long"):
        ratings.draw_items({"bare": open_source(tmp_path, "bare", "test")}, 5, 0, KINDS[:2])


def test_raters_get_the_same_captions_in_orders_of_their_own(source):
    items = ratings.draw_items({"mine": source}, 12, 0, KINDS)
    ada, bob = (ratings.in_order(items, rater) for rater in ("ada", "bob"))
    assert ada == ratings.in_order(reversed(items), "ada") and ada != bob
    assert set(ada) == set(bob) == set(items)


def test_ratings_come_back_and_the_last_one_counts(tmp_path):
    path = str(tmp_path / "new" / "ratings.jsonl")
    file = RatingFile(path)
    with pytest.raises(BlockingIOError, match="another server"):
        RatingFile(path)
    given = [make(), make("bob"), make(score=2), make(caption="1" * 16)]
    for one in given:
        file.add(one)
    expected = {one.key: one for one in given[1:]}
    assert {one.key: one for one in ratings.read_ratings(path)} == expected  # while it is open
    file.close()
    again = RatingFile(path)
    assert {one.key: one for one in again.ratings()} == expected
    again.close()


def test_a_file_cut_anywhere_goes_on_with_its_whole_lines(tmp_path):
    path = tmp_path / "ratings.jsonl"
    file = RatingFile(str(path))
    given = [make(), make("bob"), make("cäcilie")]
    for one in given[:2]:
        file.add(one)
    file.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    ends = {edge + by for edge in (0, first, len(whole)) for by in (-2, -1, 0, 1)}
    for size in sorted((ends | set(range(0, len(whole), 29))) & set(range(len(whole) + 1))):
        path.write_bytes(whole[:size])
        # A line that lacks only its end is whole.
        count = (size >= first - 1) + (size >= len(whole) - 1)
        file = RatingFile(str(path))
        assert file.ratings() == given[:count]
        assert file.removed == (
            b"" if count == 2 or size in (0, first - 1, first) else whole[:size].splitlines()[-1]
        )
        file.add(given[2])
        file.close()
        assert ratings.read_ratings(str(path)) == [*given[:count], given[2]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"filename": "a.jpg", "captions": ["a"]}\n', "line 1 of .* is no rating"),
        (b"[" * 100_000 + b"\n", "line 1 of .* is no rating"),
        (b"PNG without any line", "no file of ratings"),
        (b'{"filename": "a.jpg"', "no file of ratings"),
        (b"\n", "line 1"),
    ],
)
def test_another_file_is_refused_and_stays_as_it_is(tmp_path, content, told):
    path = tmp_path / "captions.jsonl"
    path.write_bytes(content)
    for read in (RatingFile, ratings.read_ratings):
        with pytest.raises(InputError, match=told):
            read(str(path))
    assert path.read_bytes() == content


def test_another_sample_is_refused_and_changed_captions_are_told(source):
    items = ratings.draw_items({"mine": source}, 4, 0, KINDS)
    rated = [
        make(item=item.name, caption=ratings.caption_hash(item.text), kind=item.kind)
        for item in items[:2]
    ]
    assert ratings.check_sample(items, rated, "r.jsonl") == []
    changed = make(item=items[2].name, caption=ratings.caption_hash("an older text"))
    assert ratings.check_sample(items, [*rated, changed], "r.jsonl") == [items[2].name]
    with pytest.raises(InputError, match=r"r\.jsonl holds ratings of another sample, such as mine"):
        ratings.check_sample(items[1:], rated, "r.jsonl")


def test_a_rating_is_saved_and_shown_to_its_rater(served):
    client, items, file = served
    shown = client.get("/session?rater=ada").json["items"]
    assert [one["token"] for one in shown] == [i.token for i in ratings.in_order(items, "ada")]
    assert all(one["rating"] is None for one in shown)
    assert "mine" not in json.dumps(shown)  # whose caption it is stays hidden
    item = items[5]
    reply = client.post("/ratings", json=ANSWER | {"token": item.token, "comment": "no ship"})
    assert reply.json == {"saved": item.token}
    (saved,) = file.ratings()
    assert (saved.item, saved.dataset, saved.kind) == (item.name, "mine", item.kind)
    assert saved.caption == ratings.caption_hash(item.text)
    assert [getattr(saved, name) for name in CRITERIA] == [4, 5, 3]
    shown = {one["token"]: one for one in client.get("/session?rater=ada").json["items"]}
    mine = {name: ANSWER[name] for name in (*CRITERIA, "seconds")}
    assert shown[item.token]["rating"] == mine | {"comment": "no ship"}
    others = client.get("/session?rater=bob").json["items"]
    assert all(one["rating"] is None for one in others)


def test_half_a_character_in_a_comment_does_not_stop_the_page(served):
    client, items, file = served
    body = json.dumps(ANSWER | {"token": items[0].token, "comment": "cut \ud83d"})
    reply = client.post("/ratings", data=body, content_type="application/json")
    assert reply.status_code == 200
    (saved,) = file.ratings()
    assert saved.comment == "cut \ufffd"


def test_a_client_that_says_nothing_is_let_go(served, monkeypatch):
    client, *_ = served
    monkeypatch.setattr(rate._Handler, "timeout", 0.1)
    server = werkzeug.serving.make_server(
        "127.0.0.1", 0, client.application, request_handler=rate._Handler
    )
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
        assert silent.recv(1) == b""  # closed from the other side
    thread.join(60)
    server.server_close()
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"relevance": 0}, 400),
        ({"fluency": 6}, 400),
        ({"fluency": 4.5}, 400),
        ({"hallucination": True}, 400),
        ({"hallucination": "5"}, 400),
        ({"seconds": -1}, 400),
        ({"seconds": float("nan")}, 400),
        ({"comment": "a" * 2001}, 400),
        ({"comment": None}, 400),
        ({"rater": ""}, 400),
        ({"rater": " ada"}, 400),
        ({"rater": "a|b"}, 400),
        ({"rater": "a" * 41}, 400),
        ({"item": "mine/r0/short/0"}, 400),
        ({"more": 1}, 400),
        ({"token": "0" * 16}, 409),
        ({"comment": "a" * 70_000}, 413),
    ],
)
def test_what_is_no_rating_is_refused(served, change, status):
    client, items, file = served
    reply = client.post("/ratings", json=ANSWER | {"token": items[0].token} | change)
    assert reply.status_code == status and reply.json["error"]
    assert not file.ratings()


def test_other_sites_are_refused(served):
    client, items, file = served
    answer = ANSWER | {"token": items[0].token}
    rebound = {"Host": "evil.example:8765"}
    for path in ("/", "/session?rater=ada", f"/images/{items[0].token}/image", "/results.json"):
        assert client.get(path, headers=rebound).status_code == 403
    for headers in (rebound, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert client.post("/ratings", json=answer, headers=headers).status_code == 403
    form = client.post("/ratings", data=json.dumps(answer), content_type="text/plain")
    assert form.status_code == 415 and not file.ratings()
    own = {"Host": "127.0.0.1:8765", "Origin": "http://127.0.0.1:8765"}
    assert client.post("/ratings", json=answer, headers=own).status_code == 200
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy


def test_a_disk_that_is_full_loses_nothing_that_was_saved(served, monkeypatch, tmp_path):
    client, items, file = served
    assert client.post("/ratings", json=ANSWER | {"token": items[0].token}).status_code == 200

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ratings.os, "fsync", full)
        reply = client.post("/ratings", json=ANSWER | {"token": items[1].token})
    assert reply.status_code == 503 and "No space left" in reply.json["error"]
    assert [one.item for one in file.ratings()] == [items[0].name]
    assert client.post("/ratings", json=ANSWER | {"token": items[2].token}).status_code == 200
    read = ratings.read_ratings(str(tmp_path / "ratings.jsonl"))
    assert [one.item for one in read] == [items[0].name, items[2].name]


def test_images_are_shown_by_token_only(served, source):
    client, items, _ = served
    by_record = {item.record: item for item in items}

    def pixels(path):
        reply = client.get(path)
        assert reply.mimetype == "image/png"
        return np.asarray(Image.open(io.BytesIO(reply.data)).convert("RGB"))

    for record, item in by_record.items():
        shown = pixels(f"/images/{item.token}/image")
        np.testing.assert_array_equal(shown, np.full((6, 8, 3), int(record[1:]), np.uint8))
    infrared = pixels(f"/images/{by_record['r3'].token}/ir")  # 16 bits, stretched
    assert infrared[0, 0, 0] == 0 and infrared[-1, -1, 0] == 255
    for path in (
        f"/images/{by_record['r4'].token}/ir",
        "/images/0000000000000000/image",
        f"/images/{items[0].token}/label",
        "/images/..%2f..%2fetc%2fpasswd/image",
        "/pages/..%2frate.py",
        "/pages/../rate.py",
    ):
        assert client.get(path).status_code == 404


def test_an_image_that_cannot_be_read_is_told(tmp_path):
    bad = {"id": "a", "image": b"\xff\xd8\xff cut off", "captions": ["a ship"]}
    write_dataset(tmp_path, "bad", {"test": [bad]})
    sources = {"bad": open_source(tmp_path, "bad", "test")}
    (item,) = ratings.draw_items(sources, 5, 0, KINDS)
    file = RatingFile(str(tmp_path / "r.jsonl"))
    reply = rate.make_app(sources, [item], file).test_client().get(f"/images/{item.token}/image")
    file.close()
    assert reply.status_code == 404 and "cannot be read" in reply.json["error"]


def test_results_are_those_of_the_report(served, tmp_path):
    client, items, _ = served
    with pytest.raises(InputError, match="no ratings yet"):
        rate.report(str(tmp_path / "ratings.jsonl"), str(tmp_path / "agreement.json"))
    assert "No caption was rated by two" in client.get("/results").text
    for rater, score in (("ada", 4), ("bob", 2)):
        for item in items[:3]:
            answer = ANSWER | {"token": item.token, "rater": rater, "relevance": score}
            client.post("/ratings", json=answer)
    text = rate.report(str(tmp_path / "ratings.jsonl"), str(tmp_path / "agreement.json"))
    found = json.loads((tmp_path / "agreement.json").read_text())
    assert found == client.get("/results.json").json
    assert found["criteria"]["relevance"]["mean"] == 3.0 and found["captions"] == 3
    page = re.sub(r"<[^>]*>", " ", client.get("/results").text)
    for cell in ("3.00 [3.00, 3.00]", "ada and bob"):
        assert cell in text and cell in page
