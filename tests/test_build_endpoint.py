"""The client of chat completions, against a server that misbehaves."""

import base64
import concurrent.futures
import dataclasses
import io
import json
import os
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from apache_beam.io.filesystem import FileMetadata, MatchResult
from apache_beam.io.localfilesystem import LocalFileSystem
from chat_server import Reply, serve
from PIL import Image

from rsclip_jax.build.answer_store import UNKNOWN_MODEL, AnswerStore
from rsclip_jax.build.answers import InvalidAnswer, parse_answer
from rsclip_jax.build.card import captioning_text
from rsclip_jax.build.chat import Request, request_key
from rsclip_jax.build.endpoint import (
    Endpoint,
    EndpointConfig,
    EndpointError,
    Unanswered,
    Unreachable,
    _retry_after,
    costs,
)

GOOD = '{"caption": "two ships in a harbor"}'
REQUEST = Request("be brief", "what is it?", {"caption": "text"}, {"temperature": 0.2, "top_k": 5})


def open_endpoint(server, tmp_path, **settings):
    settings = {"first_wait": 0.01, "timeout": 20.0, "tries": 3} | settings
    config = EndpointConfig(server.url, "seer", str(tmp_path / "answers"), **settings)
    return Endpoint(config)


def replies(*given):
    """Send the replies in order, then good ones."""
    return lambda body, number: given[number] if number < len(given) else Reply(GOOD)


def picture(size, mode="RGB", form="JPEG"):
    rng = np.random.default_rng(0)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    top = 65536 if mode == "I;16" else 256
    pixels = rng.integers(0, top, shape).astype(np.uint16 if mode == "I;16" else np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def files_below(directory):
    return {path.suffix for path in Path(directory).rglob("*") if path.is_file()}


def test_a_question_is_sent_as_the_protocol_wants_and_only_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    image = picture((40, 30))
    request = dataclasses.replace(REQUEST, images=(image,))
    with serve(replies()) as server:
        endpoint = open_endpoint(server, tmp_path, api_key_env="MY_KEY")
        answer = endpoint.ask(request)
        assert open_endpoint(server, tmp_path).ask(request) == answer  # another process, as it were
    (body,) = server.bodies
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert body["model"] == "seer" and body["temperature"] == 0.2 and body["top_k"] == 5
    system, user = body["messages"]
    assert system == {"role": "system", "content": "be brief"}
    kind, data = user["content"][0]["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64" and base64.b64decode(data) == image
    assert user["content"][1] == {"type": "text", "text": "what is it?"}
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema == {
        "type": "object",
        "properties": {"caption": {"type": "string"}},
        "required": ["caption"],
        "additionalProperties": False,
    }
    assert answer.values == {"caption": "two ships in a harbor"} and answer.model == "seer-served"
    assert (answer.prompt_tokens, answer.completion_tokens) == (100, 20)
    stored = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) == 1 and "sk-secret" not in stored[0]


@pytest.mark.parametrize(
    ("reply", "unanswered"),
    [
        (Reply(status=429, body={"error": {"message": "slow down"}}), 0),
        (Reply(status=500, body="oops"), 0),
        (Reply(status=503, body="busy"), 0),
        (Reply(status=504, body="gateway timed out"), 1),
        (Reply(GOOD, delay=2.0), 1),
        (Reply(body='{"choices": [{"message"'), 1),
        (Reply(body={"choices": []}), 1),
        (Reply(body={"error": {"message": "provider down"}}), 1),
        (Reply(body=[1]), 1),
        (Reply(GOOD, cut=True), 1),
    ],
    ids=["429", "500", "503", "504", "timeout", "broken", "empty", "error200", "list", "cut"],
)
def test_a_misbehaving_server_is_asked_again_and_what_may_be_charged_is_counted(
    tmp_path, reply, unanswered
):
    with serve(replies(reply)) as server:
        endpoint = open_endpoint(server, tmp_path, timeout=1.0 if reply.delay else 20.0)
        assert endpoint.ask(REQUEST).values == {"caption": "two ships in a harbor"}
        assert len(server.bodies) == 2
    usage = endpoint.total()[0]
    assert (usage.answers, usage.prompt_tokens, usage.completion_tokens) == (1, 100, 20)
    assert usage.unanswered == unanswered == endpoint.paid.unanswered
    assert files_below(tmp_path) == {".json"}


def test_retry_after_is_obeyed_by_all_threads(tmp_path):
    told = Reply(status=429, body="", headers={"Retry-After": "0.6"})
    with serve(replies(told)) as server:
        endpoint = open_endpoint(server, tmp_path)
        endpoint.ask(REQUEST)
        assert server.times[1] - server.times[0] >= 0.6
        server.reply = replies(*[Reply(GOOD)] * 2, told)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(endpoint.ask, dataclasses.replace(REQUEST, user="a"))
            while len(server.times) < 3:
                time.sleep(0.005)
            while endpoint._paused_until < time.monotonic():  # until the client has read it
                time.sleep(0.005)
            pool.submit(endpoint.ask, dataclasses.replace(REQUEST, user="b")).result()
            first.result()
    assert all(later - server.times[2] >= 0.6 for later in server.times[3:])
    assert _retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0 == _retry_after("soon")
    assert 3e9 < _retry_after("Fri, 31 Dec 2199 23:59:59 GMT")


def test_waits_grow_and_tries_end(tmp_path, monkeypatch):
    waits = []
    clock = types.SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=waits.append)
    monkeypatch.setattr("rsclip_jax.build.endpoint.time", clock)
    with serve(lambda body, number: Reply(status=500, body="down")) as server:
        endpoint = open_endpoint(server, tmp_path, tries=6, first_wait=1.0, longest_wait=4.0)
        with pytest.raises(Unanswered, match=r"6 tries.*status 500: down"):
            endpoint.ask(REQUEST)
        assert len(server.bodies) == 6
    waits = [wait for wait in waits if wait]
    for wait, most in zip(waits, (1, 2, 4, 4, 4), strict=True):
        assert most / 2 <= wait <= most
    assert len(set(waits)) == 5  # drawn
    assert endpoint.total()[0].unanswered == 0 and files_below(tmp_path) == set()


