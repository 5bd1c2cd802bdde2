"""What an encoded image says of its pixels, read and checked before they are decoded."""

import math
import re
import struct
from typing import NamedTuple

import simplejpeg

from rsclip_jax.data import tiff
from rsclip_jax.data.limits import LimitError, check_limits, check_scans
from rsclip_jax.data.orientation import UPRIGHT, orientation, upright_size
from rsclip_jax.data.pillow import open_image

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000's, without boxes around it
JPEG2000_MAGICS = (b"\0\0\0\x0cjP  ", _CODESTREAM)
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; a palette's is RGB


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
      height, width: in pixels, as stored: before the orientation.
      bits: of a number.
      decoded: bytes that a decoder asks for.
      orientation: 1 to 8, as in EXIF.
      layout: of a TIFF file.
    """

    height: int
    width: int
    bits: int
    decoded: int
    orientation: int = UPRIGHT
    layout: tiff.Layout | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) after the orientation."""
        return upright_size(self.height, self.width, self.orientation)


def is_webp(data: bytes) -> bool:
    """Tell whether data start as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_header(data: bytes) -> Header:
    """Read what an image says of its pixels.

    Raises:
      ValueError: the data are not an image, or a truncated one.
      LimitError: it asks for too much.
    """
    try:
        header = _read(data)
    except LimitError:
        raise
    except Exception as error:  # Damaged files make Pillow's plugins raise whatever they please.
        raise undecodable(data, error) from error
    check_limits(header.height, header.width, header.decoded, len(data))
    return header


def undecodable(data: bytes, reason: Exception) -> ValueError:
    """Return the error that names an image which cannot be decoded."""
    # Pillow tells an address in memory: the same file shall have the same reason every time.
    text = re.sub(r"<_io.BytesIO[^>]*>", "", str(reason))
    return ValueError(
        f"cannot decode {len(data)} bytes starting with {bytes(data[:12])!r} as an image: {text}"
    )


def _read(data: bytes) -> Header:
    if data[:4] in tiff.MAGICS:
        layout = tiff.read_layout(data)
        return Header(
            layout.height, layout.width, layout.bits, layout.decoded, layout.orientation, layout
        )
    bits, pixel_bytes = 8, 3
    if data.startswith(JPEG_MAGIC):
        height, width = _jpeg(data)
        check_scans(data, height * width)
    elif data.startswith(PNG_MAGIC):
        height, width, bits, pixel_bytes = _png(data)
    elif is_webp(data):
        height, width = _webp(data)
    elif data.startswith(JPEG2000_MAGICS):
        height, width, bits, pixel_bytes = _jpeg2000(data)
    else:
        with open_image(data) as image:
            height, width = image.height, image.width
    return Header(height, width, bits, height * width * pixel_bytes, orientation(data))


def _jpeg(data: bytes) -> tuple[int, int]:
    try:
        return simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except ValueError:
        with open_image(data) as image:
            return image.height, image.width


def _png(data: bytes) -> tuple[int, int, int, int]:
    """Read a PNG file's header, and see that its chunks lie within it.

    A decoder may believe the length of a chunk and ask for 4 GiB.
    """
    place, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        length, kind = _unpack(">I4s", data, place)
        if (kind == b"IHDR") != (place == len(PNG_MAGIC)):
            raise ValueError("a PNG file whose header is not its first chunk")
        place += 12 + length
        if place > len(data):
            raise ValueError(
                f"truncated: {kind!r} has {length:,} bytes, {place - len(data):,} lack"
            )
    width, height, depth, colour = _unpack(">IIBB", data, len(PNG_MAGIC) + 8)
    if colour not in _PNG_CHANNELS:
        raise ValueError(f"a PNG file of colour type {colour}")
    return height, width, depth, max(3, _PNG_CHANNELS[colour] * depth // 8)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # three bytes each
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (both,) = _unpack("<I", data, 21)
        width, height = (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in _unpack("<HH", data, 26))
    else:
        raise ValueError(f"a WebP file whose first part is {kind!r}")
    return height, width


def _jpeg2000(data: bytes) -> tuple[int, int, int, int]:
    """Read the header that the decoder believes: that of the pixels, not that of the file."""
    place = 0
    while not data.startswith(_CODESTREAM, place):
        length, kind = _unpack(">I4s", data, place)
        head = 8
        if length == 1:
            head = 16
            (length,) = _unpack(">Q", data, place + 8)
        if kind == b"jp2c":
            place += head
            break
        if length < head:
            raise ValueError("a JPEG 2000 file without pixels")
        place += length
    right, bottom, left, top, *_, bands, depth, across, down = _unpack(">8IH3B", data, place + 8)
    width = math.ceil(right / across) - math.ceil(left / across)
    height = math.ceil(bottom / down) - math.ceil(top / down)
    return height, width, 1 + (depth & 0x7F), 4 * bands  # decoded as 32-bit numbers


def _unpack(form: str, data: bytes, place: int) -> tuple:
    try:
        return struct.unpack_from(form, data, place)
    except struct.error:
        raise ValueError(f"truncated: {len(data):,} bytes") from None
