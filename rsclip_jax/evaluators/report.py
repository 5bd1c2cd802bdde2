"""How evaluation results are shown: in a terminal, as Markdown, as a page with pictures."""

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMN = re.compile(r"(i2t_R@\d+|t2i_R@\d+|mean_recall)$")
_FRACTIONS = ("Rsu", "Ras", "Rda", "Rmi")  # from 0 to 1; everything else is in percent


def table(metrics: Mapping[str, float]) -> str:
    """Lay metrics out with a row for each prefix ("long_multi_") and a column for what follows."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        match = _COLUMN.search(name)
        column = match[0] if match else name
        rows.setdefault(name.removesuffix(column).rstrip("_"), {})[column] = value
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    widths = [max(12, len(column) + 2) for column in columns]
    pairs = list(zip(columns, widths, strict=True))
    lines = [" " * 12 + "".join(f"{column:>{width}}" for column, width in pairs)]
    for prefix, row in rows.items():
        cells = (f"{row[c]:{width}.2f}" if c in row else " " * width for c, width in pairs)
        lines.append(f"  {prefix:10}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def markdown(results: Mapping[str, Any]) -> str:
    """Write results (see `rsclip_jax.evaluate`) as a Markdown page."""
    lines: list[str] = []
    for part in _parts(results):
        if part["kind"] == "table":
            widths = [max(len(row[k]) for row in part["rows"]) for k in range(len(part["rows"][0]))]
            head, *body = (
                "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
                for row in part["rows"]
            )
            dashes = ["-" * (w - 1) + ("-" if k == 0 else ":") for k, w in enumerate(widths)]
            lines += [head, "| " + " | ".join(dashes) + " |", *body, ""]
        elif part["kind"] == "list":
            lines += [*(f"- {item}" for item in part["items"]), ""]
        elif part["kind"] != "picture":
            mark = {"title": "# ", "section": "## ", "text": ""}[part["kind"]]
            lines += [mark + part["text"], ""]
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
    return _PAGE.replace("{title}", title).replace("{body}", "\n".join(body))


def _parts(
    results: Mapping[str, Any], pictures: Mapping[str, Path] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the parts of a report in order: title, section, text, list, table, picture."""
    details = results["details"]
    suite = results.get("suite")
    yield {"kind": "title", "text": f"Evaluation of {Path(results['model']).name}"}
    yield {
        "kind": "text",
        "text": f"{results['description']}, step {results['step']:,}; {results['date']}. "
        f"{results['model']}",
    }
    if suite:
        yield {"kind": "text", "text": f"{suite['title']}. {suite['note']}"}
        rows = _beside(results)
        if rows:
            yield {"kind": "section", "text": "Beside published numbers"}
            yield {"kind": "table", "rows": rows}
            yield {"kind": "list", "items": [*_others(results), *_sources(suite["published"])]}
    for name in results["evals"]:
        own = {
            key.split("/", 1)[1]: value
            for key, value in results["metrics"].items()
            if key.split("/", 1)[0] == name
        }
        said = details.get(name, {})
        yield {"kind": "section", "text": name}
        if lines := [*said.get("data", []), *said.get("protocol", [])]:
            yield {"kind": "list", "items": lines}
        yield {"kind": "table", "rows": _metrics(own, said)}
        if "confusion" in said:
            yield {"kind": "text", "text": _confused(said["class_names"], said["confusion"])}
        if pictures and name in pictures:
            yield {"kind": "picture", "path": pictures[name], "text": f"{name}: examples"}
    if suite and suite["skipped"]:
        yield {"kind": "section", "text": "Skipped"}
        yield {
            "kind": "list",
            "items": [f"{name}: {why}" for name, why in suite["skipped"].items()],
        }


def _beside(results: Mapping[str, Any]) -> list[list[str]]:
    """Make the table of published metrics: ours in the second column."""
    published = results["suite"]["published"]
    names = dict.fromkeys(key for model in published for key in model["numbers"])
    rows = [["", "this model", *(model["model"] for model in published)]]
    for key in names:
        if key in results["metrics"]:
            values = [results["metrics"][key], *(m["numbers"].get(key) for m in published)]
            name = key.replace("/", " ") + " *" * bool(_other(results, key.split("/")[0]))
            rows.append([name, *(_number(key, v) for v in values)])
    return rows if len(rows) > 1 else []


def _other(results: Mapping[str, Any], name: str) -> str:
    """Say how this evaluator's data differ in size from those of the published numbers."""
    here = results["details"].get(name, {}).get("size")
    there = results["suite"]["sizes"].get(name)
    if here is None or there is None or here == there:
        return ""
    return f"* not comparable: {name} has {here:,} here, {there:,} in the published numbers"


def _others(results: Mapping[str, Any]) -> list[str]:
    return [line for name in results["evals"] if (line := _other(results, name))]


def _sources(published: Sequence[Mapping[str, Any]]) -> list[str]:
    models: dict[str, list[str]] = {}
    for entry in published:
        models.setdefault(entry["source"], []).append(entry["model"])
    return [f"{'; '.join(names)}: {source}" for source, names in models.items()]


def _metrics(metrics: Mapping[str, float], said: Mapping[str, Any]) -> list[list[str]]:
    intervals, oracle = said.get("intervals", {}), said.get("oracle", {})
    rows = [["", "value"] + ["95 % interval"] * bool(intervals) + ["best possible"] * bool(oracle)]
    for name, value in metrics.items():
        row = [name, _number(name, value)]
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


def _linked(text: str) -> str:
    return re.sub(r"(https?://[^\s,;]+)", r'<a href="\1">\1</a>', html.escape(text))


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
