"""CLIP's vocabulary as the files of Hugging Face tokenizers, read out of the tokenizer in use."""

import functools
import itertools
import json
from pathlib import Path

import instant_clip_tokenizer

FIRST_MERGE = 512  # after 256 bytes, and the same bytes at the end of a word
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
# What is put around a token that begins or ends inside a character, to make whole ones.
_BEFORE = (b"", b"\xc3", b"\xe1", b"\xe1\x80", b"\xf1", b"\xf1\x80", b"\xf1\x80\x80")
_AFTER = (b"", b"\x80", b"\xa0", b"\x90", b"\x80\x80", b"\xa0\x80", b"\x90\x80", b"\x90\x80\x80")

Token = tuple[bytes, bool]  # its bytes, and whether a word ends with it


def write_tokenizer(directory: Path, context_length: int) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json."""
    tokens = clip_tokens()
    names = [*(_printable(token) for token in tokens), *SPECIAL]
    vocabulary = {name: number for number, name in enumerate(names)}
    (directory / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8"
    )
    merges = (f"{_printable(a)} {_printable(b)}" for a, b in clip_merges(tokens))
    (directory / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8"
    )
    start, end = SPECIAL
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "do_lower_case": True,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def clip_tokens() -> list[Token]:
    """Return all tokens but the two special ones, in the order of their ids."""
    tokenizer = instant_clip_tokenizer.Tokenizer()
    singles = _bytes_in_order()
    number = {byte: index for index, byte in enumerate(singles)}

    def read(token: int) -> Token:
        for before, after in [*itertools.product(_BEFORE, _AFTER), (b"", b"")]:
            ids = [*(number[b] for b in before), token, *(number[b] for b in after)]
            text = tokenizer.decode(ids)  # " " ends a word, "\ufffd" is a broken character,
            if "\ufffd" not in text:
                break  # else, whatever is put around it, it is that very character
        raw = text.encode()
        raw = raw[len(before) : len(raw) - len(after)]
        return raw.removesuffix(b" "), raw.endswith(b" ")

    merged = (read(token) for token in range(FIRST_MERGE, tokenizer.start_of_text()))
    return [*((bytes([b]), ends) for ends in (False, True) for b in singles), *merged]


def clip_merges(tokens: list[Token]) -> list[tuple[Token, Token]]:
    """Find the two tokens that each merged one is made of.

    They are what the merges before it leave of its bytes.
    """
    rank: dict[tuple[Token, Token], int] = {}
    for number in range(FIRST_MERGE, len(tokens)):
        whole, ends = tokens[number]
        parts = [(bytes([byte]), False) for byte in whole]
        parts[-1] = (parts[-1][0], ends)
        while len(parts) > 2:
            at = min(
                range(len(parts) - 1), key=lambda i: rank.get((parts[i], parts[i + 1]), 1 << 30)
            )
            (left, _), (right, last) = parts[at : at + 2]
            if (parts[at], parts[at + 1]) not in rank:
                raise ValueError(f"token {number} of CLIP's vocabulary is not made of two others")
            parts[at : at + 2] = [(left + right, last)]
        rank[parts[0], parts[1]] = number
    return list(rank)


def _bytes_in_order() -> list[int]:
    """Return the bytes in the order of GPT-2's and CLIP's vocabularies: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [byte for byte in range(256) if byte not in printable]


def _printable(token: Token) -> str:
    """Write a token as GPT-2's files do: bytes that do not print as characters from U+0100 on."""
    letters = _letters()
    return "".join(letters[byte] for byte in token[0]) + ("</w>" if token[1] else "")


@functools.cache
def _letters() -> dict[int, str]:
    return {
        byte: chr(byte) if index < 188 else chr(0x100 + index - 188)
        for index, byte in enumerate(_bytes_in_order())
    }
