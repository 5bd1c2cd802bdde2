"""Build RS5M, or a data set like it, from fetched web pairs and labelled images.

    python -m rsclip_jax.build.rs5m --config=configs/build/rs5m.py --workdir=runs/rs5m

After section III of the paper (arXiv 2306.11300): keywords, images, invalid ones, one row of a URL,
one image of near-duplicates, scores of CLIP and of a detector; a share of each source is held out.
The same command run again does what is missing. Where rows have a URL and no image, it stops after
the keyword filter with a list for img2dataset, and goes on with --config.fetched=DIRECTORY.
"""

import collections

from ml_collections import ConfigDict

from rsclip_jax.build import files
from rsclip_jax.build.caption_rank import rank_stage
from rsclip_jax.build.command import check_output, finish, inputs_of, run_command
from rsclip_jax.build.duplicates import EmbeddingDuplicates, HashDuplicates
from rsclip_jax.build.embed import Embed
from rsclip_jax.build.fetched import fetched_stage, write_url_list
from rsclip_jax.build.geometa import geometa_stage
from rsclip_jax.build.image_checks import CheckImages
from rsclip_jax.build.ingest import ingest_stage
from rsclip_jax.build.keywords import Keywords
from rsclip_jax.build.models import model_state
from rsclip_jax.build.places import places_stage
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.scores import score_stages
from rsclip_jax.build.split import ShareSplit
from rsclip_jax.build.stages import DROPPED, Stage, Table, run
from rsclip_jax.build.urls import UrlDuplicates


def stages_of(config: ConfigDict) -> list[Stage]:
    """Return the stages in the order of the paper's table."""
    inputs = inputs_of(config)
    names = [given.name for given in inputs]
    keywords = [name for name in names if config.sources[name].keywords]
    filtered = [name for name in names if config.sources[name].filters]
    priority = {key: list(config.priority[key]) for key in ("first", "last")}
    stages = [
        ingest_stage(inputs),
        Stage("keywords", Keywords(keywords), column="after keywords"),
        fetched_stage(config.fetched),
        Stage("invalid", CheckImages(config.max_pixels), column="invalid", shows=DROPPED),
        Stage(
            "urls",
            UrlDuplicates(priority, filtered),
            "decisions",
            column="dup removed",
            shows=DROPPED,
        ),
        Stage(
            "hashes",
            HashDuplicates(config.duplicates.radius, priority, filtered),
            "decisions",
            column="dup removed",
            shows=DROPPED,
        ),
    ]
    if config.duplicates.model:
        neighbours = EmbeddingDuplicates(
            config.duplicates.threshold,
            priority,
            filtered,
            config.duplicates.neighbours,
            config.duplicates.cells,
            config.duplicates.probes,
        )
        stages += [
            Stage(
                "embeddings",
                Embed(config.duplicates.model, filtered),
                settings={"model": model_state(config.duplicates.model)},
            ),
            Stage("neighbours", neighbours, "decisions", column="dup removed", shows=DROPPED),
        ]
    if config.scores.model:
        stages += score_stages(sources=filtered, **config.scores, column="VLM+detector removed")
    if config.captions.first:
        stages.append(rank_stage(config.captions.first, config.captions.second))
    if config.geometa:
        stages.append(geometa_stage(config.geometa.to_dict(), config.geometa_full))
    if config.places:
        stages.append(places_stage())
    stages.append(Stage("split", ShareSplit(config.validation), "decisions"))
    return stages


def build(config: ConfigDict, workdir: str, runner: Runner, overwrite: bool = False) -> str:
    """Run the pipeline; return the stage table, or what has to be fetched first."""
    check_output(config, workdir, overwrite)
    stages = stages_of(config)
    tables = run(stages[:2], workdir, runner)
    if bare := _count_bare(tables[-1], config):
        print(
            f"{bare.total():,} rows have no caption and get none ({', '.join(bare)}): caption "
            "their images first (python -m rsclip_jax.build.caption --task=short ...) and give its "
            "table as the source, of form jsonl; or let two models, config.captions, choose of a "
            "column `candidates` (--task=candidates)"
        )
    if not config.fetched:
        path = files.join(workdir, "urls.parquet")
        if count := write_url_list(tables[-1], path):
            return (
                f"{count:,} images are to be fetched: img2dataset --url_list={path} "
                f"--input_format=parquet --url_col=url --output_format=webdataset "
                f"--output_folder=FOLDER; then run this again with --config.fetched=FOLDER"
            )
    tables = run(stages, workdir, runner, tables=tables)
    return finish(config, workdir, runner, overwrite, stages, tables)


def _count_bare(table: Table, config: ConfigDict) -> collections.Counter[str]:
    """Count, by source, the rows without a caption to which no stage gives one."""
    fields = ["source", "captions", "candidates"]
    return collections.Counter(
        row["source"]
        for row in table.read(fields)
        if not row["captions"]
        and row["source"] not in config.geometa
        and not (config.captions.first and row.get("candidates"))
    )


if __name__ == "__main__":
    run_command("rs5m", build)
