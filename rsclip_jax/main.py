"""Train a model: `python -m rsclip_jax.main --config=configs/lrsclip.py --workdir=runs/lrsclip`.

The same command run again resumes where the run stopped. `--config.FIELD=VALUE` overrides a field.
"""

import sys
from collections.abc import Callable

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from rsclip_jax import cuda, distributed, host, startup
from rsclip_jax.overrides import check_fields


def define_config(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, with the overrides of its fields in `argv`."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, with an argument after a colon.",
        flag_values=values,
        sys_argv=argv,
    )


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, --workdir and how processes find each other."""
    define_config(values, argv)
    flags.DEFINE_string("workdir", None, "Directory of all that a run writes.", flag_values=values)
    kinds: dict[type, Callable] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        bool: flags.DEFINE_boolean,
    }
    for name, (default, meaning) in distributed.FLAGS.items():
        kinds[type(default)](name, default, meaning, flag_values=values)
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)


def parse_flags(
    argv: list[str],
    define: Callable[[flags.FlagValues, list[str]], None] = define_flags,
    command: str = "main",
) -> list[str]:
    """Parse the command line; a wrong field is answered with the nearest right ones.

    Args:
      define: what has defined the flags, --config among them.
      command: its name, for errors.
    """
    file_only = [a for a in argv if not a.lstrip("-").startswith("config.")]
    first = flags.FlagValues()
    define(first, file_only)
    try:
        first(file_only, known_only=True)
        check_fields(first.config, argv)
    except flags.Error:
        pass  # what is missing or malformed, absl explains below, with the usage
    except (ValueError, OSError) as error:
        sys.exit(f"{command}: {error}")
    return app.parse_flags_with_usage(argv)


def main(argv: list[str]) -> None:
    """Train as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    absl.logging.set_verbosity(absl.logging.WARNING)
    from rsclip_jax.training.loop import train  # after the flags: mistakes are told at once

    try:
        workdir = host.local_path(flags.FLAGS.workdir, "--workdir")
    except ValueError as error:
        sys.exit(f"main: {error}")
    try:
        with startup.started(flags.FLAGS, again="goes on from the newest checkpoint"):
            train(flags.FLAGS.config, workdir)
    except cuda.DeviceError as error:
        sys.exit(f"main: {error}")


if __name__ == "__main__":
    define_flags(flags.FLAGS, sys.argv)
    app.run(main, flags_parser=parse_flags)
