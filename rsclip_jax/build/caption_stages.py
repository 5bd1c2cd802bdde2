"""Captioning as transforms of rows.

Each worker process has `concurrency` requests under way, so the server sees as many times that as
there are workers: give it a limit of its own, or divide. A row that is captioned again, because a
bundle failed or the pipeline was killed, finds its answer in the store.
"""

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from rsclip_jax.build.boxes import box_captions, boxes_from_meta
from rsclip_jax.build.caption_checks import Limits, check_clip_score, find_problem
from rsclip_jax.build.caption_scores import SCORES
from rsclip_jax.build.captioning import (
    CaptionConfig,
    Captioner,
    Outcome,
    prompt_of,
    with_problem,
)
from rsclip_jax.build.endpoint import EndpointConfig, shared_endpoint
from rsclip_jax.build.files import read_image
from rsclip_jax.build.pace import Pace
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import DROPPED, Drop, Stage, drop_row, each_row


@dataclasses.dataclass
class WriteCaptions(beam.PTransform):
    """Append a caption by a language model to each row; see `caption_stage`.

    Attributes:
      config, endpoint: what is asked, and whom.
      keep_failed: whether a row without a usable caption stays, the problem in its provenance, or
        is dropped.
    """

    config: CaptionConfig = dataclasses.field(compare=False)
    endpoint: EndpointConfig = dataclasses.field(compare=False)
    keep_failed: bool = False

    def expand(self, rows):
        work = _WriteCaptions(self.config, self.endpoint, self.keep_failed)
        return rows | beam.ParDo(work).with_outputs(DROPPED, main="rows")


class _WriteCaptions(beam.DoFn):
    def __init__(self, config: CaptionConfig, endpoint: EndpointConfig, keep_failed: bool):
        self._config = config
        self._endpoint = endpoint
        self._keep_failed = keep_failed

    def start_bundle(self):
        endpoint = shared_endpoint(self._endpoint)
        self._captioner = Captioner(self._config, endpoint, read_image)
        self._pace = Pace()

    def process(self, row: Row):
        try:
            for outcome in self._captioner.push(row):
                yield self._result(outcome)
        except Exception:
            self._captioner.close()  # Nothing more is asked for a bundle that has failed.
            raise

    def finish_bundle(self):
        try:
            for outcome in self._captioner.finish():
                result = self._result(outcome)
                tagged = isinstance(result, beam.pvalue.TaggedOutput)
                value = result.value if tagged else result
                value = WindowedValue(value, MIN_TIMESTAMP, [GlobalWindow()])
                yield beam.pvalue.TaggedOutput(DROPPED, value) if tagged else value
        finally:
            self._captioner.close()

    def _result(self, outcome: Outcome) -> Any:
        # The stage's own line counts files, which a bundle writes at its end: that may take hours.
        if told := self._pace.add("rows"):
            line = f"{self._config.task} captions: {told} in a bundle of this process"
            print(line, file=sys.stderr, flush=True)
        if outcome.problem and not self._keep_failed:
            return drop_row(outcome.row, outcome.problem)
        return with_problem(outcome, self._config)


def caption_stage(
    name: str,
    config: CaptionConfig,
    endpoint: EndpointConfig,
    keep_failed: bool = False,
    column: str = "",
) -> Stage:
    """Return the stage that captions all rows.

    It is done again if the task, its prompt or settings, the model or `image_side` change, but pays
    only for requests that are new. `endpoint.cache` should not lie in the directory of the stages:
    it is worth more than they.
    """
    settings = {
        "caption": dataclasses.asdict(config),
        "prompt": hashlib.sha256(prompt_of(config.task).encode()).hexdigest()[:16],
        "model": endpoint.model,
        "image_side": endpoint.image_side,
        "repairs": endpoint.repairs,
    }
    transform = WriteCaptions(config, endpoint, keep_failed)
    return Stage(name, transform, column=column, settings=settings)


def lrs2m_stages(
    endpoint: EndpointConfig, classes: Sequence[str] = (), objects: Sequence[str] = ()
) -> list[Stage]:
    """Return LRS2M's captioning: a short and a long caption for every row that remains.

    Only rows that have none are given one by the model. The paper tells no more than that the
    models were LLaVA-OneVision and Qwen2-VL. `classes` and `objects` are those of `CaptionConfig`.
    """
    short, long = (
        CaptionConfig(task, classes=tuple(classes), objects=tuple(objects), only_missing=True)
        for task in ("short", "long")
    )
    return [
        caption_stage("short_captions", short, endpoint, column="with short caption"),
        caption_stage("long_captions", long, endpoint, column="with long caption"),
    ]


