"""What a TIFF file says of its pixels, and reading those that OpenCV gets wrong."""

import math
import struct
from typing import Any, NamedTuple

import cv2
import numpy as np

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF 6.0, section 8 and those on tiles, planes and numbers; 42113 is GDAL's.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _ROWS, _PLANAR, _PREDICTOR = 274, 277, 278, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT, _NODATA = 322, 323, 338, 339, 42113
_STRIPS, _TILES = (273, 279), (324, 325)  # tags of offsets and of sizes
_SIGNED, _FLOAT = 2, 3
CMYK = 5  # photometric
_HALF_BITS = 16
# Of a directory's numbers; LONG8 and IFD8 are BigTIFF's.
_ASCII = 2
_TYPES = {1: "B", _ASCII: "s", 3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}


class Layout(NamedTuple):
    """How the pixels of a TIFF file's first image are stored.

    Attributes:
      height, width: in pixels, as stored: before the orientation.
      bands: numbers a pixel.
      bits: of a number.
      signed: the numbers are signed integers.
      floating: the numbers are floats.
      planar: each band is stored apart.
      alpha: the last band is an opacity.
      photometric: what the bands mean, as numbered in TIFF 6.0; see `inverted`.
      orientation: 1 to 8, as in EXIF.
      nodata: the number that stands for no data (GDAL_NODATA), None if there is none.
    """

    height: int
    width: int
    bands: int
    bits: int
    signed: bool
    floating: bool
    planar: bool
    alpha: bool
    photometric: int
    orientation: int
    nodata: float | None

    @property
    def inverted(self) -> bool:
        """Whether the least number is white."""
        return self.photometric == 0


def layout(data: bytes) -> Layout | None:
    """Read the layout of a TIFF file; None where its directory cannot be read."""
    try:
        tags = _tags(data)
        text = str(tags.get(_NODATA, "")).strip(" \0")
        return Layout(
            height=_first(tags[_HEIGHT]),
            width=_first(tags[_WIDTH]),
            bands=_first(tags.get(_SAMPLES, 1)),
            bits=_first(tags.get(_BITS, 1)),
            signed=_first(tags.get(_FORMAT, 1)) == _SIGNED,
            floating=_first(tags.get(_FORMAT, 1)) == _FLOAT,
            planar=_first(tags.get(_PLANAR, 1)) == 2,
            alpha=_first(tags.get(_EXTRA, 0)) in (1, 2),
            photometric=_first(tags.get(_PHOTOMETRIC, 1)),
            orientation=_first(tags.get(_ORIENTATION, 1)),
            nodata=_number(text),
        )
    except (struct.error, LookupError, ValueError, TypeError, OverflowError, MemoryError):
        # A damaged directory; the decoders say what is wrong with it.
        return None


def refuse_bands(found: Layout) -> None:
    """Refuse what cannot be shown as grey or RGB without a guess.

    Raises:
      ValueError: 2 bands that are not grey and alpha, more than 4, or floats of 16 bits.
    """
    two = found.bands == 2 and not (found.alpha and found.bits == 8)
    if two or found.bands > 4:
        raise ValueError(
            f"a TIFF image of {found.bands} bands: expected 1 (grey), 3 (RGB) or 4 (RGB and one "
            "that is left out); choose them, for Sentinel-2's 13 bands: "
            "gdal_translate -b 4 -b 3 -b 2 INPUT OUTPUT"
        )
    if found.floating and found.bits == _HALF_BITS:
        raise ValueError(
            "a TIFF image of 16-bit floats: expected integers or floats of 32 or 64 bits; "
            "gdal_translate -ot Float32 INPUT OUTPUT"
        )


def read_planes(data: bytes, bands: int) -> np.ndarray | None:
    """Read bands that are stored apart, each as a TIFF file of one band.

    Args:
      data: the whole file.
      bands: how many of the first to read.

    Returns:
      [H, W, bands] of the file's own number type; None where one cannot be read.
    """
    tags = _tags(data)
    offsets_tag, sizes_tag = _TILES if _TILES[0] in tags else _STRIPS
    offsets, sizes = tags[offsets_tag], tags[sizes_tag]
    blocks = len(offsets) // _first(tags[_SAMPLES])
    planes = []
    for band in range(bands):
        own = slice(band * blocks, (band + 1) * blocks)
        entries = {tag: [_first(tags[tag])] for tag in _KEPT if tag in tags}
        entries |= {_PHOTOMETRIC: [1], _SAMPLES: [1], _PLANAR: [1]}
        entries |= {offsets_tag: list(offsets[own]), sizes_tag: list(sizes[own])}
        plane = cv2.imdecode(
            np.frombuffer(_with_directory(data, entries), np.uint8), cv2.IMREAD_UNCHANGED
        )
        if plane is None or plane.ndim != 2:
            return None
        planes.append(plane)
    return np.stack(planes, axis=-1)


# Of the directory, what holds for each band as well.
_KEPT = [_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ROWS, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT]
_KEPT += [_FORMAT]


def _with_directory(data: bytes, entries: dict[int, list[int]]) -> bytes:
    """Append a directory of 32-bit numbers to a TIFF file and make it the first one."""
    order = "<" if data[:2] == b"II" else ">"
    start = len(data) + len(data) % 2
    behind = start + 2 + 12 * len(entries) + 4
    directory, arrays = struct.pack(order + "H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if tag in (_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PREDICTOR, _FORMAT):
            directory += struct.pack(order + "HHIHH", tag, 3, 1, values[0], 0)
        elif len(values) == 1:
            directory += struct.pack(order + "HHI", tag, 4, 1) + packed
        else:
            place = behind + len(arrays)
            directory += struct.pack(order + "HHII", tag, 4, len(values), place)
            arrays += packed
    body = data[8:] + b"\0" * (len(data) % 2) + directory + struct.pack(order + "I", 0) + arrays
    magic = MAGICS[0] if order == "<" else MAGICS[1]  # of a BigTIFF file as well: below 4 GiB
    return magic + struct.pack(order + "I", start) + body


def _tags(data: bytes) -> dict[int, Any]:
    """Read the first directory: whole numbers as tuples, texts as such; other types are left."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    start += 8 if big else 2
    entry = order + ("HHQ" if big else "HHI")
    length, inline = (20, 8) if big else (12, 4)
    tags: dict[int, Any] = {}
    for place in range(start, start + length * count, length):
        tag, kind, number = struct.unpack_from(entry, data, place)
        if kind not in _TYPES:
            continue
        form = f"{order}{number}{_TYPES[kind]}"
        where = place + length - inline
        if struct.calcsize(form) > inline:
            (where,) = struct.unpack_from(order + ("Q" if big else "I"), data, where)
        values = struct.unpack_from(form, data, where)
        tags[tag] = values[0].decode("latin-1") if kind == _ASCII else values
    return tags


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
