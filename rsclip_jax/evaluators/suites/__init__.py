"""Named suites of benchmarks: what to run, what others have published, where to get the data.

Suites are JSON files here. `evals` are as in a config, "{data}" standing for the directory of the
data sets. `published` numbers come with their model, source and, where it is not that of
`images`, how many images they are of (null: not known, or not the same ones).
"""

import difflib
import json
from pathlib import Path
from typing import Any

from rsclip_jax.data.records import open_source
from rsclip_jax.evaluators import class_lists

_HERE = Path(__file__).parent
NESTED = ("millionaid", "rsi_cb128", "rsi_cb256")  # their class folders lie in others
NAMES = tuple(sorted(p.stem for p in _HERE.glob("*.json") if p.stem != "datasets"))


def read(name: str) -> dict[str, Any]:
    """Return a suite: "title", "note", "evals", "images" and "published".

    Raises:
      ValueError: no such suite.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"suite={name!r}: expected one of {', '.join(NAMES)}{hint}")
    suite = json.loads((_HERE / f"{name}.json").read_text(encoding="utf-8"))
    for fields in suite["evals"].values():  # as in a config
        fields.update({k: tuple(v) for k, v in fields.items() if isinstance(v, list)})
    return suite


def cut(name: str, config: Any) -> dict[str, str]:
    """Take the evaluators of a suite whose data are not there out of `config.evals`.

    Returns:
      evaluator -> what is missing, and where to get it.
    """
    data_dir = config.input.data_dir
    skipped = {}
    for key in read(name)["evals"]:
        fields = config.evals[key]
        for field in ("annotations", "images"):
            if field in fields:
                fields[field] = fields[field].replace("{data}", data_dir)
        if missing := _missing(fields, data_dir):
            skipped[key] = f"{missing}. {_where_from(key, fields, data_dir)}".rstrip()
            del config.evals[key]
    return skipped


def _missing(fields: Any, data_dir: str) -> str:
    """Return what is not there, "" if all of it is."""
    if "data" in fields:
        name = fields["data"]
        if not (Path(data_dir) / name).exists():
            return f"no data set {name!r} in {data_dir}"
        try:
            open_source(data_dir, name, fields["split"])
        except (ValueError, FileNotFoundError) as error:  # without this split, or damaged
            return str(error)
        return ""
    absent = [fields[k] for k in ("annotations", "images") if not Path(fields[k]).exists()]
    return f"no {absent[0]}" if absent else ""


def _where_from(key: str, fields: Any, data_dir: str) -> str:
    """Say where to get what is absent, "" if it is there but of no use."""
    name = fields.get("data", key)
    if (Path(data_dir) / name).exists():
        return ""
    if name in class_lists.NAMES:
        entry = class_lists.entry(name)
        get = f"{entry['title']}: {entry['get']}"
        prepare = "--format=folder --input=FOLDER_OF_CLASS_FOLDERS"
        if name in NESTED:
            prepare += " --class_folder=last"
    else:
        known = json.loads((_HERE / "datasets.json").read_text(encoding="utf-8"))
        if name not in known:
            return ""
        get, prepare = known[name]["get"].replace("{data}", data_dir), known[name].get("prepare")
    if not prepare:
        return f"Get {get}"
    command = f"python -m rsclip_jax.prepare {prepare} --output={data_dir} --name={name}"
    return f"Get {get}; then: {command}"
