"""Train a model: `python -m rsclip_jax.main --config=configs/lrsclip.py --workdir=runs/lrsclip`.

The same command run again resumes where the run stopped. `--config.FIELD=VALUE` overrides a field.
`--reproduce=WORKDIR` in the place of `--config` trains a run once more.
"""

import re
import sys
from collections.abc import Callable
from functools import partial

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from rsclip_jax import distributed, errors, host, startup
from rsclip_jax.overrides import (
    ConfigFileParser,
    check_fields,
    check_file,
    count_by,
    explain_value,
    given,
    nearest,
)

AGAIN = "goes on from the newest checkpoint, or begins again if there is none"
EXAMPLE = """. Try the demo, four minutes on two CPU cores:
  python -m rsclip_jax.main --config=configs/lrsclip.py:demo --workdir=runs/demo
or your own data, which `python -m rsclip_jax.prepare --help` tells how to prepare:
  python -m rsclip_jax.prepare --format=folder --input=FOLDER --output=data --name=mine
  python -m rsclip_jax.main --config=configs/lrsclip.py:rsicd --workdir=runs/mine \\
      --config.input.data="{'mine': 1.0}" --config.evals.val.data=mine"""


def define_config(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, with the overrides of its fields in `argv`, and the evaluators they add."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, with an argument after a colon.",
        flag_values=values,
        sys_argv=argv,
    )
    values["config"].parser = ConfigFileParser(argv)


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, --workdir and how processes find each other."""
    define_config(values, argv)
    _define_places(values)
    kinds: dict[type, Callable] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        bool: flags.DEFINE_boolean,
    }
    for name, (default, meaning) in distributed.FLAGS.items():
        kinds[type(default)](name, default, meaning, flag_values=values)
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)


def _define_places(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "Directory of all that a run writes.", flag_values=values)
    flags.DEFINE_string(
        "reproduce",
        None,
        "Workdir of a run: its config is taken, and what differs from it is said.",
        flag_values=values,
    )


def with_config(argv: list[str]) -> list[str]:
    """Return the arguments with the config of the run that --reproduce names.

    Raises:
      ValueError: no run has its config there, or --config or the same --workdir is given as well.
    """
    values = flags.FlagValues()
    _define_places(values)
    try:
        values(argv, known_only=True)
    except flags.Error:
        return argv  # which `parse_flags` refuses
    if not values.reproduce:
        return argv
    run = host.local_path(values.reproduce, "--reproduce")
    if any(re.match(r"--?config(=|$)", argument) for argument in argv):
        raise ValueError(
            f"--reproduce={run} takes the config of that run: leave out --config; "
            "--config.FIELD=VALUE overrides a field"
        )
    if values.workdir and run == host.local_path(values.workdir, "--workdir"):
        raise ValueError(f"--reproduce={run}: give another, new --workdir")
    file = run / "config.json"
    if not file.is_file():
        raise ValueError(f"--reproduce={run}: no run has left its config.json there")
    return [argv[0], f"--config={file}", *argv[1:]]


def parse_flags(
    argv: list[str],
    define: Callable[[flags.FlagValues, list[str]], None] = define_flags,
    command: str = "main",
    example: str = "",
) -> list[str]:
    """Parse the command line; what is wrong ends the program with a line that says how to mend it.

    Args:
      define: what has defined the flags, --config among them.
      command: its name, for errors.
      example: lines to print where --config or --workdir is missing.
    """
    if any(re.match(r"--?help", argument) for argument in argv[1:]):
        return app.parse_flags_with_usage(argv)
    with errors.one_line(command):
        first = _parse_files(argv, define, command, example)
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            raise _explained(error, first) from error


def _parse_files(argv: list[str], define: Callable, command: str, example: str) -> flags.FlagValues:
    """Parse all but the overrides of the config, and check these against it."""
    file_only = [a for a in argv if not a.lstrip("-").startswith("config.")]
    first = flags.FlagValues()
    define(first, file_only)
    for place, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config(=(.*))?", argument):
            check_file(match[2] or "".join(argv[place + 1 : place + 2]))
    try:
        first(file_only, known_only=True)
    except flags.Error as error:
        given = {argument.lstrip("-").partition("=")[0] for argument in argv[1:]}
        missing = [f"--{n}" for n in ("config", "workdir") if n in first and n not in given]
        if missing:
            example = example or f"; python -m rsclip_jax.{command} --help lists all flags"
            verb = "is" if len(missing) == 1 else "are"
            raise ValueError(f"{' and '.join(missing)} {verb} missing{example}") from error
        raise ValueError(str(error)) from error
    check_fields(first.config, argv)
    return first


def _explained(error: Exception, first: flags.FlagValues) -> ValueError:
    """Say what absl refuses in words of the config's."""
    override = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if override:
        return ValueError(explain_value(first.config, override[1], override[2]))
    if isinstance(error, flags.UnrecognizedFlagError):
        fields = ", ".join(f"--config.{n}" for n in nearest(first.config, error.flagname))
        return ValueError(f"--{error.flagname}: no such flag; the nearest fields are {fields}")
    return ValueError(str(error))


def main(argv: list[str]) -> None:
    """Train as the flags say."""
    with errors.one_line("main", AGAIN):
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments: {argv[1:]}; flags are given as --NAME=VALUE")
        absl.logging.set_verbosity(absl.logging.WARNING)
        from rsclip_jax.training.loop import train  # after the flags: mistakes are told at once
        from rsclip_jax.training.progress import log
        from rsclip_jax.training.workdir import flat

        workdir = host.local_path(flags.FLAGS.workdir, "--workdir")
        with startup.started(flags.FLAGS, AGAIN, compiles=True):
            config, told = flags.FLAGS.config, given(flags.FLAGS)
            if line := count_by(config, told):
                log(line)
            run = flags.FLAGS.reproduce
            if not run:
                train(config, workdir, told)
                return
            # What that run has stored holds, whatever its config.init_from says of the model.
            train(config, workdir, flat(config), host.local_path(run, "--reproduce"))


if __name__ == "__main__":
    with errors.one_line("main"):
        arguments = with_config(sys.argv)
    define_flags(flags.FLAGS, arguments)
    app.run(main, arguments, flags_parser=partial(parse_flags, example=EXAMPLE))
