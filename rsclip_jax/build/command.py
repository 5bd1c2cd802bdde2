"""What the commands that build a data set have in common: flags, stages, data set, card."""

import json
import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rsclip_jax import main as train
from rsclip_jax.build import files
from rsclip_jax.build.card import card_files, make_card
from rsclip_jax.build.runners import LOCAL, Runner
from rsclip_jax.build.stages import Stage, StageError, Table, stage_table
from rsclip_jax.build.write import write_dataset
from rsclip_jax.data import records
from rsclip_jax.data.sources import InputError


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, with the overrides of its fields in `argv`, and where the work is done."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, with an argument after a colon.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Directory of the stages, which a second run continues; one of a bucket (gs://...) for "
        "workers on other machines.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "runner",
        LOCAL,
        f"{LOCAL}: processes on this machine; or a runner of Beam: DataflowRunner, FlinkRunner, "
        "SparkRunner.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "runner_options", "", 'Options of that runner: "--project=... --region=..."', values
    )
    flags.DEFINE_integer(
        "workers", 0, "Processes of the local runner; 0: one for each core.", 0, flag_values=values
    )
    flags.DEFINE_boolean(
        "overwrite", False, "Replace the data set if it exists.", flag_values=values
    )
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)


def run_command(command: str, build: Callable[[ConfigDict, str, Runner, bool], str]) -> None:
    """Run a pipeline as the flags say; wrong input ends it with a message and status 1.

    Args:
      command: its name, for errors.
      build: from the config, the workdir, the runner and --overwrite to the text to print.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {argv[1:]}")
        values = flags.FLAGS
        runner = Runner(values.runner, values.runner_options, values.workers)
        try:
            print(build(values.config, values.workdir, runner, values.overwrite))
        except (InputError, StageError, OSError, ValueError, records.DatasetBusyError) as error:
            sys.exit(f"{command}: {error}")
        except KeyboardInterrupt:
            print(
                f"\n{command}: interrupted; the same command goes on", file=sys.stderr, flush=True
            )
            os._exit(130)  # without waiting for the workers, who wait for this

    define_flags(flags.FLAGS, sys.argv)
    app.run(main, flags_parser=lambda argv: train.parse_flags(argv, define_flags, command))


def check_output(config: ConfigDict, workdir: str, overwrite: bool) -> None:
    """Raise, before any work, what would stop the data set from being written after all of it."""
    records.check_name("data set", config.name)
    records.check_absent(_output(config, workdir), config.name, overwrite)


def finish(
    config: ConfigDict,
    workdir: str,
    runner: Runner,
    overwrite: bool,
    stages: Sequence[Stage],
    tables: Sequence[Table],
    licences: dict[str, str],
) -> str:
    """Write the data set and its card; return the stage table and where the data set lies.

    Args:
      config: its fields `name`, `output` ("": WORKDIR/data) and `resize` are used here.
      licences: source -> licence.
    """
    settings = json.loads(config.to_json())

    def describe(summaries):
        return card_files(make_card(config.name, stages, tables, summaries, licences, settings))

    directory = write_dataset(
        tables[-1],
        _output(config, workdir),
        config.name,
        runner,
        describe=describe,
        resize=config.resize,
        overwrite=overwrite,
    )
    table = stage_table(stages, tables)
    return f"\n{table}\n\n{config.name}: {directory}, its card is card.md there"


def _output(config: ConfigDict, workdir: str) -> str:
    return config.output or files.join(workdir, "data")
