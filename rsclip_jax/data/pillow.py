"""The one way in which Pillow opens files here: of our formats only, whatever it may know."""

import io
import struct
from typing import cast

from PIL import Image, ImageFile, UnidentifiedImageError

# Pillow knows some forty, among them EPS, for which it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
Image.init()  # registers them


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Open an encoded image as `Image.open` does: the header is read, the pixels are not.

    Pillow's own limit (`Image.MAX_IMAGE_PIXELS`, for all of the process) is left aside; those of
    `limits` are checked by `read_header`.

    Raises:
      PIL.UnidentifiedImageError: the data are of none of `FORMATS`.
    """
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(data[:16]) is True:
            try:
                return cast(ImageFile.ImageFile, factory(io.BytesIO(data), ""))
            except (SyntaxError, IndexError, TypeError, KeyError, struct.error) as error:
                raise UnidentifiedImageError(f"a damaged {name} file: {error}") from error
    raise UnidentifiedImageError(f"of no known format ({', '.join(FORMATS)})")
