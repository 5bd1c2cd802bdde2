"""What a TIFF file says of its pixels, and the pixels, as the numbers that were stored.

General decoders convert what they read: OpenCV multiplies colours by alpha and swaps the bands of
what it does not take for RGB, Pillow divides 16-bit colours by 256. Here strips and tiles are only
unpacked (by Pillow, as if their bytes were the pixels of a grey image) and put together.
"""

import itertools
import math
import struct
from typing import NamedTuple

import numpy as np

from rsclip_jax.data.pillow import open_image

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF 6.0, section 8 and those on tiles, planes and numbers; 42113 is GDAL's.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _ROWS, _PLANAR, _PREDICTOR = 274, 277, 278, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT, _NODATA = 322, 323, 338, 339, 42113
_STRIPS, _TILES = (273, 279), (324, 325)  # tags of offsets and of sizes
_READ = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL, _ORIENTATION, _SAMPLES, _ROWS}
_READ |= {_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT, _NODATA}
_READ |= {*_STRIPS, *_TILES}
# Types of a directory's numbers; LONG8 and IFD8 are BigTIFF's.
_TYPES = {1: "u1", 2: "S1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8"}
_TYPES |= {17: "i8", 18: "u8"}
_KINDS = {1: "u", 2: "i", 3: "f"}
_DEPTHS = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}
_PLAIN = 1
_PACKED = (5, 8, 32773, 32946, 34925, 50000)  # LZW, deflate, PackBits, deflate, LZMA, Zstandard
_GREYS_AND_RGB, CMYK = (0, 1, 2), 5  # photometric
_PREDICTED = tuple(code for code in _PACKED if code != 32773)
_BATCH = 64 << 20  # bytes unpacked at a time
_MOST_TAGS = 65535


