"""How evaluation results are shown: in a terminal, as Markdown, as a page with pictures."""

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsclip_jax.evaluators import suites

_COLUMN = re.compile(
    r"((i2t|t2i|ir2t|t2ir|rgb2ir|ir2rgb|rgb2t|t2rgb|fused2t|t2fused)_)?(R@\d+|mean)$|mean_recall$"
)
_FRACTIONS = ("Rsu", "Ras", "Rda", "Rmi")  # from 0 to 1; everything else is in percent


def table(metrics: Mapping[str, float], protocol: str) -> str:
    """Lay metrics out with a row for each prefix ("long_multi_") and a column for what follows.

    Rows whose prefix names no protocol name the given one: the evaluator's (`Evaluator.protocol`).
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        place, column = _place(name, protocol)
        rows.setdefault(place, {})[column] = value
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    widths = [max(10, len(column) + 2) for column in columns]
    pairs = list(zip(columns, widths, strict=True))
    left = max(12, *(len(prefix) + 4 for prefix in rows))
    lines = [" " * left + "".join(f"{column:>{width}}" for column, width in pairs)]
    for prefix, row in rows.items():
        cells = (f"{_number(c, row.get(c)):>{width}}" for c, width in pairs)
        lines.append(f"  {prefix:{left - 2}}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _place(name: str, protocol: str) -> tuple[str, str]:
    """Return the row and the column of a metric."""
    match = _COLUMN.search(name)
    column = match[0] if match else name
    return _with_protocol(name.removesuffix(column).rstrip("_"), protocol), column


def _with_protocol(row: str, protocol: str) -> str:
    words = row.split("_") if row else []
    if set(words) - {"long", "worst"}:
        return row
    words.insert(len(words) - words.count("worst"), protocol)
    return "_".join(words)


def markdown(results: Mapping[str, Any]) -> str:
    """Write results (see `rsclip_jax.evaluate`) as a Markdown page."""
    lines: list[str] = []
    for part in _parts(results):
        if part["kind"] == "table":
            widths = [max(len(row[k]) for row in part["rows"]) for k in range(len(part["rows"][0]))]
            head, *body = (
                "| "
                + " | ".join(_plain(c).ljust(w) for c, w in zip(row, widths, strict=True))
                + " |"
                for row in part["rows"]
            )
            dashes = ["-" * (w - 1) + ("-" if k == 0 else ":") for k, w in enumerate(widths)]
            lines += [head, "| " + " | ".join(dashes) + " |", *body, ""]
        elif part["kind"] == "list":
            lines += [*(f"- {_plain(item)}" for item in part["items"]), ""]
        elif part["kind"] != "picture":
            mark = {"title": "# ", "section": "## ", "text": ""}[part["kind"]]
            lines += [mark + _plain(part["text"]), ""]
    return "\n".join(lines)


def page(results: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """Write results and the pictures of their evaluators as one HTML file that needs no other."""
    body = []
    for part in _parts(results, pictures):
        if part["kind"] == "table":
            head, *rows = (
                [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row]
                for tag, row in zip(["th"] + ["td"] * len(part["rows"]), part["rows"], strict=False)
            )
            lines = "\n".join(f"<tr>{''.join(row)}</tr>" for row in [head, *rows])
            body.append(f"<div class=wide><table>\n{lines}\n</table></div>")
        elif part["kind"] == "list":
            items = "".join(f"<li>{_linked(item)}</li>" for item in part["items"])
            body.append(f"<ul>{items}</ul>")
        elif part["kind"] == "picture":
            data = base64.b64encode(Path(part["path"]).read_bytes()).decode()
            alt = html.escape(part["text"])
            body.append(f'<img alt="{alt}" src="data:image/png;base64,{data}">')
        else:
            tag = {"title": "h1", "section": "h2", "text": "p"}[part["kind"]]
            body.append(f"<{tag}>{_linked(part['text'])}</{tag}>")
    title = html.escape(f"Evaluation of {results['model']}")
    before, after = _PAGE.split("{body}")
    return before.replace("{title}", title) + "\n".join(body) + after


def _parts(
    results: Mapping[str, Any], pictures: Mapping[str, Path] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the parts of a report in order: title, section, text, list, table, picture."""
    details = results["details"]
    yield {"kind": "title", "text": f"Evaluation of {Path(results['model']).name}"}
    yield {
        "kind": "text",
        "text": f"{results['description']}, step {results['step']:,}; {results['date']}. "
        f"{results['model']}",
    }
    if results["suite"]:
        suite = suites.read(results["suite"])
        yield {"kind": "text", "text": f"{suite['title']}. {suite['note']}"}
        rows, notes = _beside(results, suite)
        if len(rows) > 1:
            yield {"kind": "section", "text": "Beside published numbers"}
            yield {"kind": "table", "rows": rows}
            yield {"kind": "list", "items": [*notes, *_sources(suite["published"])]}
    for name in results["evals"]:
        own = {
            key.split("/", 1)[1]: value
            for key, value in results["metrics"].items()
            if key.split("/", 1)[0] == name
        }
        said = details.get(name, {})
        fields = results["evals"][name]
        of = f" ({fields['data']}/{fields['split']})" if {"data", "split"} <= set(fields) else ""
        yield {"kind": "section", "text": f"{name}{of}"}
        if name not in details:
            failed = name in results["failed"]
            yield {"kind": "text", "text": "Failed, see below." if failed else "Not finished."}
            continue
        if lines := said.get("about"):
            yield {"kind": "list", "items": lines}
        yield {"kind": "table", "rows": _metrics(own, said)}
        if "confusion" in said:
            yield {"kind": "text", "text": _confused(said["class_names"], said["confusion"])}
        if pictures and name in pictures:
            yield {"kind": "picture", "path": pictures[name], "text": f"{name}: examples"}
    for title, said in (("Failed", results["failed"]), ("Skipped", results["skipped"])):
        if said:
            yield {"kind": "section", "text": title}
            yield {"kind": "list", "items": [f"{name}: {why}" for name, why in said.items()]}


