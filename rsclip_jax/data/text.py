"""Text to token ids: CLIP's byte-pair encoding and SentencePiece.

A tokenizer is called on a list of strings and returns int32 [N, context_length]. Threads can share
it, and it pickles, so that it travels to Grain's worker processes. Its attributes `context_length`,
`vocab_size`, `pad_id` and `eot_id` are what a text tower has to agree with.
"""

import functools
import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import ftfy
import instant_clip_tokenizer
import numpy as np
import sentencepiece

# A longer text is cleaned and tokenised in pieces, cut at white space where there is some: to
# repair nested entities, or to merge the bytes of one endless word, takes time that grows with the
# square of the length. The first piece of ordinary text fills any context (no token is longer than
# 25 characters), so its ids stay open_clip's.
_PIECE_CHARS = 16_384
_PIECE = re.compile(rf".{{1,{_PIECE_CHARS - 1}}}(?:\s|\Z)|.{{1,{_PIECE_CHARS}}}", re.DOTALL)

# Printable ASCII and the white space that ftfy keeps, without "&".
_PLAIN = re.compile(r"[\t\n\f\r -%'-~]*")

# `html.unescape` makes a number above 0x10ffff U+FFFD, but raises where `int` refuses to read it.
_UNREADABLE_REFERENCE = re.compile(r"&#[0-9]{4300,};?")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """What a text tower and the input pipeline need of a tokenizer."""

    context_length: int
    vocab_size: int
    pad_id: int
    eot_id: int

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """Return the token ids, int32 [N, context_length]."""

    def lengths(self, texts: Iterable[str]) -> np.ndarray:
        """Return the token counts before truncation, start and end marks included, int64 [N]."""


class ClipTokenizer:
    """CLIP's lower-cased byte-pair encoding, with open_clip's ids.

    A row is `[start, tokens..., end, 0...]`; a text too long for it is cut with the end mark (EOT)
    kept in the last slot.
    """

    vocab_size = 49408
    pad_id = 0
    sot_id = 49406
    eot_id = 49407

    def __init__(self, context_length: int = 77):
        """Set the length of a row in tokens, at least 3 (77 for CLIP, 248 for Long-CLIP)."""
        self.context_length = _checked_length(context_length)

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """Tokenise texts into int32 [N, context_length].

        Raises:
          TypeError: for a bare string, or an element that is no string.
        """
        texts = [text if _is_plain(text) else clean(text) for text in _checked_texts(texts)]
        return _clip_bpe().tokenize_batch(texts, self.context_length).astype(np.int32)

    def lengths(self, texts: Iterable[str]) -> np.ndarray:
        """Count tokens before truncation, start and end marks included: int64 [N]."""
        texts = [text if _is_plain(text) else clean(text) for text in _checked_texts(texts)]
        return np.array([len(_clip_bpe().encode(text)) + 2 for text in texts], np.int64)


