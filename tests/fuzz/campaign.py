"""Fuzz a reader, guided by the branches of rsclip_jax that an input reaches (Atheris, libFuzzer).

    pip install atheris
    PYTHONPATH=.:tests python -m fuzz.campaign --reader=tiff --minutes=60 --seed=1 --corpus=DIR

It ends at the first finding, whose input is written below the working directory, as crash-*,
timeout-* or oom-*: read it again with --input=FILE. Inputs that reach something new are kept in
the corpus, where the next campaign goes on. The last line counts the inputs that were tried.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rsclip_jax"]):
    from fuzz import readers

SECONDS = 10  # that one input may take
MIB = 3072  # that the process may take


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reader", choices=readers.READERS, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--input", type=Path, help="try this one input")
    args = parser.parse_args()
    reader = readers.READERS[args.reader]
    if args.input:
        readers.attempt(reader, args.input.read_bytes())
        return
    corpus = args.corpus / args.reader
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(reader.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MIB}", f"-seed={args.seed}"]
    limits += [f"-max_total_time={round(60 * args.minutes)}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda data: readers.attempt(reader, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
