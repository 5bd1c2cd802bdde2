"""Files of text: what encoding they are in, and what is none at all."""

import codecs
from pathlib import Path

from rsclip_jax.data.sources import InputError

_BEGINNINGS = {
    b"\x1f\x8b": "is compressed: decompress it first (gunzip)",
    b"PAR1": "is a Parquet file: write it as JSONL (pandas: DataFrame.to_json with "
    "orient='records', lines=True)",
    b"PK\x03\x04": "is an Excel workbook or a zip archive: save it as CSV in UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook: save it as CSV in UTF-8",
}


def find_encoding(name: str) -> str:
    """Return what --encoding names; a byte order mark is no part of a UTF-8 text.

    Raises:
      InputError: there is no such encoding.
    """
    try:
        return "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name
    except LookupError:
        raise InputError(f"--encoding={name}: no such encoding; try utf-8 or gb18030") from None


def shown(encoding: str) -> str:
    """Return what a user calls an encoding of `find_encoding`."""
    return encoding.removesuffix("-sig")


def check_text(path: Path, encoding: str) -> None:
    """Tell by its first bytes that a file is no text, or UTF-16.

    Raises:
      InputError: it is; the message says how to mend it.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    for beginning, what in _BEGINNINGS.items():
        if start.startswith(beginning):
            raise InputError(f"{path} {what}")
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if marked and not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        raise InputError(f"{path} is UTF-16: name it with --encoding=utf-16")


def wrong_encoding(path: Path, encoding: str) -> InputError:
    """Return the error of a file that is not in an encoding."""
    return InputError(
        f"{path} is not {shown(encoding)}; name it with --encoding (gb18030 is common for "
        "Chinese text, cp1252 for Western Excel)"
    )
