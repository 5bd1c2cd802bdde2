"""A client of any server that speaks OpenAI's chat completions, and never pays twice.

Known servers and what is peculiar to them:
  vLLM       http://HOST:8000/v1; obeys `response_format`; a model that is not multimodal answers
             400 to images; more sampling parameters (top_k, min_p, repetition_penalty) by name.
  SGLang     http://HOST:30000/v1; the same.
  Ollama     http://HOST:11434/v1; takes images as base64 only (as they are sent here); its context
             is 4,096 tokens unless the server is told otherwise, and longer prompts are cut without
             a word: keep `image_side` small; OLLAMA_NUM_PARALLEL bounds the useful concurrency.
  OpenAI     newer models refuse max_tokens (say max_completion_tokens) and temperatures but 1.
  OpenRouter answers 200 with {"error": ...} when the provider behind it fails: tried again.
Servers that know no `response_format` answer 400 or ignore it: the first are asked once more
without it, and the answer is checked in any case.
"""

import dataclasses
import email.utils
import json
import logging
import os
import random
import threading
import time
from typing import Any

import openai

from rsclip_jax.build.answer_store import AnswerStore, Claim, Usage
from rsclip_jax.build.answers import InvalidAnswer, parse_answer
from rsclip_jax.build.chat import (
    Request,
    UnreadableBody,
    messages_of,
    read_body,
    request_key,
    response_format,
)

_log = logging.getLogger(__name__)

_LONG_WAIT = 30.0  # seconds; a longer one is told
_RETRIED = (408, 409, 425, 429)  # and all from 500
# Answers of a proxy that lost patience: the model behind it may go on and be charged.
_MAYBE_CHARGED = (408, 504, 524)
# Causes of a connection error with which no byte of the request left this machine.
_NEVER_SENT = ("ConnectError", "ConnectTimeout")
_BUSY = (429, 503, 529)
_GONE = (502, 520, 521, 522, 523)  # says its proxy


class EndpointError(Exception):
    """The server cannot be used at all; the message says what mends it."""


class Unanswered(Exception):
    """One request has no usable answer, which says nothing about the others."""


