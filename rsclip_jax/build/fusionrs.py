"""Build FusionRS, or a data set like it: RGB and infrared images with their captions.

    python -m rsclip_jax.build.fusionrs --config=configs/build/fusionrs.py --workdir=runs/fusionrs

After the paper (arXiv 2606.17020) and its release: captions are cleaned, images have an
infrared view, the split has no leaks and exact sizes, and a share of the training images has an
infrared-aware caption too. Where rows have no infrared image, the first run ends with a list for a
translator (see `infrared`), and goes on with --config.translated=DIRECTORY. The same command run
again does what is missing.

The rows with an infrared-aware caption are also written as a data set of their own, NAME_ir_aware,
of which the second stage of configs/fusionrs.py trains. The paper's scales of 50K to 300K are parts
of this one that the trainer takes: its config.input.subset.
"""

import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from rsclip_jax.build import files
from rsclip_jax.build.caption_stages import KeepCaptioned, fusionrs_stages
from rsclip_jax.build.cleaning import CleanCaptions
from rsclip_jax.build.command import (
    check_output,
    endpoint_of,
    finish,
    inputs_of,
    require_rows,
    run_command,
)
from rsclip_jax.build.endpoint import EndpointConfig
from rsclip_jax.build.image_checks import CheckImages
from rsclip_jax.build.infrared import infrared_stage, write_translation_list
from rsclip_jax.build.ingest import ingest_stage
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.split import LeakFreeSplit
from rsclip_jax.build.stages import DROPPED, Stage, run
from rsclip_jax.data.records import VERSION
from rsclip_jax.data.sources import InputError

_BEFORE_INFRARED, _BEFORE_SPLIT = 3, 4  # stages


def stages_of(config: ConfigDict, endpoint: EndpointConfig | None) -> list[Stage]:
    """Return the stages; that of a language model only if there is one."""
    share = config.ir_aware.share
    split = LeakFreeSplit(
        dict(config.sizes), config.minimum, config.duplicates.radius, forced=share
    )
    stages = [
        ingest_stage(inputs_of(config)),
        Stage("invalid", CheckImages(config.max_pixels), column="invalid", shows=DROPPED),
        Stage("cleaned", CleanCaptions(), column="after cleaning"),
        infrared_stage(config.translated, config.max_pixels),
        Stage("split", split, "decisions"),
    ]
    if endpoint is not None:
        # What costs money comes last. The rows asked about are those that the split forced.
        stages += fusionrs_stages(endpoint, tuple(config.ir_aware.images), True, share)
    return stages


def build(config: ConfigDict, workdir: str, runner: Runner, overwrite: bool = False) -> str:
    """Run the pipeline; return the stage tables and costs, or what has to be translated first."""
    aware_name = f"{config.name}_ir_aware"
    check_output(config, workdir, overwrite, aware_name)
    endpoint = endpoint_of(config, workdir)
    stages = stages_of(config, endpoint)
    # A run that was killed between the two data sets goes on with the second.
    is_written = not overwrite and _is_written(config, workdir, stages)
    check_output(config, workdir, overwrite or is_written)
    tables = run(stages[:_BEFORE_INFRARED], workdir, runner)
    require_rows(tables, "rows need a caption or a label")
    if not config.translated:
        path = files.join(workdir, "translate.jsonl")
        if count := write_translation_list(tables[-1], path):
            return (
                f"{count:,} images have no infrared image: translate those that {path} lists into "
                "FOLDER (python -m rsclip_jax.build.translate, or any translator); then run this "
                "again with --config.translated=FOLDER"
            )
    tables = run(stages[:_BEFORE_SPLIT], workdir, runner, tables=tables)
    require_rows(tables, "images need an infrared one")
    if official := sum(bool(row["split"]) for row in tables[-1].read(["split"])):
        print(f"{official:,} rows came with a split of their own, which is not kept")
    wanted = sum(config.sizes.values())
    if wanted >= len(tables[-1]):
        raise InputError(
            f"{wanted:,} rows are to be held out of {len(tables[-1]):,}: give smaller ones, "
            + " ".join(f"--config.sizes.{split}=..." for split in config.sizes)
        )
    if endpoint is None:
        print("no config.endpoint.base_url: no infrared-aware captions are written")
    tables = run(stages, workdir, runner, tables=tables)
    if is_written:
        text = f"{config.name}: kept, it was made of these rows by these settings"
    else:
        text = finish(config, workdir, runner, overwrite, stages, tables, endpoint)
    column = "with infrared caption"
    stages.append(Stage("ir_aware", KeepCaptioned(("ir_captions",)), column=column))
    tables = run(stages, workdir, runner, tables=tables)
    if not len(tables[-1]):
        return f"{text}\n\nno row has an infrared-aware caption: {aware_name} is not written"
    more = finish(config, workdir, runner, overwrite, stages, tables, endpoint, aware_name)
    return f"{text}\n{more}"


def _is_written(config: ConfigDict, workdir: str, stages: Sequence[Stage]) -> bool:
    """Tell by its card whether the first data set is there, made by these stages and settings."""
    output = config.output or files.join(workdir, "data")
    path = files.join(output, config.name, VERSION, "card.json")
    if not files.exists(path):
        return False
    card = json.loads(files.read_text(path))
    fingerprint = ""
    for stage in stages:
        fingerprint = stage.fingerprint(fingerprint)
    same_rows = card["stages"][-1]["fingerprint"] == fingerprint
    return same_rows and card["settings"] == json.loads(config.to_json())


if __name__ == "__main__":
    run_command("fusionrs", build)