def test_a_server_that_is_gone_stops_the_work(tmp_path):
    with serve(replies()) as server:
        pass
    endpoint = open_endpoint(server, tmp_path, tries=1, concurrency=1)
    for _ in range(9):
        with pytest.raises(Unreachable, match=r"seer at http.*Connection refused"):
            endpoint.ask(REQUEST)
    with pytest.raises(EndpointError, match=r"seer at http.*10 requests in a row"):
        endpoint.ask(REQUEST)
    assert endpoint.total()[0].unanswered == 0  # never reached


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (500, Reply(status=429, body="slow down"), Unreachable),
        (500, Reply(status=502, body="nobody behind the proxy"), Unreachable),
        (500, Reply(status=503, body="starting"), Unreachable),
        (500, Reply(GOOD, cut=True), Unreachable),
        (503, Reply(status=500, body="out of memory"), Unanswered),
        (503, Reply(status=504, body="gateway timed out"), Unanswered),
        (503, Reply(GOOD, delay=1.0), Unanswered),
        (503, Reply(body={"choices": []}), Unanswered),
    ],
    ids=["429", "502", "503", "cut", "500", "504", "timeout", "empty"],
)
def test_the_last_failure_tells_whether_the_request_may_be_at_fault(
    tmp_path, first, last, expected
):
    with serve(replies(Reply(status=first, body=""), last)) as server:
        endpoint = open_endpoint(server, tmp_path, tries=2, timeout=0.5 if last.delay else 20.0)
        with pytest.raises(Unanswered) as caught:
            endpoint.ask(REQUEST)
    assert type(caught.value) is expected


def test_a_request_that_breaks_the_connection_while_others_are_answered_is_at_fault(tmp_path):
    other = dataclasses.replace(REQUEST, user="and this?")
    gone = Reply(GOOD, cut=True)
    with serve(lambda body, number: Reply(GOOD) if number in (0, 2) else gone) as server:
        endpoint = open_endpoint(server, tmp_path, tries=2, concurrency=2)
        endpoint.ask(dataclasses.replace(REQUEST, user="before it"))
        waited = endpoint._wait_before
        endpoint._wait_before = lambda *given: (endpoint.ask(other), waited(*given))
        with pytest.raises(Unanswered) as caught:
            endpoint.ask(REQUEST)
    assert type(caught.value) is Unanswered


