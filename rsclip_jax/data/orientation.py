"""EXIF's orientation: which way up an image wants to be shown."""

import numpy as np

from rsclip_jax.data.pillow import open_image

TAG = 0x0112
UPRIGHT = 1
_HEAD = 1 << 16  # JPEG's and PNG's EXIF data stand before the pixels


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG, PNG, WebP or AVIF file; 1 where it has none."""
    webp = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and bool(data[20] & 8)
    avif = data[4:12] in (b"ftypavif", b"ftypavis")  # Pillow tells its own way of turning as EXIF's
    if (
        not (webp or avif)
        and data.find(b"Exif\0\0", 0, _HEAD) < 0
        and data.find(b"eXIf", 0, _HEAD) < 0
    ):
        return UPRIGHT
    try:
        with open_image(data) as image:  # Reads the header only.
            value = image.getexif().get(TAG, UPRIGHT)
    except Exception:  # Damaged metadata make Pillow raise whatever it pleases.
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT


def upright(image: np.ndarray, value: int) -> np.ndarray:
    """Turn and mirror an image [H, W, ...] so that it is the right way up.

    Args:
      value: the EXIF orientation, 1 to 8.
    """
    if value == UPRIGHT:
        return image
    if value >= 5:
        image = image.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        image = image[::-1]
    if value in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def upright_size(height: int, width: int, value: int) -> tuple[int, int]:
    """Return (height, width) of an image after `upright`."""
    return (width, height) if value >= 5 else (height, width)