class Unreachable(Unanswered):
    """The server did not take a request, for a reason that passes and is none of the request's."""


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """A server, a model, and how to treat them.

    Attributes:
      base_url: up to and including the version: "http://localhost:8000/v1".
      model: as the server calls it.
      cache: directory of the answers (see `answer_store`); moving it means paying again.
      api_key_env: environment variable with the key, on every machine that asks; servers of your
        own need none.
      concurrency: requests under way at once in each process. The server sees workers times that.
      requests_per_minute: likewise for each process; 0: no limit.
      timeout: seconds to wait for an answer.
      tries: times a request is sent until it is given up.
      first_wait: seconds before the second try; doubles with each, drawn from half of that to all.
      longest_wait: seconds; a longer Retry-After is obeyed nevertheless.
      repairs: times the model is told what is wrong with its answer and asked again.
      image_side: greatest side in pixels of the images sent; larger ones are reduced, 0: never.
      prompt_price, completion_price: of a million tokens, in any currency.
    """

    base_url: str
    model: str
    cache: str
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    requests_per_minute: float = 0.0
    timeout: float = 120.0
    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    repairs: int = 2
    image_side: int = 1024
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self):
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"base_url is {self.base_url!r}: expected http://HOST:PORT/v1 or https://..."
            )
        for name in ("model", "cache"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: see EndpointConfig")
        for name in ("concurrency", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        for name in ("timeout", "first_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: expected seconds above 0")


@dataclasses.dataclass(frozen=True)
class Answer:
    """A checked answer and what it cost, from the store or not.

    Attributes:
      values: by field.
      model: as the server called it.
      date: when it was given, ISO 8601 in UTC.
      prompt_tokens, completion_tokens: of the answer and of the refused ones before it.
    """

    values: dict[str, Any]
    model: str
    date: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """Ask questions from several threads. See `EndpointConfig`; `shared_endpoint` makes one.

    Attributes:
      paid: what this object has asked for, in contrast to what lay in the store.
    """

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.store = AnswerStore(config.cache)
        self.paid = Usage()
        self._key = os.environ.get(config.api_key_env, "")
        for name in ("httpx", "httpx2"):  # A line for each request is too much.
            logging.getLogger(name).setLevel(logging.WARNING)
        # Tries and waits are ours: the client's own would not be counted.
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=config.base_url,
            timeout=config.timeout,
            max_retries=0,
        )
        self._places = threading.BoundedSemaphore(config.concurrency)
        self._lock = threading.Lock()
        self._next_send = self._paused_until = 0.0
        self._failures = 0  # one after the other
        self._answered = 0
        self._knows_format = True

    def ask(self, request: Request) -> Answer:
        """Return the answer from the store, or send the question.

        Raises:
          Unanswered: this request has no valid answer.
          Unreachable: nor has it been refused; asked later, it may have one.
          EndpointError: the server refuses every request, or has not answered many in a row.
        """
        turns: list[tuple[str, str]] = []
        tokens = [0, 0]
        while True:
            stored = self._stored_answer(request, turns)
            for i, name in enumerate(("prompt_tokens", "completion_tokens")):
                tokens[i] += stored[name] or 0
            try:
                values = self._values(stored, request)
                return Answer(values, stored["model"], stored["date"], *tokens)
            except InvalidAnswer as error:
                if len(turns) == self.config.repairs:
                    raise Unanswered(f"invalid answer: {error}") from None
                turns.append((stored["text"], str(error)))

    def total(self) -> tuple[Usage, dict[str, Usage]]:
        """Sum up everything in the store, of earlier runs too, see `AnswerStore.total`."""
        return self.store.total(self.config.model)

    def _values(self, stored: dict[str, Any], request: Request) -> dict[str, Any]:
        if stored["refusal"]:
            raise Unanswered(f"model refused: {stored['refusal'][:200]}")
        if stored["finish_reason"] == "length":
            raise InvalidAnswer("cut off at the greatest number of tokens: answer more briefly")
        return parse_answer(stored["text"], request.fields)

    def _stored_answer(self, request: Request, turns: list[tuple[str, str]]) -> dict[str, Any]:
        """Return the model's raw answer, which is in the store by then."""
        key = request_key(request, turns, self.config.model, self.config.image_side)
        stored = self.store.get(key)
        if stored is None:
            with self._places, self.store.claim(key) as claim:
                stored = claim.answer or self._send(request, turns, claim)
        return stored

    def _send(self, request: Request, turns: list[tuple[str, str]], claim: Claim) -> dict[str, Any]:
        try:
            messages = messages_of(request, turns, self.config.image_side)
        except ValueError as error:
            raise Unanswered(f"unreadable image: {error}") from None
        reason, tries, busy, gone, answered = "", 0, False, False, -1
        use_format = self._knows_format
        while tries < self.config.tries:
            if tries:
                self._wait_before(tries, reason)
            self._wait_for_turn()
            claim.sending()
            try:
                body = self._post(messages, request, use_format)
                stored = read_body(body, self.config.model)
            except openai.APIStatusError as error:
                status = error.status_code
                reason, busy, gone = self._told(error), status in _BUSY, status in _GONE
                if status not in _MAYBE_CHARGED:
                    claim.was_free()
                if status in (400, 422) and use_format:
                    use_format = False  # Perhaps that is what the server does not know.
                    continue  # Not a try: it is another request.
                if status == 429 and _code(error) == "insufficient_quota":
                    raise EndpointError(f"{self._name()}: {reason}") from None
                if status not in _RETRIED and status < 500:
                    if status in (400, 413, 415, 422):
                        raise Unanswered(f"refused by the server: {reason}") from None
                    raise EndpointError(f"{self._name()}: {reason}{self._hint(status)}") from None
                self._pause(_retry_after(error.response.headers.get("retry-after", "")))
            except openai.APIConnectionError as error:  # time-outs too
                cause = error.__cause__
                never_sent = type(cause).__name__ in _NEVER_SENT
                if never_sent:
                    claim.was_free()
                # A model that thinks for too long may do so because of the request.
                gone = never_sent or not isinstance(error, openai.APITimeoutError)
                busy = False
                reason = f"{error} ({cause or type(error).__name__})"
            except UnreadableBody as error:
                reason, busy, gone = str(error), False, False
            else:
                stored = claim.save(stored)
                with self._lock:
                    self._failures = 0
                    self._answered += 1
                    self._knows_format = use_format
                    self.paid.add(stored)
                return stored
            tries += 1
            answered = self._answered if tries == 1 else answered
        # Others may have been answered since: then it is this request that ends the connection.
        return self._give_up(reason, tries, busy or (gone and self._answered == answered))

    def _post(self, messages: list[dict], request: Request, use_format: bool) -> str:
        extra: dict[str, Any] = dict(request.sampling)
        if use_format:
            extra["response_format"] = response_format(request.fields)
        return self._client.chat.completions.with_raw_response.create(
            model=self.config.model,
            messages=messages,  # type: ignore[arg-type]
            extra_body=extra,
        ).text

    def _give_up(self, reason: str, tries: int, passing: bool) -> dict[str, Any]:
        with self._lock:
            self._failures += 1
            hopeless = self._failures >= 2 * self.config.concurrency + 8
        text = f"no answer after {tries} tries, the last: {reason}"
        if hopeless:
            raise EndpointError(
                f"{self._name()}: {text}; and so for {self._failures} requests in a row. "
                "What was answered is kept: start again when the server is well"
            )
        if passing:
            raise Unreachable(f"{self._name()}: {text}")
        raise Unanswered(text)

    def _wait_for_turn(self) -> None:
        """Keep to the requests per minute, and to the pauses the server asked for."""
        start = 0.0
        if self.config.requests_per_minute:
            with self._lock:
                start = max(time.monotonic(), self._next_send)
                self._next_send = start + 60 / self.config.requests_per_minute
        while (wait := max(start, self._paused_until) - time.monotonic()) > 0:
            time.sleep(wait)

    def _pause(self, seconds: float) -> None:
        """Let all threads wait: what one request was told holds for the others."""
        if seconds >= _LONG_WAIT:
            _log.warning("%s: asked to wait for %.0f s", self._name(), seconds)
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _wait_before(self, tries: int, reason: str) -> None:
        wait = min(self.config.longest_wait, self.config.first_wait * 2 ** (tries - 1))
        wait *= random.uniform(0.5, 1.0)
        _log.debug("%s: %s; trying again in %.0f s", self._name(), reason, wait)
        time.sleep(wait)

    def _told(self, error: openai.APIStatusError) -> str:
        """Return status and message of the server; some of them repeat the key they were sent."""
        text = error.response.text
        try:
            body = json.loads(text)
            found = body.get("error", body)
            text = found if isinstance(found, str) else found.get("message") or text
        except (ValueError, AttributeError, RecursionError):
            pass
        if self._key:
            text = str(text).replace(self._key, "***")
        return f"status {error.status_code}: {' '.join(str(text).split())[:300]}"

    def _name(self) -> str:
        return f"{self.config.model} at {self.config.base_url}"

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            variable = self.config.api_key_env
            state = "is not accepted" if self._key else "is not set"
            return f" (the key in the environment variable {variable} {state})"
        if status == 404:
            return " (is the model's name right, and does base_url end in /v1?)"
        return ""


_shared: dict[EndpointConfig, Endpoint] = {}
_shared_lock = threading.Lock()


def shared_endpoint(config: EndpointConfig) -> Endpoint:
    """Return this process's endpoint, so that its limits hold for all threads of the process."""
    with _shared_lock:
        if config not in _shared:
            _shared[config] = Endpoint(config)
        return _shared[config]


def costs(config: EndpointConfig) -> dict[str, Any]:
    """Return what everything in a store has cost, for the card of a data set.

    Answers of other models are counted under "others", by name and without a price: those of the
    config are of its model.
    """
    usage, others = AnswerStore(config.cache).total(config.model)
    cost = usage.cost(config.prompt_price, config.completion_price)
    return {
        "model": config.model,
        **dataclasses.asdict(usage),
        "cost": round(cost, 4),
        "others": {name: dataclasses.asdict(other) for name, other in sorted(others.items())},
    }


def _code(error: openai.APIStatusError) -> str:
    try:
        return json.loads(error.response.text)["error"]["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _retry_after(value: str) -> float:
    """Read a Retry-After header, seconds or a date; 0 if there is none."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, date.timestamp() - time.time())