class Layout(NamedTuple):
    """How the pixels of a TIFF file's first image are stored.

    Attributes:
      height, width: in pixels, as stored: before the orientation.
      bands: numbers a pixel.
      bits: of a number.
      kind: "u", "i" or "f" (unsigned, signed, float); "" for others.
      planar: each band is stored apart.
      alpha: the last band is an opacity.
      photometric: what the bands mean, as numbered in TIFF 6.0; see `inverted`.
      orientation: 1 to 8, as in EXIF.
      nodata: the number that stands for no data (GDAL_NODATA), None if there is none.
      compression, predictor, fill: as numbered in TIFF 6.0.
      order: of bytes, "<" or ">".
      block: (height, width) in pixels of a strip or tile.
      tiled: in tiles, which are padded, and not in strips.
      offsets, sizes: in bytes, of the strips or tiles.
    """

    height: int
    width: int
    bands: int
    bits: int
    kind: str
    planar: bool
    alpha: bool
    photometric: int
    orientation: int
    nodata: float | None
    compression: int
    predictor: int
    fill: int
    order: str
    block: tuple[int, int]
    tiled: bool
    offsets: np.ndarray
    sizes: np.ndarray

    @property
    def inverted(self) -> bool:
        """Whether the least number is white."""
        return self.photometric == 0

    @property
    def decoded(self) -> int:
        """Bytes of the unpacked pixels, with the padding of tiles."""
        down, across = self.grid
        pixels = down * self.block[0] * across * self.block[1] if self.tiled else 0
        return max(pixels, self.height * self.width) * max(self.bands * self.bits // 8, 3)

    @property
    def grid(self) -> tuple[int, int]:
        """Strips or tiles (down, across), of one band where bands are stored apart."""
        return math.ceil(self.height / self.block[0]), math.ceil(self.width / self.block[1])

    @property
    def readable(self) -> bool:
        """Whether `read_pixels` can read it."""
        return (
            self.compression in (_PLAIN, *_PACKED)
            and self.predictor in (1, 2, 3)
            and (self.predictor != 3 or self.kind == "f")
            and self.fill == 1
            and self.photometric in _GREYS_AND_RGB
            and self.bits in _DEPTHS.get(self.kind, ())
        )


def read_layout(data: bytes) -> Layout:
    """Read the layout of a TIFF file.

    Raises:
      ValueError: its directory is damaged.
    """
    try:
        return _layout(_tags(data), _order(data))
    except KeyError as error:
        raise ValueError(f"a TIFF file without tag {error}") from error
    except (struct.error, ArithmeticError, IndexError) as error:
        raise ValueError(f"a TIFF file whose directory is damaged: {error}") from error


def _layout(tags: dict[int, np.ndarray], order: str) -> Layout:
    def number(tag: int, default: int | None = None) -> int:
        return default if default is not None and tag not in tags else int(tags[tag][0])

    for tag in (_BITS, _FORMAT):
        if len(set(tags.get(tag, np.ones(1)).tolist())) > 1:
            raise ValueError(
                f"a TIFF file whose bands differ in bits or kind of number (tag {tag})"
            )
    height, width, tiled = number(_HEIGHT), number(_WIDTH), _TILE_WIDTH in tags
    block = (min(number(_ROWS, height), height), width)
    if tiled:
        block = (number(_TILE_HEIGHT), number(_TILE_WIDTH))
    if min(*block, height, width) < 1:
        raise ValueError(f"a TIFF file of {width} x {height} pixels in parts of {block[::-1]}")
    orientation = number(_ORIENTATION, 1)
    offsets, sizes = _TILES if tiled else _STRIPS
    return Layout(
        height=height,
        width=width,
        bands=number(_SAMPLES, 1),
        bits=number(_BITS, 1),
        kind=_KINDS.get(number(_FORMAT, 1), ""),
        planar=number(_PLANAR, 1) == 2,
        alpha=_EXTRA in tags and int(tags[_EXTRA][-1]) in (1, 2),
        photometric=number(_PHOTOMETRIC, 1),
        orientation=orientation if orientation in range(1, 9) else 1,
        nodata=_nodata(tags.get(_NODATA)),
        compression=number(_COMPRESSION, _PLAIN),
        predictor=number(_PREDICTOR, 1),
        fill=number(_FILL, 1),
        order=order,
        block=block,
        tiled=tiled,
        offsets=tags[offsets],
        sizes=tags[sizes],
    )


def refuse_bands(found: Layout) -> None:
    """Refuse what cannot be shown as grey or RGB without a guess.

    Raises:
      ValueError: 2 bands that are not grey and alpha, none, or more than 4.
    """
    if found.bands not in (1, 3, 4) and not (found.bands == 2 and found.alpha):
        raise ValueError(
            f"a TIFF image of {found.bands} bands: expected 1 (grey), 3 (RGB) or 4 (RGB and one "
            "that is left out); choose them, for Sentinel-2's 13 bands: "
            "gdal_translate -b 4 -b 3 -b 2 INPUT OUTPUT"
        )


def read_pixels(data: bytes, layout: Layout) -> np.ndarray:
    """Read the numbers of a TIFF file that is `readable`: of 2 bands the first, of 4 the first 3.

    Strips and tiles of size 0, which GDAL does not store, have no data.

    Returns:
      [H, W] or [H, W, 3] of the file's own number type, before the orientation.

    Raises:
      ValueError: it is truncated or damaged.
    """
    dtype = np.dtype(f"{layout.order}{layout.kind}{layout.bits // 8}")
    used = 3 if layout.bands >= 3 else 1
    planes, samples = (used, 1) if layout.planar else (1, layout.bands)
    (down, across), (rows, columns) = layout.grid, layout.block
    if min(len(layout.offsets), len(layout.sizes)) < planes * down * across:
        raise ValueError(
            f"truncated: a TIFF file that lists {len(layout.sizes)} of {planes * down * across} "
            "strips or tiles"
        )
    out = np.full((layout.height, layout.width, used), _empty(layout), dtype.newbyteorder("="))
    row_bytes = columns * samples * dtype.itemsize
    at_once = max(_BATCH // (rows * row_bytes), 1)
    for plane in range(planes):
        target = out[..., plane : plane + 1] if layout.planar else out
        numbers = np.arange(down * across)
        numbers = numbers[layout.sizes[plane * down * across + numbers] > 0]
        for first in range(0, len(numbers), at_once):
            some = numbers[first : first + at_once]
            packed = _pieces(data, layout, plane * down * across + some, rows * row_bytes)
            height = rows * len(some)
            if not layout.tiled and some[-1] == down - 1:  # the last strip ends with the image
                height -= down * rows - layout.height
            unpacked = _unpack(packed, layout.compression, height, rows, row_bytes)
            parts = np.split(unpacked, range(rows, height, rows))
            for number, part in zip(some, parts, strict=True):
                top, left = number // across * rows, number % across * columns
                place = target[top : top + rows, left : left + columns]
                values = _values(part, layout, dtype, samples)
                place[...] = values[: place.shape[0], : place.shape[1], : place.shape[2]]
    return out[..., 0] if used == 1 else out


def _empty(layout: Layout) -> float:
    """Return what stands for no data; 0 where nothing can."""
    if layout.kind == "f":
        return math.nan
    limits = np.iinfo(f"{layout.kind}{layout.bits // 8}")
    nodata = layout.nodata
    return int(nodata) if nodata is not None and limits.min <= nodata <= limits.max else 0


def _pieces(data: bytes, layout: Layout, numbers: np.ndarray, unpacked: int) -> list[bytes]:
    longest = 2 * unpacked + 1024  # no packing makes more of them, whatever a directory says
    starts, sizes = layout.offsets[numbers].tolist(), layout.sizes[numbers].tolist()
    return [data[s : s + min(size, longest)] for s, size in zip(starts, sizes, strict=True)]


def _unpack(
    pieces: list[bytes], compression: int, height: int, rows: int, row_bytes: int
) -> np.ndarray:
    """Unpack strips of `rows` rows, of which the last may be shorter, into uint8 [height, width].

    Tiles are strips as well, one under the other.
    """
    if compression == _PLAIN:
        piece_bytes = rows * row_bytes
        joined = b"".join(piece[:piece_bytes] for piece in pieces)
        if any(len(piece) < piece_bytes for piece in pieces[:-1]) or (
            len(joined) < height * row_bytes
        ):
            raise ValueError("truncated: a TIFF file with a strip or tile that is too short")
        return np.frombuffer(joined, np.uint8, height * row_bytes).reshape(height, row_bytes)
    try:
        with open_image(_grey_file(pieces, compression, height, rows, row_bytes)) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises whatever it pleases.
        raise ValueError(f"a TIFF file with a damaged strip or tile: {error}") from error


def _grey_file(
    pieces: list[bytes], compression: int, height: int, rows: int, row_bytes: int
) -> bytes:
    """Write a TIFF file of packed strips whose pixels are bytes."""
    sizes = [len(piece) for piece in pieces]
    head = 8 + 2 + 12 * 9 + 4
    offsets = list(itertools.accumulate(sizes[:-1], initial=head + 8 * len(pieces)))
    arrays = struct.pack(f"<{2 * len(pieces)}I", *offsets, *sizes)
    many = len(pieces) > 1  # a single number stands in the directory itself
    tags = {
        _WIDTH: row_bytes,
        _HEIGHT: height,
        _BITS: 8,
        _COMPRESSION: compression,
        _PHOTOMETRIC: 1,
        _STRIPS[0]: head if many else offsets[0],
        _SAMPLES: 1,
        _ROWS: rows,
        _STRIPS[1]: head + 4 * len(pieces) if many else sizes[0],
    }
    directory = b"".join(
        struct.pack("<HHII", tag, 4, len(pieces) if tag in _STRIPS else 1, value)
        for tag, value in tags.items()
    )
    start = MAGICS[0] + struct.pack("<IH", 8, len(tags))
    return b"".join([start, directory, bytes(4), arrays, *pieces])


def _values(part: np.ndarray, layout: Layout, dtype: np.dtype, samples: int) -> np.ndarray:
    """Turn unpacked bytes [rows, bytes] into numbers [rows, columns, samples].

    Predictors (TIFF 6.0, section 14, and Adobe's technical note 3): 2, each number is stored as
    its difference from the one before, whole numbers that wrap around; 3, so are the bytes of
    floats, of each row all first bytes, then all second ones, and so on.
    """
    rows = len(part)
    if layout.predictor == 1 or layout.compression not in _PREDICTED:
        return part.view(dtype).reshape(rows, -1, samples)
    if layout.predictor == 2:
        whole = np.dtype(f"u{dtype.itemsize}")
        steps = part.view(f"{layout.order}u{dtype.itemsize}").reshape(rows, -1, samples)
        return steps.cumsum(axis=1, dtype=whole).view(dtype.newbyteorder("="))
    steps = part.reshape(rows, -1, samples).cumsum(axis=1, dtype=np.uint8)
    stored = steps.reshape(rows, dtype.itemsize, -1).swapaxes(1, 2).copy()
    return stored.view(dtype.newbyteorder(">")).reshape(rows, -1, samples)


def _tags(data: bytes) -> dict[int, np.ndarray]:
    """Read what is `_READ` of the first directory."""
    order = _order(data)
    big = 43 in data[2:4]
    place_form, count_form, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    inline = struct.calcsize(place_form)
    (start,) = struct.unpack_from(order + place_form, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_form, data, start)
    if count > _MOST_TAGS:
        raise ValueError(f"a TIFF file whose directory is damaged: of {count:,} tags")
    start += struct.calcsize(count_form)
    length = struct.calcsize("<" + entry) + inline
    tags: dict[int, np.ndarray] = {}
    for place in range(start, start + length * count, length):
        tag, kind, number = struct.unpack_from(order + entry, data, place)
        if tag not in _READ:
            continue
        if tag in tags:
            raise ValueError(f"a TIFF file that has tag {tag} twice")
        if kind not in _TYPES or not number:
            raise ValueError(f"a TIFF file whose tag {tag} has {number} numbers of type {kind}")
        dtype = np.dtype(order + _TYPES[kind])
        where = place + length - inline
        if number * dtype.itemsize > inline:
            (where,) = struct.unpack_from(order + place_form, data, where)
        if where + number * dtype.itemsize > len(data):
            raise ValueError(f"truncated: a TIFF file whose tag {tag} lies behind its end")
        tags[tag] = np.frombuffer(data, dtype, number, where)
    return tags


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _nodata(tag: np.ndarray | None) -> float | None:
    try:
        value = float("" if tag is None else tag.tobytes().decode("latin-1").strip(" \0"))
    except ValueError:
        return None
    return None if math.isnan(value) else value
