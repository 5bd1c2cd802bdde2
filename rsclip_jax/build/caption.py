"""Caption the images of a table or folder with a language model, without a pipeline.

    python -m rsclip_jax.build.caption --format=folder --input=images --task=long \\
        --base_url=http://localhost:8000/v1 --model=Qwen/Qwen2.5-VL-7B-Instruct --output=long.jsonl

writes a JSONL table that `python -m rsclip_jax.prepare --format=jsonl` reads: the samples as they
were, each with one more caption, and in `provenance` by which model, prompt and settings. Samples
without a usable caption stay as they were, and are listed in OUTPUT.problems.jsonl.

Answers are kept in --cache. Stop the command at any moment, even with kill -9: run again, it pays
for nothing that was answered. A server that is down or too busy ends it with an error, after the
requests under way, and is asked for what is missing by the same command. The key for a hosted
service is read from the environment variable that --api_key_env names.
"""

import collections
import functools
import json
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from absl import app, flags

from rsclip_jax import host
from rsclip_jax.build.captioning import TASKS, CaptionConfig, Outcome, caption_rows
from rsclip_jax.build.endpoint import Endpoint, EndpointConfig, EndpointError
from rsclip_jax.build.files import read_image
from rsclip_jax.build.pace import Pace
from rsclip_jax.build.rows import Row, new_row
from rsclip_jax.data.cells import texts_of
from rsclip_jax.data.folders import open_folder
from rsclip_jax.data.sources import InputError, Source, place_below
from rsclip_jax.data.tables import open_table
from rsclip_jax.data.text import without_surrogates

FORMATS = ("folder", "jsonl", "csv", "json")


def rows_of(
    source: Source, problems: collections.Counter[str], follow_links: bool = False
) -> Iterator[Row]:
    """Turn samples into rows whose images are paths; those that cannot be read are counted.

    Columns without a role, such as `boxes` (see `boxes.boxes_from_meta`), are in `meta`.

    Args:
      follow_links: see `sources.read_file`; what must not be read is not sent to a server either.
    """
    for sample in source:
        if sample.problem or not isinstance(sample.image, str):
            problems["unreadable sample"] += 1
            continue
        lists = {
            name: [without_surrogates(text) for text in getattr(sample, name)]
            for name in ("captions", "long_captions", "ir_captions")
        }
        texts = {
            name: without_surrogates(getattr(sample, name))
            for name in ("id", "label", "split", "source")
        }
        history = sample.extra.pop("provenance", [])
        boxes = sample.extra.get("boxes")
        try:
            for image in filter(None, (sample.image, str(sample.ir or ""))):
                place_below(source.root, image, follow_links)
        except ValueError as error:
            problems[str(error).partition(":")[0]] += 1
            continue
        try:
            candidates = texts_of(sample.extra.pop("candidates", None), "candidates")
            if isinstance(boxes, str) and boxes:  # a cell of a CSV file
                sample.extra["boxes"] = json.loads(boxes)
        except (ValueError, RecursionError):
            problems["unreadable sample"] += 1
            continue
        row = new_row(
            image=os.path.join(source.root, sample.image),
            ir=os.path.join(source.root, str(sample.ir)) if sample.ir else "",
            meta=without_surrogates(json.dumps(sample.extra, ensure_ascii=False)),
            **lists,
            **texts,
        )
        if candidates:
            row["candidates"] = [without_surrogates(text) for text in candidates]
        if history:  # of an earlier caption by this command
            row["provenance"] = json.dumps(history if isinstance(history, list) else [history])
        yield row


def write_table(
    source: Source,
    config: CaptionConfig,
    endpoint: Endpoint,
    output: str,
    follow_links: bool = False,
) -> collections.Counter[str]:
    """Caption all samples and write OUTPUT (JSONL) and OUTPUT.problems.jsonl, complete or not.

    Returns:
      How many captions were written (key "") and how often each problem came up.

    Raises:
      EndpointError: the server cannot be used, or did not take a request. OUTPUT is not written,
        but answers are kept.
    """
    counts: collections.Counter[str] = collections.Counter()
    outcomes = caption_rows(rows_of(source, counts, follow_links), config, endpoint, read_image)
    pace = Pace()
    unfinished = f"{output}.unfinished"
    # Names of files may have half characters: in JSON, Python's escape for them means the same.
    write = functools.partial(open, mode="w", encoding="utf-8", errors="backslashreplace")
    with write(unfinished) as file, write(f"{output}.problems.jsonl") as problems:
        for outcome in outcomes:
            row = outcome.row
            counts[outcome.problem.split(":")[0]] += 1
            if outcome.problem:
                line = {"id": row["id"], "problem": outcome.problem}
                problems.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.write(_line(outcome, source.root) + "\n")
            if told := pace.add("samples"):
                print(f"{told}; paid now: {_usage(endpoint)}", file=sys.stderr)
    os.replace(unfinished, output)
    return counts


