"""Train a SentencePiece model on captions, for `config.tokenizer = "sentencepiece:PATH.model"`.

On the captions (short and long) of a prepared data set, or of a file with one caption per line
(.txt) or one JSON record per line (.jsonl, fields `caption`, `captions`, `long_caption`,
`long_captions` or `text`; records of another `split` are left out):

    python -m rsclip_jax.data.train_sentencepiece --data_dir=data --name=rsicd \
        --output=rsicd.model --vocab_size=1000 --lowercase
    python -m rsclip_jax.data.train_sentencepiece --input=captions.txt --output=my.model

The same captions and options give the same model, byte for byte.
"""

import argparse
import io
import itertools
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece
import tqdm

from rsclip_jax import atomic, host
from rsclip_jax.data import records, text

JSON_FIELDS = ("caption", "captions", "long_caption", "long_captions", "text")
_SUMMARY_CAPTIONS = 20_000
_MAX_CAPTION_BYTES = 2**20  # SentencePiece leaves out longer ones (its own default is 4,192).
# Of more captions the trainer draws so many (always the same): its memory stays bounded.
_MAX_CAPTIONS = 5_000_000


def dataset_captions(data_dir: str, name: str, split: str) -> Iterator[str]:
    """Yield the short and long captions of each record of a prepared data set."""
    source = records.open_source(data_dir, name, split)
    for i in tqdm.trange(len(source), desc="reading", unit=" records", mininterval=1):
        record = source[i]
        yield from record["captions"]
        yield from record["long_captions"]


def file_captions(path: str | Path, split: str) -> Iterator[str]:
    """Yield the captions of a text file (one per line) or a .jsonl file (one record per line).

    Raises:
      ValueError: for a line that is not UTF-8, not JSON, or holds no caption field; names the line.
    """
    is_json = Path(path).suffix in (".jsonl", ".json")
    with open(host.regular_file(Path(path)), "rb") as lines:
        progress = tqdm.tqdm(lines, desc="reading", unit=" lines", mininterval=1)
        for number, raw in enumerate(progress, start=1):
            where = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line and is_json:
                    yield from _json_captions(json.loads(line), split, where)
                elif line:
                    yield line
            except UnicodeDecodeError as error:
                raise ValueError(f"{where} is not UTF-8: convert the file first") from error
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{where} is not JSON: {error}") from error


def train(
    captions: Iterable[str], vocab_size: int, model_type: str = "unigram", lowercase: bool = False
) -> bytes:
    """Train a model and return its serialised bytes, the content of a .model file.

    Args:
      captions: texts; empty ones are left out, white space is collapsed.
      vocab_size: number of pieces, the four special ones (pad 0, BOS 1, EOS 2, unknown 3) included.
      model_type: "unigram" or "bpe".
      lowercase: fold case inside the model (NFKC case folding), at training and at use.

    Raises:
      ValueError: without any caption, or for a vocabulary size that the captions do not allow.
    """
    buffer = io.BytesIO()
    failures: list[BaseException] = []
    sentences = _sentences(captions, failures)
    if (first := next(sentences, None)) is None:
        raise ValueError("no caption to train on: the input or split holds none, or empty ones")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=buffer,
            vocab_size=vocab_size,
            model_type=model_type,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            input_sentence_size=_MAX_CAPTIONS,
            max_sentence_length=_MAX_CAPTION_BYTES,
            # Sums are made by thread: a number taken from the machine would change the model.
            num_threads=4,
            minloglevel=2,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise _explained(error, vocab_size, model_type) from error
    return buffer.getvalue()


