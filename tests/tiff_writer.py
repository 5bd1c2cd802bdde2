"""A TIFF writer of its own: what decoders read is held against what was written, byte by byte."""

import struct
import zlib

import numpy as np

FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(
    pixels: np.ndarray,
    *,
    planar: bool = False,
    deflate: bool = False,
    order: str = "<",
    photometric: int | None = None,
    orientation: int = 1,
    nodata: str = "",
    extra: int | None = None,
    strips: int = 3,
) -> bytes:
    """Write [H, W] or [H, W, bands] of any number type."""
    pixels = np.atleast_3d(pixels)
    height, width, bands = pixels.shape
    rows = -(-height // strips)
    planes = [pixels[..., band] for band in range(bands)] if planar else [pixels]
    blocks = [
        plane[row : row + rows].astype(pixels.dtype.newbyteorder(order)).tobytes()
        for plane in planes
        for row in range(0, height, rows)
    ]
    blocks = [zlib.compress(block) for block in blocks] if deflate else blocks
    offsets = [8 + sum(map(len, blocks[:number])) for number in range(len(blocks))]
    if photometric is None:
        photometric = 2 if bands in (3, 4) else 1
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * pixels.itemsize] * bands),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        273: ("I", offsets),
        274: ("H", [orientation]),
        277: ("H", [bands]),
        278: ("I", [rows]),
        279: ("I", list(map(len, blocks))),
        284: ("H", [2 if planar else 1]),
        339: ("H", [FORMATS[pixels.dtype.kind]] * bands),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    if nodata:
        tags[42113] = ("s", [nodata.encode() + b"\0"])
    body = b"".join(blocks)
    start = 8 + len(body)
    behind = start + 2 + 12 * len(tags) + 4
    directory, arrays = struct.pack(order + "H", len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        if kind == "s":
            packed, count, number = values[0], len(values[0]), 2
        else:
            packed = struct.pack(f"{order}{len(values)}{kind}", *values)
            count, number = len(values), {"H": 3, "I": 4}[kind]
        if len(packed) > 4:
            packed, place = struct.pack(order + "I", behind + len(arrays)), packed
            arrays += place
        directory += struct.pack(order + "HHI", tag, number, count) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", start)
    return head + body + directory + bytes(4) + arrays
