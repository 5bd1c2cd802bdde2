"""Numbers of any kind -> uint8 RGB."""

import cv2
import numpy as np

# Stand for no data in signed and floating numbers, tagged or not: the custom, and what is no
# measurement, as GDAL's least float.
_MISSING, _GREATEST_DATA = -9999, 1e38
_LEAST_RANGE = 0.01  # of the greatest number: scenes at 300 K range over more than 3 K
_AT_ONCE = 1 << 22  # numbers: floats of 64 bits of a whole scene would take much memory


def rgb8(image: np.ndarray, nodata: float | None = None, inverted: bool = False) -> np.ndarray:
    """Turn grey or RGB of any number type into uint8 [H, W, 3], as `images.decode` has it.

    Args:
      image: [H, W], [H, W, 1] or [H, W, 3].
      nodata: the number that stands for no data.
      inverted: the least number is white.
    """
    if image.dtype == bool:
        image = image * np.uint8(255)
    if image.dtype != np.uint8:
        image = _stretched(image, nodata, inverted)
    elif inverted:
        image = ~image
    if image.ndim == 3 and image.shape[2] == 3:
        return np.ascontiguousarray(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _stretched(image: np.ndarray, nodata: float | None, inverted: bool) -> np.ndarray:
    if image.dtype == np.float16:
        image = image.astype(np.float32)  # the percentiles' sums would overflow
    valid = _valid(image, nodata)
    given = image[valid]
    low, high = np.percentile(given, (1, 99)) if given.size else (0.0, 0.0)
    if low == high and given.size:
        low, high = given.min(), given.max()
    low, high = float(low), float(high)
    scale = 255 / max(high - low, _LEAST_RANGE * max(abs(low), abs(high))) if high > low else 0
    out = np.empty(image.shape, np.uint8)
    rows = max(_AT_ONCE // max(image[0].size, 1), 1)
    for first in range(0, len(image), rows):
        some = slice(first, first + rows)
        pixels = (np.where(valid[some], image[some], low) - low) * scale
        if inverted:
            pixels = np.where(valid[some], 255 - pixels, 0)
        out[some] = np.clip(np.rint(pixels), 0, 255)
    return out


def _valid(image: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return where an image has data: booleans of its shape."""
    valid = np.isfinite(image)
    if nodata is not None:
        with np.errstate(over="ignore"):  # what no number of this type is becomes infinite
            valid &= image != (image.dtype.type(nodata) if image.dtype.kind == "f" else nodata)
    if image.dtype.kind in "if":
        valid &= image != _MISSING
    if image.dtype.kind == "f":
        valid &= np.abs(image) < _GREATEST_DATA
    return valid