def summary(model: str | Path, captions: list[str]) -> str:
    """Compare the model's token counts on some captions with CLIP's."""
    tokenizer = text.SentencePieceTokenizer(model, context_length=77)
    lines = [
        f"{model}: {tokenizer.vocab_size:,} pieces (CLIP BPE: {text.ClipTokenizer.vocab_size:,})",
        f"tokens per caption, start and end included, on the first {len(captions):,} captions:",
    ]
    for name, tokenize in (("this model", tokenizer), ("CLIP BPE", text.ClipTokenizer())):
        lengths = tokenize.lengths(captions)
        lines.append(
            f"  {name:10}  mean {lengths.mean():6.1f}  "
            f"99th percentile {np.percentile(lengths, 99):5.0f}  longest {lengths.max():5}"
        )
    lines.append(f'use it with --config.tokenizer="sentencepiece:{model}"')
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says (`--help` lists the flags)."""
    args = _parse(argv)
    if args.input:
        captions = file_captions(args.input, args.split)
    else:
        captions = dataset_captions(args.data_dir, args.name, args.split)
    sample: list[str] = []
    started = time.monotonic()
    print(f"reading, then training a {args.model_type} model of {args.vocab_size:,} pieces")
    model = train(
        _keeping_first(captions, sample), args.vocab_size, args.model_type, args.lowercase
    )
    atomic.write(args.output, model)
    print(f"trained in {time.monotonic() - started:.1f} s")
    print(summary(args.output, sample))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rsclip_jax.data.train_sentencepiece",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", help="directory of the prepared data sets")
    parser.add_argument("--name", help="name of the prepared data set")
    parser.add_argument("--split", default="train", help="split to read (default: train)")
    parser.add_argument("--input", help="a .txt or .jsonl file instead of a data set")
    parser.add_argument("--output", required=True, help="path of the .model file to write")
    parser.add_argument("--vocab_size", type=int, default=8000, help="pieces (default: 8000)")
    parser.add_argument("--model_type", choices=("unigram", "bpe"), default="unigram")
    parser.add_argument("--lowercase", action="store_true", help="fold case inside the model")
    args = parser.parse_args(argv)
    if bool(args.input) == bool(args.name):
        parser.error("give either --data_dir=DIR --name=NAME or --input=FILE")
    if args.name and not args.data_dir:
        parser.error(f"--name={args.name} needs --data_dir=DIR, the directory that holds it")
    if args.input and not Path(args.input).is_file():
        parser.error(f"--input={args.input} is no file")
    if Path(args.output).exists():
        # A checkpoint trained with the old model would silently read other words.
        parser.error(f"--output={args.output} exists already: remove it or choose another name")
    return args


def _keeping_first(captions: Iterable[str], kept: list[str]) -> Iterator[str]:
    """Yield the captions and put the first of them into `kept`, for the summary."""
    for caption in captions:
        if len(kept) < _SUMMARY_CAPTIONS:
            kept.append(caption)
        yield caption


def _sentences(captions: Iterable[str], failures: list[BaseException]) -> Iterator[str]:
    """Yield what the trainer takes; keep an error, of which the trainer tells only the text."""
    try:
        for caption in captions:
            if sentence := " ".join(text.without_surrogates(caption).split()):
                yield sentence
    except BaseException as error:
        failures.append(error)
        raise


def _json_captions(record: object, split: str, where: str) -> Iterator[str]:
    """Yield the captions of one JSON line: a string, or a record with caption fields."""
    if isinstance(record, str):
        yield record
        return
    if not isinstance(record, dict):
        raise ValueError(f"{where} holds a {type(record).__name__}, not a record or a string")
    if record.get("split", split) != split:
        return
    fields = [field for field in JSON_FIELDS if field in record]
    if not fields:
        raise ValueError(
            f"{where} has none of the fields {', '.join(JSON_FIELDS)}; it has {', '.join(record)}"
        )
    for field in fields:
        values = record[field] if isinstance(record[field], list) else [record[field]]
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{where}: {field} holds {value!r}, which is no string")
            yield value


def _explained(error: RuntimeError, vocab_size: int, model_type: str) -> ValueError:
    """Turn the trainer's message about its C++ source into one about the flags."""
    message = str(error)
    if match := re.search(r"too high .* value <= (\d+)", message):
        other = ", or try --model_type=bpe" if model_type == "unigram" else ""
        return ValueError(
            f"--vocab_size={vocab_size} is too large for these captions: the largest possible "
            f"{model_type} vocabulary is {match[1]}. Give --vocab_size={match[1]} or less{other}"
        )
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return ValueError(
            f"--vocab_size={vocab_size} is too small: the characters of these captions and the "
            f"special pieces alone are {match[1]}. Give --vocab_size={match[1]} or more"
        )
    return ValueError(f"SentencePiece cannot train on these captions: {message}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
