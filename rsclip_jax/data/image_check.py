"""Is this file a whole image of a bearable size? And making it smaller."""

import warnings

import numpy as np
import simplejpeg
from PIL import Image

from rsclip_jax.data import images, tiff
from rsclip_jax.data.header import JPEG_MAGIC, Header, read_header
from rsclip_jax.data.limits import LimitError

JPEG_QUALITY = 95
DEEP = "of more than 8 bits: each is stretched between its own percentiles"


def check_image(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Return (height, width) in pixels of an encoded image that decodes to its last row.

    The size is taken from the header, so that an absurd one costs no memory. Truncated files are
    refused, which careless decoders fill up with grey. What passes, `images.decode` decodes within
    the same `limits`.

    Args:
      data: a whole file.
      max_pixels: greatest height * width, if less than `limits.MAX_PIXELS`.

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
            header = read_header(data)
            if header.height * header.width > max_pixels:
                raise LimitError(
                    f"image too large: {header.width:,} x {header.height:,} pixels, more than "
                    f"--max_pixels={max_pixels:,}"
                )
            pixels = _eighth_of_flawless_jpeg(data) if data.startswith(JPEG_MAGIC) else None
            # Averages of 8 x 8 pixels can be alike, though those differ.
            if pixels is None or not _varies(pixels):
                pixels = images.decode(data)
    except LimitError:
        raise
    except Exception as error:  # Damaged files make decoders raise whatever they please.
        raise ValueError(f"unreadable image: {error}"[:300]) from error
    return header.size, _remarks(header, pixels)


def _remarks(header: Header, pixels: np.ndarray) -> list[str]:
    found = []
    if pixels.shape[:2] == (1, 1):
        found.append("of one pixel")
    elif not _varies(pixels):
        found.append("constant, every pixel alike" if pixels.any() else "black, or constant")
    layout = header.layout
    if layout is not None and layout.bands == 4 and not layout.alpha:
        if layout.photometric != tiff.CMYK:
            found.append("of four bands, of which the fourth is left out")
    if header.bits > 8:
        found.append(DEEP)
    return found


def _varies(pixels: np.ndarray) -> bool:
    return bool((pixels != pixels[0, 0]).any())


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
