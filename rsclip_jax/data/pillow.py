"""The one way in which Pillow opens files here: of our formats only, whatever it may know."""

import io
import os

from PIL import Image

# Pillow knows some forty, among them EPS, for which it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")


def open_image(file: os.PathLike | str | io.BytesIO) -> Image.Image:
    """Open an image as `Image.open` does: the header is read, the pixels are not.

    Raises:
      PIL.UnidentifiedImageError: the file is of none of `FORMATS`.
    """
    return Image.open(file, formats=FORMATS)
