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
    tile: int = 0,
    predictor: bool = False,
    big: bool = False,
) -> bytes:
    """Write [H, W] or [H, W, bands] of any number type.

    Args:
      tile: side of square tiles, a multiple of 16; 0: strips.
      predictor: store the differences of neighbours in a row, of integers.
      big: a BigTIFF file.
    """
    pixels = np.atleast_3d(pixels)
    height, width, bands = pixels.shape
    rows = -(-height // strips)
    planes = [pixels[..., [band]] for band in range(bands)] if planar else [pixels]
    pieces = [plane[row : row + rows] for plane in planes for row in range(0, height, rows)]
    if tile:
        pieces = [
            _padded(plane[row : row + tile, column : column + tile], tile)
            for plane in planes
            for row in range(0, height, tile)
            for column in range(0, width, tile)
        ]
    if predictor:
        pieces = [np.diff(piece, axis=1, prepend=piece[:, :1] * 0) for piece in pieces]
    blocks = [piece.astype(pixels.dtype.newbyteorder(order)).tobytes() for piece in pieces]
    blocks = [zlib.compress(block) for block in blocks] if deflate else blocks
    first = 16 if big else 8
    offsets = [first + sum(map(len, blocks[:number])) for number in range(len(blocks))]
    if photometric is None:
        photometric = 2 if bands in (3, 4) else 1
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * pixels.itemsize] * bands),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        **({322: ("I", [tile]), 323: ("I", [tile])} if tile else {278: ("I", [rows])}),
        324 if tile else 273: ("I", offsets),
        274: ("H", [orientation]),
        277: ("H", [bands]),
        325 if tile else 279: ("I", list(map(len, blocks))),
        284: ("H", [2 if planar else 1]),
        317: ("H", [2 if predictor else 1]),
        339: ("H", [FORMATS[pixels.dtype.kind]] * bands),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    if nodata:
        tags[42113] = ("s", [nodata.encode() + b"\0"])
    body = b"".join(blocks)
    start = first + len(body)
    count_form, entry_form, place_form = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    inline = struct.calcsize(place_form)
    entry_size = struct.calcsize("<" + entry_form) + inline
    behind = start + struct.calcsize(count_form) + entry_size * len(tags) + inline
    directory, arrays = struct.pack(order + count_form, len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        if kind == "s":
            packed, count, number = values[0], len(values[0]), 2
        else:
            packed = struct.pack(f"{order}{len(values)}{kind}", *values)
            count, number = len(values), {"H": 3, "I": 4}[kind]
        if len(packed) > inline:
            packed, place = struct.pack(order + place_form, behind + len(arrays)), packed
            arrays += place
        directory += struct.pack(order + entry_form, tag, number, count)
        directory += packed.ljust(inline, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HH", 8, 0) if big else b""
    head += struct.pack(order + place_form, start)
    return head + body + directory + bytes(inline) + arrays


def _padded(piece: np.ndarray, side: int) -> np.ndarray:
    return np.pad(piece, [(0, side - piece.shape[0]), (0, side - piece.shape[1]), (0, 0)])
