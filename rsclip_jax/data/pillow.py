"""The one way in which Pillow opens files here: of our formats only, whatever it may know."""

import io

from PIL import Image

# Pillow knows some forty, among them EPS, for which it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")


def open_image(data: bytes) -> Image.Image:
    """Open an encoded image as `Image.open` does: the header is read, the pixels are not.

    Raises:
      PIL.UnidentifiedImageError: the data are of none of `FORMATS`.
    """
    return Image.open(io.BytesIO(data), formats=FORMATS)
