"""Write infrared views of images that came without.

    python -m rsclip_jax.build.translate --model=runs/translator \\
        --list=runs/fusionrs/translate.jsonl --output=FOLDER

The list is what `python -m rsclip_jax.build.fusionrs` ends its first run with; it goes on with
--config.translated=FOLDER. A line is {"id", "image", "ir"}: an image and the file to write below
FOLDER (any file name of `infrared`). --model is a workdir of configs/translator.py, or one of the
views that cost nothing: grayscale, inverted, vegetation.

Run again after an interruption, it writes what is missing. Images that cannot be read are told and
passed over; the pipeline then drops their rows.
"""

import argparse
import collections
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from rsclip_jax import errors, host, sharding, startup
from rsclip_jax.build import files
from rsclip_jax.build.models import read_pixels
from rsclip_jax.build.stages import Drop
from rsclip_jax.data.free_infrared import FREE
from rsclip_jax.models import translator
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.translation import Translation

MADE_BY = "translator.json"  # beside the views, tells what made them
_AHEAD = 8  # images that are read before their turn

Translator = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


def load_translator(model: str) -> tuple[Translator, dict]:
    """Return a function of images uint8 [H, W, 3] to uint8 [H, W], and what tells it from others.

    It draws an image when it needs one, and gives views in the same order as they are done.

    Args:
      model: a workdir of a translator, or one of `FREE`.

    Raises:
      FileNotFoundError, ValueError: nothing there that can be read, or no translator.
    """
    if model in FREE:
        return functools.partial(map, FREE[model]), {"model": model}
    if not Path(model).exists():
        raise FileNotFoundError(
            f"--model={model}: no such workdir, and none of {', '.join(FREE)} either"
        )
    mesh = sharding.make_mesh()
    config, params, step = load_for_inference(model, mesh=mesh)
    if config.get("task", "clip") != "translation":
        raise ValueError(
            f"--model={model} is a CLIP model: expected a workdir of configs/translator.py"
        )
    runner = Translation(translator.build(config.model), mesh)
    told = {"model": str(Path(model).absolute()), "step": step}
    return functools.partial(runner.whole, params), told


def write_views(model: str, list_path: str, output: str) -> collections.Counter[str]:
    """Write the infrared views that a list asks for and that are not there.

    Returns:
      How many were "written", were "there", and how often each problem came up.

    Raises:
      FileNotFoundError: no such list or model.
      ValueError: a list of another form, a file outside of `output`, or `output` holds the views of
        another translator.
    """
    lines = read_list(list_path)
    translate, told = load_translator(model)
    _claim(output, told)
    counts = collections.Counter({"written": 0, "there": 0})
    paths: collections.deque[str] = collections.deque()  # of the views that are being made

    with (
        ThreadPoolExecutor(host.available_cores()) as pool,
        tqdm(total=len(lines), unit=" images", delay=1) as bar,
    ):

        def missing() -> Iterator[np.ndarray]:
            read = functools.partial(_read, output=output)
            for line, found in zip(lines, _map_ahead(pool, read, lines), strict=True):
                if isinstance(found, np.ndarray):
                    paths.append(files.join(output, line["ir"]))
                    yield found
                    continue
                bar.update()
                if found is None:
                    counts["there"] += 1
                else:
                    counts[str(found).split(":")[0]] += 1
                    print(f"{line['id']}: {found}", file=sys.stderr)

        views = ((paths.popleft(), view) for view in translate(missing()))
        for _ in _map_ahead(pool, _write, views):
            counts["written"] += 1
            bar.update()
    return counts


def _map_ahead(pool: Executor, function: Callable, values: Iterable) -> Iterator:
    """Do as `pool.map` does, but draw a value only while fewer than _AHEAD results wait."""
    waiting: collections.deque[Future] = collections.deque()
    for value in values:
        waiting.append(pool.submit(function, value))
        del value  # not held until the next one is there
        if len(waiting) == _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read_list(path: str) -> list[dict[str, str]]:
    """Read the lines of a translation list.

    Raises:
      FileNotFoundError: it is not there. ValueError: a line that is none, or leads elsewhere.
    """
    return list(_lines(path))


def _lines(path: str) -> Iterator[dict[str, str]]:
    for number, text in enumerate(files.read_text(path).splitlines(), start=1):
        try:
            line = json.loads(text)
            line = {name: line[name] for name in ("id", "image", "ir")}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f'{path}, line {number}: {text:.80}: expected {{"id", "image", "ir"}}'
            ) from error
        if ".." in line["ir"].split("/") or line["ir"].startswith("/"):
            raise ValueError(f"{path}, line {number}: {line['ir']!r} would lead out of --output")
        yield line


def _claim(output: str, told: dict) -> None:
    """Note in `output` what makes its views; two translators' must not be mixed."""
    path = files.join(output, MADE_BY)
    if files.exists(path):
        if (there := json.loads(files.read_text(path))) != told:
            raise ValueError(
                f"{output} holds the views of another translator, {there}: give another --output, "
                f"or remove it (this one: {told})"
            )
        return
    files.write(path, (json.dumps(told, indent=2) + "\n").encode())


def _read(line: dict[str, str], output: str) -> np.ndarray | Drop | None:
    """Return the image of a line, why there is none, or None: its view is written."""
    if files.exists(files.join(output, line["ir"])):
        return None
    try:
        return read_pixels(line["image"])
    except Drop as drop:
        return drop


def _write(made: tuple[str, np.ndarray]) -> None:
    path, view = made
    files.write(path, cv2.imencode(".png", view)[1].tobytes())


def main(argv: Sequence[str]) -> None:
    """Run the command with its arguments (without the program's name)."""
    parser = argparse.ArgumentParser(
        "python -m rsclip_jax.build.translate",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, help=f"workdir of a translator, or {', '.join(FREE)}"
    )
    parser.add_argument("--list", required=True, help="JSON lines of id, image, ir")
    parser.add_argument("--output", required=True, help="folder of the views")
    args = parser.parse_args(argv)
    host.printable_output()
    with contextlib.nullcontext() if args.model in FREE else startup.started():
        counts = write_views(args.model, args.list, args.output)
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    print(f"{args.output}: {told or 'the list is empty'}")


if __name__ == "__main__":
    with errors.one_line("translate", "goes on"):
        main(sys.argv[1:])