@pytest.mark.parametrize("status", [401, 403, 404, 402])
def test_final_refusals_stop_at_once_and_hide_the_key(tmp_path, monkeypatch, status):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    body = {"error": {"message": "Incorrect API key provided: sk-secret"}}
    with serve(lambda *_: Reply(status=status, body=body)) as server:
        endpoint = open_endpoint(server, tmp_path, api_key_env="MY_KEY")
        with pytest.raises(EndpointError, match=f"status {status}: Incorrect") as caught:
            endpoint.ask(REQUEST)
    assert len(server.bodies) == 1 and "sk-secret" not in str(caught.value)
    assert "MY_KEY" in str(caught.value) or status not in (401, 403)


def test_an_empty_account_is_not_asked_again(tmp_path):
    body = {"error": {"message": "pay first", "code": "insufficient_quota"}}
    with serve(lambda *_: Reply(status=429, body=body)) as server:
        with pytest.raises(EndpointError, match="pay first"):
            open_endpoint(server, tmp_path).ask(REQUEST)
        assert len(server.bodies) == 1


def test_servers_without_response_format_are_asked_without(tmp_path):
    def old_server(body, number):
        if "response_format" in body:
            return Reply(status=400, body={"error": {"message": "unknown parameter"}})
        return Reply(GOOD)

    with serve(old_server) as server:
        endpoint = open_endpoint(server, tmp_path)
        endpoint.ask(REQUEST)
        endpoint.ask(dataclasses.replace(REQUEST, user="another"))
        assert [("response_format" in body) for body in server.bodies] == [True, False, False]
    assert endpoint.total()[0].answers == 2


def test_a_request_that_is_refused_leaves_the_others_alone(tmp_path):
    def picky(body, number):
        bad = body["messages"][1]["content"] == "bad"
        return Reply(status=400, body={"error": {"message": "no"}}) if bad else Reply(GOOD)

    with serve(picky) as server:
        endpoint = open_endpoint(server, tmp_path)
        with pytest.raises(Unanswered, match="refused by the server: status 400: no"):
            endpoint.ask(dataclasses.replace(REQUEST, user="bad"))
        endpoint.ask(REQUEST)
        assert "response_format" in server.bodies[-1]
    assert endpoint.total()[0].unanswered == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"caption": "a", "confidence": 0.9}', "key 'confidence' was not asked for"),
        ('{"captions": "a"}', "key 'caption' is missing"),
        ('{"caption": 3}', "must hold a string"),
        ('{"caption": " "}', "is empty"),
        ('{"caption": "a"', "not JSON"),
        ("a ship", "not JSON"),
        ('["a"]', "not a list"),
        ('{"caption": "a\\ud800b"}', "half a character"),
        ("", "not JSON"),
    ],
)
def test_wrong_answers_are_told_paid_once_and_counted(tmp_path, text, told):
    with serve(replies(Reply(text))) as server:
        answer = open_endpoint(server, tmp_path).ask(REQUEST)
        assert answer.values["caption"] == "two ships in a harbor"
        assert (answer.prompt_tokens, answer.completion_tokens) == (200, 40)
        *_, wrong, complaint = server.bodies[1]["messages"]
        assert wrong["role"] == "assistant" and told in complaint["content"]
        again = open_endpoint(server, tmp_path)
        assert again.ask(REQUEST) == answer and len(server.bodies) == 2
    assert again.total()[0].answers == 2 and again.paid.answers == 0


def test_a_model_that_never_obeys_is_given_up_and_not_paid_again(tmp_path):
    wrong = Reply('{"caption": "a", "mood": "calm"}')
    with serve(lambda *_: wrong) as server:
        for _ in range(2):
            endpoint = open_endpoint(server, tmp_path, repairs=1)
            with pytest.raises(Unanswered, match="invalid answer: key 'mood'"):
                endpoint.ask(REQUEST)
        assert len(server.bodies) == 2
    usage = endpoint.total()[0]
    assert (usage.answers, usage.prompt_tokens, usage.completion_tokens) == (2, 200, 40)
    assert usage.cost(prompt_price=3.0, completion_price=10.0) == pytest.approx(0.001)
    assert "cost 0.00" in usage.line(3.0, 10.0)