def fusionrs_stages(
    endpoint: EndpointConfig,
    images: tuple[str, ...] = ("ir",),
    keep_failed: bool = False,
    share: float = 1.0,
) -> list[Stage]:
    """Return FusionRS's infrared-aware captioning, the strict filter included.

    Args:
      endpoint: FusionRS asked Qwen2.5-VL-72B.
      images: what the model sees beside the caption: its released settings say the infrared image
        alone, its text both.
      keep_failed: keep rows without such a caption; the counts of the filter's categories are then
        in `count_provenance`, otherwise among what the stage dropped.
      share: of the rows, see `CaptionConfig`.
    """
    config = CaptionConfig("infrared", images=images, only_missing=True, share=share)
    title = "" if keep_failed else "with infrared caption"
    return [caption_stage("infrared_captions", config, endpoint, keep_failed, title)]


@dataclasses.dataclass
class WriteBoxCaptions(beam.PTransform):
    """Append RemoteCLIP's captions to the rows whose `meta` has boxes; the others stay."""

    field: str = "captions"

    def expand(self, rows):
        return rows | each_row(functools.partial(with_box_captions, field=self.field))


def with_box_captions(row: Row, field: str = "captions") -> Row:
    """Return the row with the captions of its boxes, see `boxes.box_captions`.

    Raises:
      Drop: its boxes are not such as `boxes_to_meta` writes.
    """
    try:
        captions = box_captions(boxes_from_meta(json.loads(row["meta"])), row["id"])
    except ValueError as error:
        raise Drop(f"unusable boxes: {error}") from error
    return row | {field: [*row[field], *captions]}


@dataclasses.dataclass
class KeepCaptioned(beam.PTransform):
    """Drop rows that have no caption in any of these lists.

    A row whose model gave none goes for the reason that its provenance tells.
    """

    fields: tuple[str, ...] = ("captions", "long_captions")

    def expand(self, rows):
        return rows | each_row(functools.partial(keep_captioned, fields=self.fields))


def keep_captioned(row: Row, fields: tuple[str, ...]) -> Row:
    """Return the row if it has a caption in one of `fields`.

    Raises:
      Drop: it has none.
    """
    if any(row[field] for field in fields):
        return row
    problems = [
        entry["problem"]
        for entry in json.loads(row.get("provenance") or "[]")
        if "problem" in entry and entry["field"] in fields
    ]
    raise Drop(problems[-1] if problems else "no caption")


@dataclasses.dataclass
class CheckCaptions(beam.PTransform):
    """Take out the captions that a check objects to, whoever wrote them; see `check_captions`.

    Attributes:
      field: the list of captions.
      limits: fields of `Limits`.
      classes, objects: see `find_problem`.
      min_clip_score: least cosine of a caption and its image, see `caption_scores`; 0: any.
    """

    field: str = "captions"
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    min_clip_score: float = 0.0

    def expand(self, rows):
        return rows | each_row(functools.partial(check_captions, **dataclasses.asdict(self)))


def check_captions(
    row: Row,
    field: str,
    limits: dict[str, Any],
    classes: tuple[str, ...],
    objects: tuple[str, ...],
    min_clip_score: float,
) -> Row:
    """Return the row with the captions that pass.

    Raises:
      Drop: none does; the reason is the first one's problem.
      ValueError: there is a least score, and not one score of each.
    """
    meta = json.loads(row["meta"])
    boxes = boxes_from_meta(meta) if "boxes" in meta else None
    row = dict(row)
    scores = row.pop(SCORES.get(field, ""), [])  # would no longer be those of what is kept
    if min_clip_score and len(scores) != len(row[field]):
        raise ValueError(
            f"row {row['id']!r} has {len(row[field])} {field} and {len(scores)} scores of them: "
            "have caption_score_stage right before this"
        )
    find = functools.partial(
        find_problem,
        limits=Limits(**limits),
        label=row["label"],
        classes=classes,
        boxes=boxes,
        objects=objects,
        short=row["captions"] if field == "long_captions" else (),
    )
    problems = {caption: find(caption) for caption in row[field]}
    if min_clip_score:
        for caption, score in zip(row[field], scores, strict=True):
            problems[caption] = problems[caption] or check_clip_score(score, min_clip_score)
    kept = [caption for caption, problem in problems.items() if not problem]
    if problems and not kept:
        raise Drop(next(iter(problems.values())))
    return row | {field: kept}
