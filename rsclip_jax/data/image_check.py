"""Is this file a whole image of a bearable size? And making it smaller."""

import re
import warnings

import numpy as np
import simplejpeg
from PIL import Image

from rsclip_jax.data import images, tiff
from rsclip_jax.data.orientation import orientation, upright_size
from rsclip_jax.data.pillow import FORMATS, open_image

JPEG_QUALITY = 95
DEEP = "of more than 8 bits: each is stretched between its own percentiles"


def check_image(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Return (height, width) in pixels of an encoded image that decodes to its last row.

    The size is taken from the header, so that an absurd one costs no memory. Truncated files are
    refused, which careless decoders fill up with grey.

    Args:
      data: a whole file.
      max_pixels: greatest height * width.

    Raises:
      ValueError: with the reason to skip the sample.
    """
    return inspect_image(data, max_pixels)[0]


def inspect_image(data: bytes, max_pixels: int) -> tuple[tuple[int, int], list[str]]:
    """Check an image as `check_image` does, and name what is odd about it though it can be used.

    Returns:
      (height, width), and remarks: of one pixel; black; constant; a TIFF band that is left out;
      numbers of more than 8 bits.
    """
    if not data:
        raise ValueError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata: the pixels count here.
            height, width = _header_size(data)
            if height * width > max_pixels:
                raise _TooLarge(
                    f"image too large: {width:,} x {height:,} pixels, more than "
                    f"--max_pixels={max_pixels:,}"
                )
            pixels = _eighth_of_flawless_jpeg(data) if _is_jpeg(data) else None
            if pixels is None:
                pixels = images.decode(data)
                if pixels.shape[:2] != (height, width):
                    raise ValueError(
                        f"its header says {width:,} x {height:,} pixels, its decoder finds "
                        f"{pixels.shape[1]:,} x {pixels.shape[0]:,}"
                    )
            elif not _varies(pixels):  # averages of 8 x 8 pixels can be alike, though those differ
                pixels = images.decode(data)
    except _TooLarge as error:
        raise ValueError(str(error)) from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"unreadable image: of no known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # Damaged files make decoders raise whatever they please.
        # Pillow tells an address in memory: the same file shall have the same reason every time.
        reason = re.sub(r"<_io.BytesIO[^>]*>", "", str(error))
        raise ValueError(f"unreadable image: {reason}"[:300]) from error
    return (height, width), _remarks(data, pixels)


def _remarks(data: bytes, pixels: np.ndarray) -> list[str]:
    found = []
    if pixels.shape[:2] == (1, 1):
        found.append("of one pixel")
    elif not _varies(pixels):
        found.append("constant, every pixel alike" if pixels.any() else "black, or constant")
    if data[:4] in tiff.MAGICS and (layout := tiff.layout(data)) is not None:
        if layout.bands == 4 and not layout.alpha and layout.photometric != tiff.CMYK:
            found.append("of four bands, of which the fourth is left out")
    if _bits(data) > 8:
        found.append(DEEP)
    return found


def _bits(data: bytes) -> int:
    """Return the bits of a number in a file that can be decoded; 8 where they cannot be more."""
    if data[:4] in tiff.MAGICS and (layout := tiff.layout(data)) is not None:
        return layout.bits
    if data.startswith(b"\x89PNG"):
        return data[24]
    if (header := data.find(b"ihdr", 0, 100)) >= 0:  # JPEG 2000's
        return 1 + (data[header + 14] & 0x7F)
    return 8


def _varies(pixels: np.ndarray) -> bool:
    return bool((pixels != pixels[0, 0]).any())


class _TooLarge(Exception):
    pass


def _is_jpeg(data: bytes) -> bool:
    return data[:3] == b"\xff\xd8\xff"


def _header_size(data: bytes) -> tuple[int, int]:
    if _is_jpeg(data):
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
        return upright_size(height, width, orientation(data))
    if data[:4] in tiff.MAGICS and (layout := tiff.layout(data)) is not None:
        tiff.refuse_bands(layout)  # Pillow would call them no known format
        return upright_size(layout.height, layout.width, layout.orientation)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # The user's limit counts.
    try:
        with open_image(data) as image:
            return upright_size(image.height, image.width, orientation(data))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _eighth_of_flawless_jpeg(data: bytes) -> np.ndarray | None:
    """Decode at 1/8 scale, which still reads every coefficient, in a third of the time."""
    try:
        return simplejpeg.decode_jpeg(data, min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError:
        return None  # Truncated, or merely odd (stray bytes between markers): `decode` can tell.


def shrink(data: bytes, side: int) -> bytes:
    """Reduce an image to a shorter side of `side` pixels, as JPEG; a smaller one is left as it is.

    Args:
      data: an encoded image that passed `check_image`.
      side: in pixels, at least 1.

    Returns:
      The encoded image: RGB JPEG of quality 95 (bicubic, antialiased), or `data` itself.
    """
    image = Image.fromarray(images.decode(data))
    short = min(image.size)
    if short <= side:
        return data
    width, height = (max(side, round(length * side / short)) for length in image.size)
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    return simplejpeg.encode_jpeg(np.asarray(small), quality=JPEG_QUALITY)