def test_cut_off_and_refused_answers(tmp_path):
    refusal = {"choices": [{"message": {"content": None, "refusal": "I will not"}}]}
    with serve(replies(Reply(GOOD, finish_reason="length"))) as server:
        endpoint = open_endpoint(server, tmp_path)
        endpoint.ask(REQUEST)
        assert "more briefly" in server.bodies[1]["messages"][-1]["content"]
        server.reply = lambda *_: Reply(body=refusal)
        with pytest.raises(Unanswered, match="model refused: I will not"):
            endpoint.ask(dataclasses.replace(REQUEST, user="another"))
    usage = endpoint.total()[0]
    assert (usage.answers, usage.without_usage) == (3, 1) and "without a token" in usage.line()


def test_answers_may_come_in_a_fence_or_after_thoughts():
    fields = {"captions": "texts"}
    value = {"captions": ["a", "b"]}
    text = json.dumps(value)
    for given in (text, f"```json\n{text}\n```", f"<think>\n{{}}</think>\n {text} "):
        assert parse_answer(given, fields) == value
    for given in (f"Here it is: {text}", '{"captions": []}', '{"captions": ["a", ""]}'):
        with pytest.raises(InvalidAnswer):
            parse_answer(given, fields)


def test_concurrency_and_rate_are_limited(tmp_path):
    requests = [dataclasses.replace(REQUEST, user=str(number)) for number in range(12)]
    three = threading.Event()

    def reply(body, number):
        if number == 2:
            three.set()
        return Reply(GOOD, wait=three, delay=0.05)  # a fourth would have the time to come

    with serve(reply) as server:
        endpoint = open_endpoint(server, tmp_path, concurrency=3)
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(endpoint.ask, requests))
        assert server.most_at_once == 3
    with serve(replies()) as server:
        endpoint = open_endpoint(server, tmp_path / "b", requests_per_minute=600)
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(endpoint.ask, requests[:5]))
        assert time.monotonic() - start >= 0.4


def test_two_workers_that_ask_the_same_pay_once(tmp_path):
    with serve(lambda *_: Reply(GOOD, delay=0.1)) as server:
        endpoints = [open_endpoint(server, tmp_path) for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda endpoint: endpoint.ask(REQUEST), endpoints))
        assert len(server.bodies) == 1 and len(set(map(repr, answers))) == 1
    assert files_below(tmp_path) == {".json"}


def test_the_key_holds_all_that_an_answer_depends_on():
    base = dataclasses.replace(REQUEST, images=(b"a",))
    keys = [request_key(base, [], "seer", 512)]
    for change in (
        {"system": "x"},
        {"user": "x"},
        {"fields": {"text": "text"}},
        {"sampling": {"temperature": 0.3, "top_k": 5}},
        {"images": (b"b",)},
        {"images": (b"a", b"a")},
    ):
        keys.append(request_key(dataclasses.replace(base, **change), [], "seer", 512))
    keys.append(request_key(base, [("x", "wrong")], "seer", 512))
    keys.append(request_key(base, [], "other", 512))
    keys.append(request_key(base, [], "seer", 256))
    assert len(set(keys)) == len(keys)
    swapped = dataclasses.replace(base, sampling={"top_k": 5, "temperature": 0.2})
    assert request_key(swapped, [], "seer", 512) == keys[0]


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
@pytest.mark.parametrize(("side", "size"), [(45, (45, 30)), (0, (90, 60)), (90, (90, 60))])
def test_images_are_sent_so_that_servers_can_read_them(tmp_path, mode, side, size):
    image = picture((90, 60), mode, "TIFF" if mode == "RGB" else "PNG")
    with serve(replies()) as server:
        endpoint = open_endpoint(server, tmp_path, image_side=side)
        endpoint.ask(dataclasses.replace(REQUEST, images=(image,)))
        with pytest.raises(Unanswered, match="unreadable image"):
            endpoint.ask(dataclasses.replace(REQUEST, images=(b"no image",)))
    url = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as sent:
        assert (sent.format, sent.mode, sent.size) == ("JPEG", "RGB", size)


def test_a_turned_photograph_is_sent_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (90, 60)).save(file, "JPEG", exif=exif)
    with serve(replies()) as server:
        endpoint = open_endpoint(server, tmp_path)
        endpoint.ask(dataclasses.replace(REQUEST, images=(file.getvalue(),)))
    url = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as sent:
        assert sent.size == (60, 90) and 0x0112 not in sent.getexif()


