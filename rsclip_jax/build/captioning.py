"""Captions by a language model: short, long, infrared-aware, from labels or boxes; candidates.

A task makes a request of a row, and a caption of the answer. `caption_row` does both for one row,
`caption_rows` for many at once.

The papers' settings, where they are known: FusionRS asked Qwen2.5-VL-72B at temperature 0.2 for at
most 180 tokens, giving it the infrared-style image and the caption. RS5M drew 20 candidates of each
labelled image from BLIP-2 by nucleus sampling (top-p 0.95), for `caption_rank` to choose. LRS2M
used LLaVA-OneVision and Qwen2-VL; its prompts, temperature and filters are not published.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rsclip_jax.build import ir_filter, prompts
from rsclip_jax.build.answers import Fields
from rsclip_jax.build.boxes import Box, boxes_from_meta, clean_label, phrase
from rsclip_jax.build.caption_checks import Limits, find_problem
from rsclip_jax.build.chance import drawn
from rsclip_jax.build.chat import Request
from rsclip_jax.build.endpoint import Answer, Endpoint, EndpointError, Unanswered, Unreachable
from rsclip_jax.build.rows import Row

TASKS = ("short", "long", "infrared", "rewrite", "candidates")
# Task -> the list of the row that its caption is appended to.
FIELD = {
    "short": "captions",
    "long": "long_captions",
    "infrared": "ir_captions",
    "rewrite": "captions",
    "candidates": "candidates",
}
_PROMPT = {  # name and number, system text
    "short": ("short/1", prompts.SHORT),
    "long": ("long/1", prompts.LONG),
    "infrared": ("infrared/1", prompts.INFRARED),
    "rewrite": ("rewrite/1", prompts.REWRITE),
    "candidates": ("short/1", prompts.SHORT),
}
_SAMPLING = {
    "short": {"temperature": 0.2, "max_tokens": 120},
    "long": {"temperature": 0.2, "max_tokens": 400},
    "infrared": {"temperature": 0.2, "max_tokens": 180},
    "rewrite": {"temperature": 0.7, "max_tokens": 400},
    "candidates": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 120},
}
LIMITS = {  # of a task, where the config gives none
    "short": Limits(min_words=4, max_words=40, max_tokens=77),
    "long": Limits(min_words=40, max_words=220, max_tokens=248, max_overlap=0.6),
    "infrared": Limits(min_words=6, max_words=70, max_tokens=77),
    "rewrite": Limits(min_words=3, max_words=40, max_tokens=77),
    "candidates": Limits(min_words=4, max_words=40, max_tokens=77),
}
_COUNT = {"candidates": 20}  # of the others 5
_COUNTS_OF = 10  # classes named in a prompt; more would drown the rest


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """What captions to ask for.

    Attributes:
      task: short, long, infrared, rewrite or candidates.
      sampling: (parameter, value) pairs of the request, in place of the task's own.
      limits: in place of the task's own.
      images: what the infrared task shows: ("ir",) or ("image", "ir").
      count: captions asked for at once by rewrite; one of them is taken by the row's id, so that
        images of one label, which share a paid answer, get different captions. Of candidates:
        requests for each image, which differ in their `seed`. 0: 5 and 20.
      classes: of all labels: a caption must not name another than the row's.
      objects: all that the detector of the boxes in `meta` knows: a caption must not name others.
      field: list that the caption goes to; "": the task's own.
      only_missing: leave rows alone that have a text in that list.
      share: of the rows, drawn by their ids (see `chance.drawn`); the others are left alone.
    """

    task: str
    sampling: tuple[tuple[str, Any], ...] = ()
    limits: Limits | None = None
    images: tuple[str, ...] = ("ir",)
    count: int = 0
    classes: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    field: str = ""
    only_missing: bool = False
    share: float = 1.0

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}: expected {', '.join(TASKS)}")
        if self.images not in prompts.INFRARED_IMAGES:
            raise ValueError(f"images is {self.images}: expected ('ir',) or ('image', 'ir')")
        if self.count < 0:
            raise ValueError(f"count is {self.count}: expected 0 or more")

    @property
    def number(self) -> int:
        """Return `count`, or what 0 stands for."""
        return self.count or _COUNT.get(self.task, 5)

    @property
    def target(self) -> str:
        """Return the list of the row that the caption is appended to."""
        return self.field or FIELD[self.task]


def prompt_of(task: str) -> str:
    """Return the system prompt of a task, which the provenance names by number and hash."""
    return _PROMPT[task][1]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A row with its new caption; or as it was, and the problem, its kind before a colon."""

    row: Row
    problem: str = ""


