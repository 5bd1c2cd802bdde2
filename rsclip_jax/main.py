"""Train a model: `python -m rsclip_jax.main --config=configs/lrsclip.py --workdir=runs/lrsclip`.

The same command run again resumes where the run stopped. `--config.FIELD=VALUE` overrides a field.
"""

import logging

import absl.logging
from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with an argument after a colon where it takes one."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, evaluation, embeddings."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from rsclip_jax.training.loop import train  # after the flags: --help stays fast

    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what is meant
    train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    app.run(main)
