"""Measure tokenisation: captions per second on one thread, at 77 and at 248 tokens.

    python benchmarks/tokenizer.py                          (made captions)
    python benchmarks/tokenizer.py --input=captions.jsonl   (yours; .txt: one per line)
    python benchmarks/tokenizer.py --tokenizer=sentencepiece:my.model

Each number is the median of several runs over all captions in batches of 256, as in training.
"cleaning" is open_clip's recipe applied to every caption before the same byte-pair encoding, that
is, what the tokenizer would do without telling plain captions apart. open_clip's own tokenizer is
measured beside it where open_clip_torch is installed.
"""

import argparse
import html
import random
import statistics
import time
from collections.abc import Callable

import ftfy
import numpy as np

from rsclip_jax.data import text, train_sentencepiece

BATCH = 256
ROUNDS = 5


def made_captions(count: int = 20_000) -> list[str]:
    """Make captions of the length and vocabulary of RSICD's: 5 to 20 plain English words."""
    rng = random.Random(0)
    words = (
        "a an the many some several is are near in on with between beside and green white grey "
        "large small dense trees buildings houses road river bridge airport planes runway storage "
        "tanks stadium playground residential area industrial farmland beach ocean harbour boats"
    ).split()
    return [" ".join(rng.choices(words, k=rng.randint(5, 20))) + " ." for _ in range(count)]


def captions_per_second(tokenize: Callable[[list[str]], np.ndarray], captions: list[str]) -> float:
    """Return the median rate of several runs."""
    batches = [captions[i : i + BATCH] for i in range(0, len(captions), BATCH)]
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for batch in batches:
            tokenize(batch)
        rates.append(len(captions) / (time.perf_counter() - started))
    return statistics.median(rates)


def cleaning_all(tokenizer: text.ClipTokenizer) -> Callable[[list[str]], np.ndarray]:
    """Return the tokenizer with ftfy and HTML cleaning applied to every caption."""

    def tokenize(captions: list[str]) -> np.ndarray:
        cleaned = [html.unescape(html.unescape(ftfy.fix_text(caption))) for caption in captions]
        return tokenizer([" ".join(caption.split()) for caption in cleaned])

    return tokenize


def main() -> None:
    """Print one line for each tokenizer and context length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", help="captions: .txt, or .jsonl of records (default: made)")
    parser.add_argument("--tokenizer", default="clip", help='"clip" or "sentencepiece:PATH.model"')
    args = parser.parse_args()
    captions = made_captions()
    if args.input:
        captions = list(train_sentencepiece.file_captions(args.input, "train"))
    characters = statistics.mean(map(len, captions))
    print(f"{len(captions):,} captions of {characters:.0f} characters on average")
    for length in (77, 248):
        tokenizer = text.make_tokenizer(args.tokenizer, length)
        rows = {args.tokenizer: tokenizer}
        if args.tokenizer == "clip":
            rows["clip, cleaning every caption"] = cleaning_all(tokenizer)
            if open_clip := _open_clip_tokenizer(length):
                rows["open_clip"] = open_clip
        for name, tokenize in rows.items():
            rate = captions_per_second(tokenize, captions)
            print(f"{length:4} tokens  {rate:10,.0f} captions/s  {name}", flush=True)


def _open_clip_tokenizer(length: int) -> Callable[[list[str]], np.ndarray] | None:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError:
        return None
    tokenizer = SimpleTokenizer(context_length=length)
    return lambda captions: tokenizer(captions).numpy()


if __name__ == "__main__":
    main()