def make_request(row: Row, config: CaptionConfig, read: Callable[[str], bytes]) -> Request:
    """Write the request of a row.

    Args:
      row: see `rows`.
      config: the task and its settings.
      read: returns the bytes of an image reference.

    Raises:
      ValueError: the row lacks what the task needs, or an image cannot be read.
    """
    task = config.task
    system = prompt_of(task)
    fields: Fields = {"caption": "text"}
    pictures = ["image"]
    if task in ("short", "long", "candidates"):
        user = "Write the caption of this image."
    elif task == "infrared":
        if not row["captions"]:
            raise ValueError("nothing to go by: the row has no caption")
        fields = {"ir_aware_caption": "text"}
        pictures = list(config.images)
        system = system.format(images=prompts.INFRARED_IMAGES[config.images])
        user = f"Caption of the scene: {row['captions'][0]}"
    else:
        fields = {"captions": "texts"}
        pictures = []
        quotes = ", ".join(['"..."'] * min(2, config.number)) + (", ..." * (config.number > 2))
        system = system.format(count=config.number, quotes=quotes)
        user = _annotation(row)
    images = []
    for name in pictures:
        if not row[name]:
            raise ValueError(f"no {name}: the row has none")
        images.append(read(row[name]))
    sampling = dict(config.sampling) or _SAMPLING[task]
    return Request(system, user, fields, sampling, tuple(images))


def _annotation(row: Row) -> str:
    """Describe the label and the boxes of a row, for a model that sees neither."""
    boxes = _boxes(row) or []
    lines = []
    if row["label"]:
        lines.append(f"Class of the scene: {clean_label(row['label'])}")
    for where, chosen in (
        ("in the centre", [box for box in boxes if box.in_centre()]),
        ("elsewhere", [box for box in boxes if not box.in_centre()]),
    ):
        if chosen:
            counts = collections.Counter(box.label for box in chosen)
            lines.append(f"Objects {where}: {phrase(dict(counts.most_common(_COUNTS_OF)))}")
    if not lines:
        raise ValueError("nothing to go by: the row has neither label nor boxes")
    return "\n".join(lines)


def caption_row(
    row: Row, config: CaptionConfig, endpoint: Endpoint, read: Callable[[str], bytes]
) -> Outcome:
    """Ask for the caption of one row, or its candidates, check it, and append it.

    The row's `provenance`, a JSON list, gets an entry {"field", "caption" (hash), "model",
    "prompt", "prompt_sha256", "sampling", "date", "prompt_tokens", "completion_tokens"}.

    Raises:
      EndpointError: the server cannot be used at all.
      Unreachable: it did not take the request, which says nothing about the row.
      OSError: an answer cannot be stored. No more are bought then.
    """
    if (config.only_missing and row.get(config.target)) or not drawn(row["id"], config.share):
        return Outcome(row)
    try:
        boxes = _boxes(row, needed=bool(config.objects))
        request = make_request(row, config, read)
    except (ValueError, OSError) as error:
        return Outcome(row, f"unusable row: {error}")
    requests = [request]
    if config.task == "candidates":
        seeds = range(config.number)
        requests = [
            dataclasses.replace(request, sampling={**request.sampling, "seed": seed})
            for seed in seeds
        ]
    texts, history, problems = list(row.get(config.target, [])), [], []
    for one in requests:
        try:
            answer = endpoint.ask(one)
        except Unreachable as error:
            raise Unreachable(f"{error} (asked for {row['id']})") from None
        except Unanswered as error:
            problems.append(str(error))
            continue
        caption = take_caption(answer.values, row["id"])
        if problem := check(caption, row, config, boxes):
            problems.append(problem)
        elif len(requests) == 1 or caption not in texts:
            texts.append(caption)
            history.append(_entry(caption, config, one, answer))
    if not history and problems:
        return Outcome(row, problems[0])
    history = [*json.loads(row.get("provenance") or "[]"), *history]
    return Outcome(row | {config.target: texts, "provenance": json.dumps(history)})


def _entry(caption: str, config: CaptionConfig, request: Request, answer: Answer) -> dict[str, Any]:
    return {
        "field": config.target,
        "caption": hashlib.sha256(caption.encode()).hexdigest()[:16],
        "model": answer.model,
        "prompt": _PROMPT[config.task][0],
        "prompt_sha256": hashlib.sha256(request.system.encode()).hexdigest()[:16],
        "sampling": dict(request.sampling),
        "date": answer.date,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
    }


def with_problem(outcome: Outcome, config: CaptionConfig) -> Row:
    """Return the row of an outcome, what went wrong noted in its provenance."""
    if not outcome.problem:
        return outcome.row
    entry = {"field": config.target, "problem": outcome.problem}
    history = [*json.loads(outcome.row.get("provenance") or "[]"), entry]
    return outcome.row | {"provenance": json.dumps(history)}


