"""What an encoded image may ask for: looked at before memory is given to it.

The same limits hold wherever an image is decoded: in `prepare`, the builds, training, evaluation,
export and `load`. `prepare` counts what they refuse and names it in skipped.jsonl.
"""

import re

MAX_PIXELS = 200_000_000
MAX_DECODED = 6 * MAX_PIXELS  # bytes: RGB of 16 bits
MAX_SIDES = 200  # times the shorter side
# Deflate, which PNG and TIFF use, reaches 1,032. A constant image of a better format may exceed it,
# hence what needs little memory passes.
MAX_EXPANSION, FREE_DECODED = 2000, 64 << 20
# Each scan of a progressive JPEG file is a pass over the whole image, however few its bytes: 7 ns a
# pixel. An encoder needs a dozen.
MAX_SCANS = 64
MAX_SCANNED = 12 * MAX_PIXELS  # pixels, times scans

_START_OF_SCAN, _END, _NO_LENGTH = 0xDA, 0xD9, (0x01, *range(0xD0, 0xD9))
_MARKER = re.compile(rb"\xff+([^\x00\xff])")


class LimitError(ValueError):
    """An image asks for more than the limits of this module."""


def check_limits(height: int, width: int, decoded: int, encoded: int) -> None:
    """Refuse an image that would take much memory or time.

    Args:
      height, width: in pixels, as its header says.
      decoded: bytes that its decoder will ask for.
      encoded: bytes of the file.

    Raises:
      LimitError: the limit, and what exceeds it.
    """
    size = f"{width:,} x {height:,} pixels"
    if height < 1 or width < 1:
        raise ValueError(f"an image of {size}")
    if height * width > MAX_PIXELS:
        raise LimitError(f"image too large: {size}, more than {MAX_PIXELS:,}; cut it into tiles")
    if decoded > MAX_DECODED:
        raise LimitError(
            f"image too large: {size} take {decoded:,} bytes, more than {MAX_DECODED:,}; "
            "cut it into tiles, or store fewer bands or smaller numbers"
        )
    if max(height, width) > MAX_SIDES * min(height, width):
        raise LimitError(f"image too thin: {size}, a side more than {MAX_SIDES} times the other")
    if decoded > max(MAX_EXPANSION * encoded, FREE_DECODED):
        raise LimitError(
            f"image too compressed: {encoded:,} bytes become {decoded:,}, more than "
            f"{MAX_EXPANSION:,} times as many"
        )


def check_scans(data: bytes, pixels: int) -> None:
    """Refuse a JPEG file of very many scans.

    Args:
      data: the whole file.
      pixels: its height * width.

    Raises:
      LimitError: with their number.
    """
    most = min(MAX_SCANS, MAX_SCANNED // min(max(pixels, 1), MAX_PIXELS))
    if data.count(b"\xff\xda") <= most:  # thumbnails and other data behind the image included
        return
    scans, place = 0, 2
    while match := _MARKER.search(data, place):
        marker, place = match[1][0], match.end()
        if marker == _END:
            break
        if marker not in _NO_LENGTH:
            place += int.from_bytes(data[place : place + 2], "big")
        scans += marker == _START_OF_SCAN
    if scans > most:
        raise LimitError(
            f"image too slow: a JPEG file of {scans:,} scans, more than {most} for its size"
        )