class Kept(LocalFileSystem):
    """A file system of Beam that is not local: kept:///PATH is /PATH."""

    @classmethod
    def scheme(cls):
        return "kept"

    def create(self, path, *more, **settings):
        path = path.removeprefix("kept://")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return super().create(path, *more, **settings)

    def open(self, path, *more, **settings):
        return super().open(path.removeprefix("kept://"), *more, **settings)

    def exists(self, path):
        return super().exists(path.removeprefix("kept://"))

    def delete(self, paths):
        for path in paths:
            os.remove(path.removeprefix("kept://"))

    def match(self, patterns, limits=None):
        paths = [str(p) for p in Path(patterns[0].removeprefix("kept://")).parent.glob("*")]
        found = [FileMetadata(f"kept://{path}", os.path.getsize(path)) for path in paths]
        return [MatchResult(patterns[0], found)]


@pytest.mark.parametrize("scheme", ["", "kept://"])
def test_a_killed_request_is_counted_until_it_is_answered(tmp_path, scheme):
    store = AnswerStore(f"{scheme}{tmp_path}")
    key = "ab" * 32
    with store.claim(key) as claim:  # as a kill would leave it: sent, and no more
        claim.sending()
    assert store.total(UNKNOWN_MODEL)[0].unanswered == 1 and store.get(key) is None
    with store.claim(key) as claim:
        claim.sending()
        claim.was_free()
        claim.sending()
        saved = claim.save({"prompt_tokens": 1, "completion_tokens": None, "text": "ü\ud800"})
    assert files_below(tmp_path) == {".json"}
    assert store.get(key) == saved and saved["unanswered"] == 1
    assert (
        store.total(UNKNOWN_MODEL)[0].unanswered == 1
        and store.total(UNKNOWN_MODEL)[0].prompt_tokens == 1
    )
    Path(tmp_path, "ab", f"{key}.asked").write_bytes(b"..")  # killed between answer and release
    assert store.total(UNKNOWN_MODEL)[0].unanswered == 1


def test_only_answers_of_the_present_model_are_priced(tmp_path):
    with serve(replies(*[Reply(GOOD)] * 3, *[Reply(status=504, body="late")] * 2)) as server:
        endpoint = open_endpoint(server, tmp_path, tries=2, prompt_price=1e4)
        config = dataclasses.replace(endpoint.config, model="sage", completion_price=1e5)
        other = Endpoint(config)
        endpoint.ask(REQUEST)
        other.ask(REQUEST)
        other.ask(dataclasses.replace(REQUEST, user="another"))
        with pytest.raises(Unanswered):
            other.ask(dataclasses.replace(REQUEST, user="too much"))
    # An answer as earlier versions stored it.
    old = {"model": "sage", "prompt_tokens": 7, "completion_tokens": None, "unanswered": 1}
    Path(config.cache, "00").mkdir()
    Path(config.cache, "00", f"{'0' * 64}.json").write_text(json.dumps(old), encoding="utf-8")
    told = costs(config)
    assert (told["model"], told["answers"], told["prompt_tokens"]) == ("sage", 2, 200)
    assert told["cost"] == 2 * (100 * 0.01 + 20 * 0.1) and told["unanswered"] == 0
    unknown, seer = told["others"][UNKNOWN_MODEL], told["others"]["seer"]
    assert (seer["answers"], seer["prompt_tokens"], seer["completion_tokens"]) == (1, 100, 20)
    assert (unknown["answers"], unknown["prompt_tokens"], unknown["unanswered"]) == (1, 7, 1 + 2)
    text = captioning_text({"captions": {}, "problems": {}, "paid": told})
    assert "paid to sage, all runs: 2 answers" in text and text.count("cost") == 1
    assert "- asked of seer in the same store, not priced: 1 answers, 100 prompt" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_url", "localhost"), ("model", ""), ("cache", ""), ("tries", 0), ("timeout", 0.0)],
)
def test_wrong_settings_are_told(field, value):
    good = {"base_url": "http://localhost/v1", "model": "m", "cache": "c"}
    with pytest.raises(ValueError, match=field):
        EndpointConfig(**(good | {field: value}))
