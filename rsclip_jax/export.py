"""Write the embeddings of a data set to Parquet shards.

    python -m rsclip_jax.export --model=WORKDIR --dataset=NAME --output=DIR

The same command again continues what was interrupted. `rsclip_jax.embeddings` describes the files.
On several hosts (`srun`, `mpirun`, or the flags of rsclip_jax.main) each writes shards of its own.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from rsclip_jax import distributed, errors, sharding, startup
from rsclip_jax.data.records import open_source
from rsclip_jax.embeddings import DTYPES, export_embeddings
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.examples import LOOKED_AT
from rsclip_jax.host import check_paths
from rsclip_jax.models import clip
from rsclip_jax.training.checkpoint import load_for_inference


def main(argv: Sequence[str]) -> None:
    """Run the command with its arguments (without the program's name)."""
    parser = argparse.ArgumentParser(
        "python -m rsclip_jax.export", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help="workdir of a run, or weights (see rsclip_jax.convert)"
    )
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    parser.add_argument("--dataset", required=True, help="name of a prepared data set")
    parser.add_argument("--data_dir", help="where it lies (default: as in training)")
    parser.add_argument("--split", default="", help="comma-separated (default: all)")
    parser.add_argument("--output", required=True, help="directory, for this export alone")
    parser.add_argument(
        "--modalities",
        default="",
        help="comma-separated: image, ir, text, text_long, text_ir (default: image and the text "
        "fields the model was trained with)",
    )
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--shard_size", type=int, default=8192, help="records of a shard")
    parser.add_argument("--batch_size", type=int, default=256, help="records at a time, a process")
    parser.add_argument("--overwrite", action="store_true", help="replace another export")
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    check_paths(args, "model", "data_dir")
    with startup.started(args, again="goes on with the shards that are missing"):
        _export(args)


def _export(args: argparse.Namespace) -> None:
    mesh = sharding.make_mesh()
    config, params, step = load_for_inference(
        args.model, args.step, mesh, clip_for="rsclip_jax.export"
    )
    if args.data_dir:
        config.input.data_dir = args.data_dir
    card = export_embeddings(
        Encoder(clip.build(config.model), mesh, args.batch_size),
        params,
        config,
        model=args.model,
        step=step,
        dataset=args.dataset,
        output=args.output,
        splits=_names(args.split),
        modalities=_names(args.modalities),
        dtype=args.dtype,
        shard_size=args.shard_size,
        overwrite=args.overwrite,
    )
    if jax.process_index() != 0:
        return
    for split, rows in card["rows"].items():
        counts = ", ".join(f"{count:,} {modality}" for modality, count in rows.items())
        print(f"{split}: {counts}")
    if "ir" not in card["made_with"]["modalities"] and _has_infrared(config, card):
        modalities = ",".join((*card["made_with"]["modalities"], "ir"))
        print(f"infrared images were left out: --modalities={modalities} --overwrite embeds them")
    print(f"{len(card['shards'])} shards and card.json of step {step} in {args.output}")


def _has_infrared(config: ConfigDict, card: dict[str, Any]) -> bool:
    """Tell whether one of the first records of a split that was exported has an infrared image."""
    name = card["made_with"]["dataset"]
    sources = (open_source(config.input.data_dir, name, split) for split in card["records"])
    return any(record["ir"] for source in sources for record in itertools.islice(source, LOOKED_AT))


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


if __name__ == "__main__":
    with errors.one_line("export", "continues"):
        main(sys.argv[1:])
