"""What can be told of an image alone: whether it is one, its size, its hashes."""

import dataclasses
import functools
import hashlib
from typing import Any

import apache_beam as beam
import numpy as np
import scipy.fft
from PIL import Image

from rsclip_jax.build import files
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, each_row
from rsclip_jax.data import images, limits
from rsclip_jax.data.image_check import check_image

_SIDE, _LOW = 32, 8


def perceptual_hash(image: np.ndarray) -> int:
    """Return the 64-bit perceptual hash of an image, as `imagehash.phash` has it.

    Grey (ITU-R 601), 32 x 32 by Lanczos, two-dimensional DCT-II, the 8 x 8 lowest frequencies with
    the constant: a bit is set where they exceed their median, rows first, most significant first.

    Args:
      image: uint8 [H, W, 3].
    """
    grey = Image.fromarray(image).convert("L")
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    low = scipy.fft.dctn(small, type=2)[:_LOW, :_LOW]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hex_hash(value: int) -> str:
    """Write a 64-bit hash as rows have it: 16 hexadecimal digits."""
    return f"{value:016x}"


def check_images(row: Row, max_pixels: int) -> Row:
    """Return the row with the size and the hashes of its image, and of its infrared image.

    Raises:
      Drop: one of them is missing, empty, damaged, or larger than `max_pixels`.
    """
    row = row | _describe(row["image"], max_pixels)
    return check_infrared(row, max_pixels) if row["ir"] else row


def check_infrared(row: Row, max_pixels: int) -> Row:
    """Return the row, whose image was checked, with the hashes of its infrared image.

    Raises:
      Drop: as `check_images`.
    """
    try:
        found = _describe(row["ir"], max_pixels)
    except Drop as drop:
        raise Drop(f"infrared {drop}") from drop
    return row | {
        "ir_sha256": found["sha256"],
        "ir_phash": found["phash"],
        "image_bytes": row["image_bytes"] + found["image_bytes"],
    }


def _describe(reference: str, max_pixels: int) -> dict[str, Any]:
    try:
        data = files.read_image(reference)
        height, width = check_image(data, max_pixels)
        phash = perceptual_hash(images.decode(data))
    except OSError as error:
        raise Drop(f"unreadable file: {error}") from error
    except ValueError as error:
        raise Drop(str(error).replace("--max_pixels", "max_pixels")) from error
    return {
        "width": width,
        "height": height,
        "image_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "phash": hex_hash(phash),
    }


@dataclasses.dataclass
class CheckImages(beam.PTransform):
    """Drop rows whose image cannot be used; tell the size and the hashes of the others."""

    max_pixels: int = limits.MAX_PIXELS

    def expand(self, rows):
        return rows | each_row(functools.partial(check_images, max_pixels=self.max_pixels))
