"""Named suites of benchmarks: what to run, what others have published, where to get the data.

Suites are JSON files here: `evals` as in a config, `published` numbers with their sources.
"""

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any

from rsclip_jax.data.records import open_source
from rsclip_jax.evaluators import class_lists

_HERE = Path(__file__).parent
NAMES = tuple(sorted(p.stem for p in _HERE.glob("*.json") if p.stem != "datasets"))


@dataclasses.dataclass
class Suite:
    """A suite, cut to the data sets that are there.

    Attributes:
      title, note: what it follows, and what to know when comparing.
      evals: evaluators by name, as `config.evals`.
      skipped: evaluators without data, and where to get it.
      sizes: how many images (captions, for AIR-SLT) the published numbers are of, where known.
      published: {"model", "source", "numbers": {"EVALUATOR/METRIC": value}} of other models.
    """

    title: str
    note: str
    evals: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    sizes: dict[str, int]
    published: list[dict[str, Any]]


def read(name: str) -> dict[str, Any]:
    """Return a suite as its file has it.

    Raises:
      ValueError: no such suite.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"suite={name!r}: expected one of {', '.join(NAMES)}{hint}")
    suite = json.loads((_HERE / f"{name}.json").read_text())
    for fields in suite["evals"].values():  # as in a config
        fields.update({k: tuple(v) for k, v in fields.items() if isinstance(v, list)})
    return suite


def load(name: str, data_dir: str) -> Suite:
    """Read a suite and see which of its data sets are prepared in `data_dir`.

    Raises:
      ValueError: no such suite.
    """
    suite = read(name)
    evals, skipped = {}, {}
    for key, fields in suite["evals"].items():
        for field in ("annotations", "images"):
            if field in fields:
                fields[field] = str(Path(data_dir, fields[field]))
        if missing := _missing(fields, data_dir):
            skipped[key] = f"{missing}. {_where_from(key, fields, data_dir)}"
        else:
            evals[key] = fields
    return Suite(suite["title"], suite["note"], evals, skipped, suite["sizes"], suite["published"])


def _missing(fields: dict[str, Any], data_dir: str) -> str:
    """Return what is not there, "" if all of it is."""
    if "data" in fields:
        try:
            open_source(data_dir, fields["data"], fields["split"])
        except FileNotFoundError:
            return f"no data set {fields['data']!r} in {data_dir}"
        except ValueError as error:  # prepared without this split, or damaged: the user will tell
            return str(error)
        return ""
    absent = [
        fields[field] for field in ("annotations", "images") if not Path(fields[field]).exists()
    ]
    return f"no {absent[0]}" if absent else ""


def _where_from(name: str, fields: dict[str, Any], data_dir: str) -> str:
    data = fields.get("data", name)
    if data in class_lists.NAMES:
        entry = class_lists.entry(data)
        get = f"{entry['title']}: {entry['get']}"
        prepare = f"--format=folder --input={entry['title'].replace(' ', '')}"
    else:
        entry = json.loads((_HERE / "datasets.json").read_text())[data]
        get, prepare = entry["get"], entry.get("prepare", "")
    line = f"Get {get.replace('DATA', data_dir)}"
    if prepare:
        command = f"python -m rsclip_jax.prepare {prepare} --output={data_dir} --name={data}"
        line += f"; then: {command}"
    return line