def _beside(
    results: Mapping[str, Any], suite: Mapping[str, Any]
) -> tuple[list[list[str]], list[str]]:
    """Make the table of published metrics, ours in the second column, and the notes below it.

    A published number is starred where it is of other images, or made with other settings.
    """
    published = suite["published"]
    rows = [["", "this model", *(model["model"] for model in published)]]
    notes: dict[str, dict[str, None]] = {}  # why -> whose numbers
    for key in dict.fromkeys(key for model in published for key in model["numbers"]):
        if key not in results["metrics"]:
            continue
        row = [key.replace("/", " "), _number(key, results["metrics"][key])]
        for model in published:
            number = _number(key, model["numbers"].get(key))
            other = _other(key.split("/")[0], results, suite, model) if number else ""
            if other:
                notes.setdefault(other, {})[model["model"]] = None
            row.append(f"{number} (*)" if other else number)
        rows.append(row)
    return rows, [f"(*) {why} ({'; '.join(models)})" for why, models in notes.items()]


def _other(
    name: str, results: Mapping[str, Any], suite: Mapping[str, Any], model: Mapping[str, Any]
) -> str:
    """Say why a model's published numbers cannot be compared with ours, "" if they can."""
    asked, run = suite["evals"][name], results["evals"][name]
    changed = [
        f"{field}={run[field]!r}"
        for field in asked
        if field not in ("annotations", "images") and run[field] != asked[field]
    ]
    if changed:
        return f"{name} was run with {', '.join(changed)}"
    here = results["details"].get(name, {}).get("size")
    there = model.get("images", {}).get(name, suite["images"].get(name))
    if there is None:
        return f"{name}: of which images the published number is, is not known"
    if here != there:
        return f"{name} has {here:,} here, {there:,} in the published number"
    return ""


def _sources(published: Sequence[Mapping[str, Any]]) -> list[str]:
    models: dict[str, list[str]] = {}
    for entry in published:
        models.setdefault(entry["source"], []).append(entry["model"])
    return [f"{'; '.join(names)}: {source}" for source, names in models.items()]


def _metrics(metrics: Mapping[str, float], said: Mapping[str, Any]) -> list[list[str]]:
    intervals, oracle = said.get("intervals", {}), said.get("oracle", {})
    rows = [["", "value"] + ["95 % interval"] * bool(intervals) + ["best possible"] * bool(oracle)]
    for name, value in metrics.items():
        label = " ".join(_place(name, said.get("protocol", ""))).strip()
        row = [label, _number(name, value)]
        if intervals:
            ends = intervals.get(name)
            row.append(" to ".join(_number(name, end) for end in ends) if ends else "")
        if oracle:
            row.append(_number(name, oracle.get(name)))
        rows.append(row)
    return rows


def _confused(names: Sequence[str], confusion: Sequence[Sequence[int]], most: int = 5) -> str:
    """Name the pairs of classes that are taken for each other most often."""
    pairs = sorted(
        (
            (-confusion[i][j] / sum(confusion[i]), names[i], names[j])
            for i in range(len(names))
            for j in range(len(names))
            if i != j and confusion[i][j]
        ),
    )[:most]
    if not pairs:
        return "No class is taken for another."
    listed = "; ".join(f"{a} for {b} ({-100 * share:.0f} %)" for share, a, b in pairs)
    return f"Taken for another class most often: {listed}."


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.{4 if name.endswith(_FRACTIONS) else 2}f}"


def _plain(text: str) -> str:
    """Keep Markdown from taking anything for its own."""
    return re.sub(r"([*<>|`])", r"\\\1", text)


def _linked(text: str) -> str:
    parts = re.split(r"(https?://[^\s,;]*[^\s,;.)])", text)
    return "".join(
        f'<a href="{html.escape(part)}">{html.escape(part)}</a>' if k % 2 else html.escape(part)
        for k, part in enumerate(parts)
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body { max-width: 1180px; margin: 3em auto; padding: 0 1.5em; color: #1c2733; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.8em; margin-bottom: .2em; }
h2 { margin-top: 2.4em; border-top: 1px solid #d5dbe1; padding-top: 1em; font-size: 1.3em; }
p, ul { max-width: 52em; overflow-wrap: anywhere; }
ul { padding-left: 1.2em; color: #4a5764; font-size: .93em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .9em; text-align: right; border-bottom: 1px solid #e4e8ec; }
th { vertical-align: bottom; font-weight: 600; }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
td:nth-child(2) { font-weight: 600; white-space: nowrap; }
img { max-width: 100%; border: 1px solid #d5dbe1; border-radius: 6px; margin-top: 1em; }
</style>
</head>
<body>
{body}
</body>
</html>
"""
