"""What the papers' configs need of GPUs that are not there: memory, kernels, collectives, FLOPs.

    python -m benchmarks.gpu_table [--rows=papers,models] [--cards=h100:1,h100:8] [--table=TABLE]

Compiles every row (rsclip_jax.aot; needs the CUDA packages and no GPU) and writes it to TABLE.jsonl
and, as a table, to TABLE.md. The same command goes on after any stop: rows of TABLE.jsonl are not
compiled again, but for those that failed. Ends with code 1 if a row failed.

papers are the configs with each word that changes shapes, at their own batch; models the four sizes
of CLIP, at the papers' batches and at the greatest that fits with everything recomputed. Batches
are rounded down to a multiple of the number of GPUs. Where a config leaves open what is recomputed
and in how many parts, the choice is the trainer's.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from rsclip_jax import aot, topologies

PAPERS = ["lrsclip:B/16", "lrsclip:L/14", "lrsclip:B/16,longclip", "georsclip:", "georsclip:B/16",
          "georsclip:L/14", "georsclip:H/14", "georsclip:freeze_image", "georsclip:freeze_text",
          "georsclip:lora", "georsclip:pfeiffer", "georsclip:prefix", "georsclip:unipelt",
          "georsclip:ret2", "fusionrs:", "fusionrs:dual_text", "fusionrs:rgb_text",
          "fusionrs:ir_text", "fusionrs:mixed", "fusionrs:L/14", "unified:", "unified:full",
          "unified:pfeiffer", "unified:prefix", "unified:unipelt", "unified:L/14", "unified:H/14",
          "translator:pix2pix", "translator:bridge"]  # fmt: skip
MODELS = ["georsclip:", "lrsclip:B/16", "lrsclip:L/14", "georsclip:H/14"]  # B/32, B/16, L/14, H/14
CARDS = {"papers": ["h100:1", "h100:8"], "models": ["h100:1", "h100:8", "a100-80:1"]}
TITLES = ["config", "GPUs", "batch", "recomputed", "parts", "GiB: state + batch + temporary",
          "of", "fused attention: forward, backward", "MiB: all-reduce, all-gather, others",
          "TFLOP: products, model", "s"]  # fmt: skip

_ROWS = flags.DEFINE_list("rows", list(CARDS), "papers, models or both.")
_CARDS = flags.DEFINE_list("cards", None, "GPUs, as for rsclip_jax.aot; unless given, by rows.")
_TABLE = flags.DEFINE_string("table", "gpu_table", "Name of the files without its ending.")
_FINISH = flags.DEFINE_boolean("finish", False, "Generate machine code as well.")


class Row(NamedTuple):
    """What is compiled: "NAME:WORDS" of configs/NAME.py, at its own batch or the greatest."""

    config: str
    topology: str
    greatest: bool


def main(argv: list[str]) -> None:
    """Compile what is missing."""
    store = Path(f"{_TABLE.value}.jsonl")
    lines = store.read_text(encoding="utf-8").splitlines() if store.exists() else []
    known = {Row(*line["row"]): line for line in map(json.loads, lines) if "error" not in line}
    failed = 0
    for row in (rows := list(dict.fromkeys(listed(_ROWS.value, _CARDS.value)))):
        if row not in known:
            print(f"{row.config} on {row.topology}{', greatest batch' * row.greatest}", flush=True)
            known[row] = {"row": row, **compiled(row, _FINISH.value)}
            with store.open("a", encoding="utf-8") as file:
                print(json.dumps(known[row]), file=file)
        failed += "error" in known[row]
        Path(f"{_TABLE.value}.md").write_text(
            table([known[r] for r in rows if r in known]), encoding="utf-8"
        )
    if failed:
        sys.exit(f"{failed} of {len(rows)} rows failed, see {_TABLE.value}.md")


def listed(groups: list[str], cards: list[str] | None) -> Iterator[Row]:
    """Yield the rows of the groups.

    Raises:
      ValueError: an unknown group.
    """
    for group in groups:
        if group not in CARDS:
            raise ValueError(f"--rows={group}: expected some of {', '.join(CARDS)}")
        for topology in cards or CARDS[group]:
            for config in PAPERS if group == "papers" else MODELS:
                yield Row(config, topology, False)
                if group == "models":
                    yield Row(config, topology, True)


def compiled(row: Row, finish: bool) -> dict[str, Any]:
    """Compile a row, and return what it needs, or an error."""
    name, _, words = row.config.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(words)
    config.init_from = "pretrained"  # frozen towers want one; nothing is read
    try:
        devices = len(topologies.describe(row.topology).devices)
        config.input.batch_size -= config.input.batch_size % devices
        if row.greatest:
            config.model.remat, config.grad_cache_steps = "full", 1
        config, needs = aot.settle(config, row.topology)
        needs = needs or aot.report(config, row.topology)
        if row.greatest:
            needs = aot.fitting(config, row.topology, needs)
        if finish:
            needs = aot.report(config, row.topology, finish)
    except ValueError as error:
        print(f"failed: {error}", flush=True)
        return {"error": str(error).partition("\n")[0]}
    settings = {
        "batch_size": config.input.batch_size,
        "remat": config.model.get("remat", "none"),
        "parts": config.grad_cache_steps,
    }
    short = {} if needs.fits else {"error": "does not fit"}
    return settings | needs._asdict() | {"temporary": needs.temporary} | short


def table(lines: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    cells = [TITLES, ["---"] * len(TITLES)]
    cells += [_cells(line) for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cells(line: dict[str, Any]) -> list[str]:
    config, topology, greatest = line["row"]
    named = f"`{config}`{', greatest' * greatest}"
    if "batch_size" not in line:
        return [named, topology, line["error"], *[""] * (len(TITLES) - 3)]
    memory = " + ".join(f"{line[x] / aot.GIB:.1f}" for x in ("state", "batch", "temporary"))
    room = f"{line['available'] / aot.GIB:.1f}{' (does not fit)' * ('error' in line)}"
    sizes = {kind: size / 2**20 for kind, (_, size) in line["collectives"].items()}
    kinds = [sizes.pop("all-reduce", 0), sizes.pop("all-gather", 0), sum(sizes.values())]
    forward, backward, fused = line["attention"]
    flops = [line["products"] + fused, line["model_flops"]]
    return [
        named,
        topology,
        f"{line['batch_size']:,}",
        line["remat"],
        str(line["parts"]),
        memory,
        room,
        f"{forward}, {backward}",
        ", ".join(f"{size:,.0f}" for size in kinds),
        ", ".join(f"{x / 1e12:,.1f}" for x in flops),
        f"{line['seconds']:.0f}",
    ]


if __name__ == "__main__":
    app.run(main)
