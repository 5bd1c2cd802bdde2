"""What can stand for an infrared image at no cost: functions of the RGB image alone.

They are what a trained translator has to beat. All take uint8 [..., 3] and return uint8 [...].
"""

from collections.abc import Callable

import numpy as np

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's "L"


def grayscale(rgb: np.ndarray) -> np.ndarray:
    """Return the luma."""
    return _levels(rgb.astype(np.float64) @ np.array(LUMA))


def inverted(rgb: np.ndarray) -> np.ndarray:
    """Return 255 less the luma: what is dark to the eye, as warm roofs, is bright."""
    return 255 - grayscale(rgb)


def vegetation(rgb: np.ndarray) -> np.ndarray:
    """Return the luma brightened where plants grow, as near infrared is.

    NDVI = (NIR - red) / (NIR + red) solved for NIR is red (1 + NDVI) / (1 - NDVI). The index is
    replaced by one of visible light, the green leaf index (2G - R - B) / (2G + R + B) of Louhaichi
    et al. (2001), and red, which plants absorb, by the luma.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    # (1 + index) / (1 - index) is 2G / (R + B).
    ratio = 2 * green / np.maximum(red + blue, 1)
    return _levels(rgb.astype(np.float64) @ np.array(LUMA) * ratio)


FREE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "grayscale": grayscale,
    "inverted": inverted,
    "vegetation": vegetation,
}


def _levels(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
