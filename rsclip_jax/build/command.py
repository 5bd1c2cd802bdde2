"""What the commands that build a data set have in common: flags, stages, data set, card."""

import collections
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import ConfigDict

from rsclip_jax import errors, host
from rsclip_jax import main as train
from rsclip_jax.build import files
from rsclip_jax.build.captioning import count_provenance
from rsclip_jax.build.card import captioning_text, card_files, make_card
from rsclip_jax.build.endpoint import EndpointConfig, costs
from rsclip_jax.build.ingest import Input
from rsclip_jax.build.runners import LOCAL, Runner
from rsclip_jax.build.stages import Stage, Table, stage_table
from rsclip_jax.build.write import write_dataset
from rsclip_jax.data import records
from rsclip_jax.data.sources import InputError


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, with the overrides of its fields in `argv`, and where the work is done."""
    train.define_config(values, argv)
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
        host.printable_output()
        values = flags.FLAGS
        runner = Runner(values.runner, values.runner_options, values.workers)
        with errors.one_line(command, "goes on"):
            print(build(values.config, values.workdir, runner, values.overwrite))

    define_flags(flags.FLAGS, sys.argv)
    app.run(main, flags_parser=lambda argv: train.parse_flags(argv, define_flags, command))


def inputs_of(config: ConfigDict) -> list[Input]:
    """Return the sources of `config.sources` that have a path.

    Raises:
      InputError: none has.
    """
    inputs = []
    for name, source in config.sources.items():
        if source.path:
            wanted = [field.name for field in dataclasses.fields(Input) if field.name != "name"]
            fields = {field: source[field] for field in wanted}
            fields["columns"] = {role: list(of) for role, of in source.columns.items()}
            inputs.append(Input(name, **fields))
    if not inputs:
        names = ", ".join(config.sources)
        raise InputError(
            f"no source has a path: give at least one, --config.sources.NAME.path=...; NAME is one "
            f"of {names}"
        )
    return inputs


def endpoint_of(config: ConfigDict, workdir: str) -> EndpointConfig | None:
    """Return the server that writes captions, None if `config.endpoint` names none.

    Its answers are kept in WORKDIR/answers unless the config says otherwise.

    Raises:
      InputError: a server without a model, or a model without a server.
    """
    given = config.endpoint.to_dict()
    if bool(given["base_url"]) != bool(given["model"]):
        missing = "model" if given["base_url"] else "base_url"
        raise InputError(
            f"config.endpoint.{missing} is empty: a server is told by both, "
            "--config.endpoint.base_url=http://HOST:PORT/v1 --config.endpoint.model=NAME"
        )
    if not given["base_url"]:
        return None
    given["cache"] = given["cache"] or files.join(workdir, "answers")
    return EndpointConfig(**given)


def require_rows(tables: Sequence[Table], advice: str) -> None:
    """Raise InputError, with what was dropped in all and what mends it, if no row is left."""
    if len(tables[-1]):
        return
    reasons: collections.Counter[str] = collections.Counter()
    for table in tables:
        for of in table.dropped.values():
            reasons.update(of)
    told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    raise InputError(f"no row is left ({told or 'there were none'}): {advice}")


def check_output(config: ConfigDict, workdir: str, overwrite: bool, name: str = "") -> None:
    """Raise, before any work, what would stop the data set from being written after all of it."""
    name = name or config.name
    records.check_name("data set", name)
    records.check_absent(_output(config, workdir), name, overwrite)


def finish(
    config: ConfigDict,
    workdir: str,
    runner: Runner,
    overwrite: bool,
    stages: Sequence[Stage],
    tables: Sequence[Table],
    endpoint: EndpointConfig | None = None,
    name: str = "",
) -> str:
    """Write the data set and its card; return the stage table and where the data set lies.

    Args:
      config: its fields `name`, `output` ("": WORKDIR/data), `resize` and `sources` are used here.
      endpoint: what wrote captions, if anything did.
      name: of the data set, instead of the config's.
    """
    name = name or config.name
    settings = json.loads(config.to_json())
    licences = {given.name: given.licence for given in inputs_of(config)}
    captioning = None
    if endpoint:
        written = count_provenance(tables[-1].read(["provenance"]))
        captioning = written | {"paid": costs(endpoint)}

    def describe(summaries):
        card = make_card(name, stages, tables, summaries, licences, settings, captioning)
        return card_files(card)

    directory = write_dataset(
        tables[-1],
        _output(config, workdir),
        name,
        runner,
        describe=describe,
        resize=config.resize,
        overwrite=overwrite,
    )
    parts = [f"\n{stage_table(stages, tables)}"]
    if captioning:
        parts.append(captioning_text(captioning))
    parts.append(f"{name}: {directory}, its card is card.md there")
    return "\n\n".join(parts)


def _output(config: ConfigDict, workdir: str) -> str:
    return config.output or files.join(workdir, "data")
