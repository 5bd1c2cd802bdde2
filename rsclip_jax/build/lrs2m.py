"""Build LRS2M, or a data set like it: a short and a long caption for every image.

    python -m rsclip_jax.build.lrs2m --config=configs/build/lrs2m.py --workdir=runs/lrs2m \\
        --config.endpoint.base_url=http://localhost:8000/v1 --config.endpoint.model=NAME

After arXiv 2503.19311, which tells no more than its eleven sources and that a language model wrote
the captions. Images without a caption are given one of each kind, and duplicates are taken out
before that is paid for. The same command run again does what is missing. Without a server, rows
keep the captions that they came with.
"""

import dataclasses

from ml_collections import ConfigDict

from rsclip_jax.build.caption_checks import Limits
from rsclip_jax.build.caption_scores import caption_score_stage
from rsclip_jax.build.caption_stages import (
    CheckCaptions,
    KeepCaptioned,
    WriteBoxCaptions,
    lrs2m_stages,
)
from rsclip_jax.build.captioning import LIMITS
from rsclip_jax.build.command import (
    check_output,
    endpoint_of,
    finish,
    inputs_of,
    require_rows,
    run_command,
)
from rsclip_jax.build.duplicates import HashDuplicates
from rsclip_jax.build.endpoint import EndpointConfig
from rsclip_jax.build.image_checks import CheckImages
from rsclip_jax.build.ingest import ingest_stage
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.split import ShareSplit
from rsclip_jax.build.stages import DROPPED, Stage, run
from rsclip_jax.data.sources import InputError

_BEFORE_IMAGES = 3  # stages


def stages_of(config: ConfigDict, endpoint: EndpointConfig | None) -> list[Stage]:
    """Return the stages; those of a language model only if there is one.

    Raises:
      InputError, FileNotFoundError: checks by a CLIP model that is not told, or not there.
    """
    checks = config.checks
    if checks.min_clip_score and not checks.clip:
        raise InputError(
            f"config.checks.min_clip_score is {checks.min_clip_score:g} and no model scores the "
            "captions: give one, --config.checks.clip=PATH"
        )
    priority = {key: list(config.priority[key]) for key in ("first", "last")}
    stages = [ingest_stage(inputs_of(config)), Stage("box_captions", WriteBoxCaptions())]
    if endpoint is None:
        stages.append(Stage("captioned", KeepCaptioned(), column="with caption"))
    stages += [
        Stage("invalid", CheckImages(config.max_pixels), column="invalid", shows=DROPPED),
        Stage(
            "hashes",
            HashDuplicates(config.duplicates.radius, priority),
            "decisions",
            column="dup removed",
            shows=DROPPED,
        ),
    ]
    if endpoint is not None:
        stages += lrs2m_stages(endpoint, config.classes, checks.objects)
    if checks.clip:
        stages.append(caption_score_stage(checks.clip))
    for name, field, limits in (
        ("check_short", "captions", Limits()),
        ("check_long", "long_captions", LIMITS["long"]),
    ):
        check = CheckCaptions(
            field,
            dataclasses.asdict(limits),
            tuple(config.classes),
            tuple(checks.objects),
            checks.min_clip_score,
        )
        stages.append(Stage(name, check, column="failed checks", shows=DROPPED))
    return [*stages, Stage("split", ShareSplit(config.validation), "decisions")]


def build(config: ConfigDict, workdir: str, runner: Runner, overwrite: bool = False) -> str:
    """Run the pipeline; return the stage table, the costs, and where the data set lies."""
    check_output(config, workdir, overwrite)
    endpoint = endpoint_of(config, workdir)
    stages = stages_of(config, endpoint)
    tables = []
    if endpoint is None:
        print("no config.endpoint.base_url: no captions are written")
        tables = run(stages[:_BEFORE_IMAGES], workdir, runner)
        require_rows(tables, "tell a server that writes captions, config.endpoint.base_url")
    tables = run(stages, workdir, runner, tables=tables)
    return finish(config, workdir, runner, overwrite, stages, tables, endpoint)


if __name__ == "__main__":
    run_command("lrs2m", build)
