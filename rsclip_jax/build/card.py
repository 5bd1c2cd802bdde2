"""The data card: what a data set holds, where it comes from and how it was made, in card.md."""

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rsclip_jax.build.answer_store import Usage
from rsclip_jax.build.stages import Stage, Table, markdown_table, stage_table
from rsclip_jax.data.summary import CONTEXT_LENGTHS, KINDS, Summary

_PACKAGES = ("rsclip_jax", "apache-beam", "numpy", "scipy", "pillow", "pyarrow", "faiss-cpu")


def make_card(
    name: str,
    stages: Sequence[Stage],
    tables: Sequence[Table],
    summaries: Mapping[str, Summary],
    licences: Mapping[str, str],
    settings: Mapping[str, Any],
    captioning: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather the card.

    Args:
      summaries: of what was written, by source, and of all under "".
      licences: source -> what the config tells.
      settings: the whole config.
      captioning: `captioning.count_provenance` of the rows, and under "paid" `endpoint.costs`;
        None: no model was asked.
    """
    counts = [
        {
            "stage": stage.name,
            "rows": table.rows,
            "dropped": table.dropped,
            "seconds": table.seconds,
            "fingerprint": table.fingerprint,
        }
        for stage, table in zip(stages, tables, strict=True)
    ]
    return {
        "name": name,
        "licences": {source: licence or "not stated" for source, licence in licences.items()},
        "stages": counts,
        "stage_table": stage_table(stages, tables),
        "captioning": dict(captioning) if captioning else None,
        "all": summaries[""].as_dict(),
        "sources": {s: summary.as_dict() for s, summary in sorted(summaries.items()) if s},
        "without_captions": {
            source: bare
            for source, summary in sorted(summaries.items())
            if source and (bare := summary.texts_per_image["captions"].count(0))
        },
        "settings": dict(settings),
        "versions": {"python": sys.version.split()[0]}
        | {package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def card_files(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the card as file name -> text: for machines, and for people."""
    return {
        "card.json": json.dumps(card, indent=1, ensure_ascii=False) + "\n",
        "card.md": markdown(card),
    }


def markdown(card: Mapping[str, Any]) -> str:
    """Write the card for people."""
    everything = card["all"]
    splits = everything["records"]
    sources: dict[str, dict[str, Any]] = card["sources"]
    total = sum(splits.values())
    records = [
        [source, *(f"{numbers['records'].get(split, 0):,}" for split in splits)]
        + [f"{sum(numbers['records'].values()):,}"]
        for source, numbers in sources.items()
    ]
    records.append(["total", *(f"{count:,}" for count in splits.values()), f"{total:,}"])
    dropped = [
        [f"{stage['stage']}: {reason}", f"{count:,}"]
        for stage in card["stages"]
        for reason, count in sorted(_sum(stage["dropped"]).items())
    ]
    written = []
    if card["captioning"]:
        written = ["## Captions by a model", captioning_text(card["captioning"])]
    parts = [
        f"# {card['name']}",
        f"{total:,} records, {everything['image_bytes'] / 2**30:,.2f} GiB of images. Built by "
        f"rsclip_jax {card['versions']['rsclip_jax']}.",
        "## Records",
        markdown_table(["source", *splits, "total"], records),
        "## Stages",
        card["stage_table"],
        markdown_table(["dropped", "rows"], dropped) if dropped else "No row was dropped.",
        *written,
        "## Texts",
        _texts({**sources, "total": everything}),
        *_without(card["without_captions"]),
        "Lengths are in tokens of CLIP, start and end marks included; its context is 77, "
        "Long-CLIP's 248.",
        "## Images",
        _sizes({**sources, "total": everything}),
        *_odd(sources),
        "## Licences",
        "\n".join(f"- {source}: {licence}" for source, licence in card["licences"].items()),
        "## Settings",
        f"```json\n{json.dumps(card['settings'], indent=1, ensure_ascii=False)}\n```",
        "## Versions",
        ", ".join(f"{package} {version}" for package, version in card["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def captioning_text(captioning: Mapping[str, Any]) -> str:
    """List what a model wrote, why captions of rows that remain were not taken, and the costs."""
    paid = captioning["paid"]
    lines = [f"{count:,} {what}" for what, count in captioning["captions"].items()]
    lines += [f"{count:,} not taken, {why}" for why, count in captioning["problems"].items()]
    lines.append(
        f"paid to {paid['model']}, all runs: {paid['answers']:,} answers, "
        f"{paid['prompt_tokens']:,} prompt tokens, {paid['completion_tokens']:,} completion "
        f"tokens, cost {paid['cost']:,.2f}; {paid['unanswered']:,} requests sent that brought no "
        "answer"
    )
    lines += [
        f"asked of {name} in the same store, not priced: {Usage(**other).line()}"
        for name, other in paid["others"].items()
    ]
    return "\n".join(f"- {line}" for line in lines)


def _sum(dropped: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    reasons = {reason for of in dropped.values() for reason in of}
    return {reason: sum(of.get(reason, 0) for of in dropped.values()) for reason in reasons}


def _texts(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    above = [f"above {limit}" for limit in CONTEXT_LENGTHS]
    header = ["source, kind", "texts", "per record", "mean", "p95", "max", *above]
    lines = []
    for source, of in numbers.items():
        for field, tokens in of["clip_tokens"].items():
            lines.append(
                [
                    f"{source}, {KINDS[field]}",
                    f"{tokens['texts']:,}",
                    f"{of['texts_per_image'][field]['mean']:.1f}",
                    f"{tokens['mean']:.1f}",
                    f"{tokens['p95']}",
                    f"{tokens['max']}",
                    *(f"{tokens[f'share_above_{limit}']:.1%}" for limit in CONTEXT_LENGTHS),
                ]
            )
    return markdown_table(header, lines) if lines else "There are no captions."


def _without(counts: Mapping[str, int]) -> list[str]:
    of = ", ".join(f"{source} {count:,}" for source, count in counts.items())
    return [f"{sum(counts.values()):,} records have no short caption: {of}."] if counts else []


def _sizes(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    header = ["source", *(f"{side} {of}" for side in ("width", "height") for of in _RANGE)]
    lines = [
        [source, *(f"{of[f'image_{side}'][k]:,}" for side in ("width", "height") for k in _RANGE)]
        for source, of in numbers.items()
    ]
    return markdown_table(header, lines)


def _odd(numbers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    counts = [
        f"- {source}: {count:,} {what}"
        for source, of in numbers.items()
        for what, count in of.get("odd_images", {}).items()
    ]
    return ["Images to look at, kept:", "\n".join(counts)] if counts else []


_RANGE = ("min", "median", "max")
