"""Tokenizer files beside weights: CLIP's own, or a reason to refuse.

Texts are tokenised with CLIP's vocabulary, whatever lies in the directory: with another one a word
would get the number of another word, and no shape would tell.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rsclip_jax import host
from rsclip_jax.weights.settings import load_json

TOKENS = 49408
# SHA-256 of CLIP's tokens in the order of their numbers, and of its merges, each on a line, as
# `vocabulary.write_tokenizer` writes them.
VOCABULARY_SHA256 = "7cccc44d334555d1ff3c0ac5f0246b428fab2918383e77ee745cf30d41010b78"
MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
OTHERS = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
MEND = (
    "This package has CLIP's tokenizer alone: if the model was trained with that one all the same, "
    "take the file out of the directory"
)


def check_tokenizer(directory: Path) -> None:
    """Compare the tokenizer in a directory of Hugging Face or open_clip with CLIP's.

    Tokens added behind CLIP's are none of a text.

    Raises:
      ValueError: it is another one; the message names the file and what differs.
    """
    for name in OTHERS:
        if (directory / name).exists():
            raise ValueError(f"{directory / name} is no vocabulary of CLIP. {MEND}")
    path = directory / "tokenizer_config.json"
    if path.exists():
        said = load_json(path)
        for field, usual in (("tokenizer_class", CLASSES), ("do_lower_case", (True,))):
            if said.get(field, usual[0]) not in usual:
                raise ValueError(f"{path}: {field} is {said[field]!r}, expected {usual[0]}. {MEND}")
    path = directory / "tokenizer.json"
    if path.exists():
        said = load_json(path)
        model = said.get("model") or {}
        if model.get("type", "BPE") != "BPE":
            raise ValueError(f"{path}: a tokenizer of type {model['type']}, expected BPE. {MEND}")
        if said.get("normalizer") and "Lowercase" not in str(said["normalizer"]):
            raise ValueError(f"{path}: it tells capitals from small letters. {MEND}")
        _check_vocabulary(path, model.get("vocab") or {})
        merges = model.get("merges") or []
        _check_merges(path, (m if isinstance(m, str) else " ".join(m) for m in merges))
    path = directory / "vocab.json"
    if path.exists():
        _check_vocabulary(path, load_json(path))
    path = directory / "merges.txt"
    if path.exists():
        lines = host.regular_file(path).read_text(encoding="utf-8").split("\n")
        _check_merges(path, (line for line in lines if line and not line.startswith("#version")))


def digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_vocabulary(path: Path, number: Mapping[str, Any]) -> None:
    tokens = sorted(number, key=lambda token: number[token])
    if digest(tokens[:TOKENS]) != VOCABULARY_SHA256:
        raise ValueError(f"{path}: its {len(tokens):,} tokens are not CLIP's. {MEND}")


def _check_merges(path: Path, merges: Iterable[str]) -> None:
    if digest(merges) != MERGES_SHA256:
        raise ValueError(f"{path}: its merges are not CLIP's. {MEND}")