class SentencePieceTokenizer:
    """A SentencePiece model, trained for instance by `rsclip_jax.data.train_sentencepiece`.

    A row is `[BOS if the model has one, ids..., EOS, pad...]`; a text too long for it is cut with
    EOS kept in the last slot.
    """

    def __init__(self, model: str | Path, context_length: int):
        """Read the `.model` file; its bytes are kept, so that workers do not need the path.

        Raises:
          FileNotFoundError: where there is no such file.
          ValueError: if it is no SentencePiece model, or one without an EOS or a pad id.
        """
        self.context_length = _checked_length(context_length)
        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(
                f"no SentencePiece model at {path}: give the path of a .model file, or train one "
                "with python -m rsclip_jax.data.train_sentencepiece --input=... --output=PATH.model"
            )
        self._proto = path.read_bytes()
        try:
            processor = self._load()
        except RuntimeError as error:
            raise ValueError(
                f"{path} ({len(self._proto)} bytes) is not a SentencePiece model: {error}"
            ) from error
        self.vocab_size = processor.vocab_size()
        self.pad_id = processor.pad_id()
        self.eot_id = processor.eos_id()
        self._bos_id = processor.bos_id()
        for name, value in (("EOS", self.eot_id), ("pad", self.pad_id)):
            if value < 0:
                raise ValueError(
                    f"the SentencePiece model {path} has no {name} id: train it with --pad_id=0 "
                    "--bos_id=1 --eos_id=2 --unk_id=3, as rsclip_jax.data.train_sentencepiece does"
                )

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """Tokenise texts into int32 [N, context_length].

        Raises:
          TypeError: for a bare string, or an element that is no string.
        """
        rows = self._encode(texts)
        tokens = np.full((len(rows), self.context_length), self.pad_id, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            ids = ids[: self.context_length - 1] + [self.eot_id]
            row[: len(ids)] = ids
        return tokens

    def lengths(self, texts: Iterable[str]) -> np.ndarray:
        """Count tokens before truncation, BOS and EOS included: int64 [N]."""
        return np.array([len(ids) + 1 for ids in self._encode(texts)], np.int64)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_processor"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._load()

    def _load(self) -> sentencepiece.SentencePieceProcessor:
        # Not the constructor's `model_proto=`, which takes empty bytes for "no model".
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(self._proto)
        return self._processor

    def _encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, with BOS where the model has one, without EOS."""
        texts = [without_surrogates(text) for text in _checked_texts(texts)]
        # One thread: parallelism is the pipeline's, and a pool per call costs more than it saves.
        return self._processor.encode(texts, add_bos=self._bos_id >= 0, num_threads=1)


def make_tokenizer(spec: str, context_length: int) -> Tokenizer:
    """Make the tokenizer of `config.tokenizer`: "clip" or "sentencepiece:PATH.model".

    Raises:
      ValueError: for any other spec.
    """
    kind, _, path = spec.partition(":")
    if spec == "clip":
        return ClipTokenizer(context_length)
    if kind == "sentencepiece" and path:
        return SentencePieceTokenizer(path, context_length)
    raise ValueError(
        f'unknown tokenizer {spec!r}: config.tokenizer is "clip" or "sentencepiece:PATH.model"'
    )


def clean(text: str) -> str:
    """Clean a text as open_clip does: repair, unescape HTML twice, collapse white space.

    Lower-casing is left to the byte-pair encoder. The ids differ from open_clip's only for "'ſ",
    U+0345, and characters that the Unicode tables of the two word splitters class differently
    (unassigned or recent ones).
    """
    if len(text) > _PIECE_CHARS:
        return " ".join(clean(piece) for piece in _PIECE.findall(text))
    if _is_plain(text):
        return " ".join(text.split())
    text = ftfy.fix_text(text)
    for _ in range(2):
        text = html.unescape(_UNREADABLE_REFERENCE.sub("\ufffd", text))
    return " ".join(text.split())


def without_surrogates(text: str) -> str:
    """Join surrogate pairs into their character and replace lone ones, which UTF-8 cannot hold."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_plain(text: str) -> bool:
    """Tell whether `clean` is sure to change nothing that the byte-pair encoder sees.

    Every repair of ftfy starts outside of ASCII (mojibake, quotes, widths, ligatures), at a control
    character (terminal escapes too) or at "&" (entities). What is left of `clean` is to collapse
    white space, which the encoder skips. Cleaning is ten times slower than encoding.
    """
    return len(text) <= _PIECE_CHARS and _PLAIN.fullmatch(text) is not None


@functools.cache
def _clip_bpe() -> instant_clip_tokenizer.Tokenizer:
    """Return the process's byte-pair encoder: threads share it, but it cannot be pickled."""
    return instant_clip_tokenizer.Tokenizer()


def _checked_length(context_length: int) -> int:
    if context_length < 3:
        raise ValueError(
            f"context_length is {context_length}: at least 3 tokens are needed (start, text, end)"
        )
    return int(context_length)


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes):
        raise TypeError(f"got one {type(texts).__name__}, not a list of strings: pass [text]")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"texts[{i}] is {type(text).__name__}, not a string (decode bytes, drop None)"
            )
    return texts