def _line(outcome: Outcome, root: str) -> str:
    """Write a sample: its own columns, and over them what it is known by and its captions."""
    own = json.loads(outcome.row["meta"])
    row = {name: value for name, value in outcome.row.items() if value and name != "meta"}
    for name in ("image", "ir"):
        if name in row:
            row[name] = os.path.relpath(row[name], root)
    if "provenance" in row:
        row["provenance"] = json.loads(row["provenance"])
    if "id" in own:  # No reader takes such a column for its id unasked.
        row["id"] = own["id"]
    return json.dumps(own | row, ensure_ascii=False)


def _usage(endpoint: Endpoint) -> str:
    return endpoint.paid.line(endpoint.config.prompt_price, endpoint.config.completion_price)


def define_flags() -> None:
    """Define the flags; not on import, where they would meet those of the other commands."""
    flags.DEFINE_enum("format", None, FORMATS, "Form of the input, see prepare.", required=True)
    flags.DEFINE_string("input", None, "Folder of class folders, or table.", required=True)
    flags.DEFINE_string("images", "", "Directory of a table's images; default: the table's.")
    flags.DEFINE_boolean("follow_links", False, "Read what links below that directory point to.")
    flags.DEFINE_enum("task", None, TASKS, "Kind of caption.", required=True)
    flags.DEFINE_string("output", None, "JSONL table to write.", required=True)
    flags.DEFINE_string("base_url", None, "Server: http://HOST:PORT/v1.", required=True)
    flags.DEFINE_string("model", None, "As the server calls it.", required=True)
    flags.DEFINE_string("cache", "", "Directory of the answers; default: OUTPUT.answers.")
    flags.DEFINE_string("api_key_env", "OPENAI_API_KEY", "Environment variable with the key.")
    flags.DEFINE_integer("concurrency", 8, "Requests at once.", lower_bound=1)
    flags.DEFINE_float("requests_per_minute", 0.0, "0: no limit.", lower_bound=0)
    flags.DEFINE_float("timeout", 120.0, "Seconds to wait for an answer.", lower_bound=0)
    flags.DEFINE_integer("image_side", 1024, "Reduce larger images to it; 0: never.", lower_bound=0)
    flags.DEFINE_string(
        "sampling", "", 'JSON in place of the task\'s own, such as {"temperature": 0.5}.'
    )
    flags.DEFINE_integer(
        "count", 0, "Of rewrite: captions an answer, 0: 5. Of candidates: requests, 0: 20."
    )
    flags.DEFINE_list("ir_images", ["ir"], "What infrared shows: ir, or image,ir.")
    flags.DEFINE_list("classes", [], "Names of all labels: no caption may name another.")
    flags.DEFINE_float("prompt_price", 0.0, "Of a million prompt tokens.")
    flags.DEFINE_float("completion_price", 0.0, "Of a million completion tokens.")


def main(argv: list[str]) -> None:
    """Run the command; wrong input ends it with a message and status 1."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    host.printable_output()
    given = flags.FLAGS
    names = ["base_url", "model", "api_key_env", "concurrency", "requests_per_minute", "timeout"]
    names += ["image_side", "prompt_price", "completion_price"]
    try:
        config = CaptionConfig(
            given.task,
            tuple(_sampling(given.sampling).items()),
            images=tuple(given.ir_images),
            count=given.count,
            classes=tuple(given.classes),
        )
        settings = {name: getattr(given, name) for name in names}
        cache = given.cache or f"{given.output}.answers"
        endpoint = Endpoint(EndpointConfig(cache=cache, **settings))
        if given.format == "folder":
            source = open_folder(given.input)
        else:
            source = open_table(given.format, given.input, given.images)
        counts = write_table(source, config, endpoint, given.output, given.follow_links)
    except (InputError, OSError, ValueError, EndpointError) as error:
        _quit(f"caption: {error}", 1)
    except KeyboardInterrupt:
        _quit("\ncaption: interrupted; answers are kept, run it again", 130)
    print(f"{given.output}: {counts.pop('', 0):,} captions")
    for problem, count in counts.most_common():
        print(f"  {count:,} without: {problem}")
    print(f"paid by this run: {_usage(endpoint)}")
    usage, others = endpoint.total()
    prices = (given.prompt_price, given.completion_price)
    print(f"in {cache}, all runs: {usage.line(*prices)}")
    for name, other in sorted(others.items()):
        print(f"  and of {name}, not priced: {other.line()}")
    print(
        f"Next: python -m rsclip_jax.prepare --format=jsonl --input={given.output} "
        f"--images={source.root} --output=data --name=NAME"
    )


def _quit(message: str, status: int) -> NoReturn:
    """End at once: `sys.exit` would wait for the threads, and these for the server."""
    print(message, file=sys.stderr, flush=True)
    os._exit(status)


def _sampling(text: str) -> dict:
    if not text:
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"--sampling={text}: not JSON: {error}") from None
    if not isinstance(values, dict) or any(isinstance(v, dict | list) for v in values.values()):
        raise InputError(f"--sampling={text}: expected an object of numbers, strings or booleans")
    return values


if __name__ == "__main__":
    define_flags()
    app.run(main)