def count_provenance(rows: Iterable[Row]) -> dict[str, Any]:
    """Sum up the provenance of rows, for the card of a data set.

    Returns:
      {"captions": {"FIELD by MODEL, PROMPT": number}, "problems": {"FIELD: KIND": number},
      "prompt_tokens", "completion_tokens"}, most frequent first. Answers that several rows share
      are counted with each: what was paid is in the store of the answers.
    """
    captions: collections.Counter[str] = collections.Counter()
    problems: collections.Counter[str] = collections.Counter()
    tokens: collections.Counter[str] = collections.Counter()
    for row in rows:
        for entry in json.loads(row.get("provenance") or "[]"):
            if "problem" in entry:
                problems[f"{entry['field']}: {entry['problem'].split(':')[0]}"] += 1
            elif "prompt" in entry:
                captions[f"{entry['field']} by {entry['model']}, {entry['prompt']}"] += 1
                for name in ("prompt_tokens", "completion_tokens"):
                    tokens[name] += entry[name]
    return {
        "captions": dict(captions.most_common()),
        "problems": dict(problems.most_common()),
        "prompt_tokens": tokens["prompt_tokens"],
        "completion_tokens": tokens["completion_tokens"],
    }


def take_caption(values: Mapping[str, Any], name: str) -> str:
    """Take the caption of row `name` out of an answer, in one line."""
    (given,) = values.values()
    if isinstance(given, list):
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
        given = given[int.from_bytes(digest[:8], "little") % len(given)]
    return " ".join(given.split())


def _boxes(row: Row, needed: bool = True) -> list[Box] | None:
    """Return the boxes of a row, None of one without; of another form they may be needed."""
    meta = json.loads(row["meta"])
    try:
        return boxes_from_meta(meta) if "boxes" in meta else None
    except ValueError:
        if needed:
            raise
        return None


def check(caption: str, row: Row, config: CaptionConfig, boxes: list[Box] | None) -> str:
    """Return the problem of a caption given to a row with these boxes, "" for none."""
    if config.task == "infrared":
        category, word = ir_filter.rejection(caption)
        if category:
            return f"infrared filter, {category}: {word!r}"
    return find_problem(
        caption,
        config.limits or LIMITS[config.task],
        label=row["label"],
        classes=config.classes,
        objects=config.objects,
        boxes=boxes,
        short=row["captions"] if config.task == "long" else (),
    )


class Captioner:
    """Caption rows in the order they come, `endpoint.config.concurrency` at once.

    At most four times as many are under way, so any number of rows can pass through.

    Raises:
      EndpointError: see `caption_row`; or the server did not take a request. A row is not to be
        lost for that, so no more are asked then, and the same work done again asks once more. The
        error comes when those under way are done, so that what they bring is stored.
    """

    def __init__(self, config: CaptionConfig, endpoint: Endpoint, read: Callable[[str], bytes]):
        self._work = functools.partial(caption_row, config=config, endpoint=endpoint, read=read)
        threads = endpoint.config.concurrency
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._room = 4 * threads
        self._waiting: collections.deque[concurrent.futures.Future[Outcome]] = collections.deque()

    def push(self, row: Row) -> Iterator[Outcome]:
        """Take a row; yield the oldest outcome where there is no more room."""
        if len(self._waiting) == self._room:
            yield self._oldest()
        self._waiting.append(self._pool.submit(self._work, row))

    def finish(self) -> Iterator[Outcome]:
        """Yield the outcomes that are left."""
        while self._waiting:
            yield self._oldest()

    def _oldest(self) -> Outcome:
        try:
            return self._waiting.popleft().result()
        except Unreachable as error:
            count, last = 1, error
        for future in [future for future in self._waiting if not future.cancel()]:
            try:
                future.result()
            except Unreachable as error:
                count, last = count + 1, error
        raise EndpointError(
            f"requests that the server did not take: {count}, the last of them by {last}. All "
            "answers are stored: the same command goes on when the server is well"
        )

    def close(self) -> None:
        """Give up what has not begun. What is under way is stored if it is answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def caption_rows(
    rows: Iterable[Row], config: CaptionConfig, endpoint: Endpoint, read: Callable[[str], bytes]
) -> Iterator[Outcome]:
    """Caption rows in their order, several at once (see `Captioner`)."""
    with contextlib.closing(Captioner(config, endpoint, read)) as captioner:
        for row in rows:
            yield from captioner.push(row)
        yield from captioner.finish()
