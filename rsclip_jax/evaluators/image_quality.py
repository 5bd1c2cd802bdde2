"""How near a made infrared image is to the true one, and what both look like: plain NumPy.

Everything here takes grey images of levels 0 to 255 and computes in float64.
"""

import numpy as np

PEAK = 255.0
# Wang et al., "Image quality assessment" (2004), section III-C.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two images [H, W] in dB, infinite if they are equal.

    10 log10(255^2 / mean squared difference).
    """
    made, true = _pair(made, true)
    error = np.mean((made - true) ** 2)
    return float(10 * np.log10(PEAK**2 / error)) if error else float("inf")


def ssim(made: np.ndarray, true: np.ndarray) -> float:
    """Return the mean structural similarity of two images [H, W], 1 if they are equal.

    Means, variances and covariance are those under a Gaussian window of 11 x 11 pixels (standard
    deviation 1.5, sum 1), at every place where it fits into the image.

    Raises:
      ValueError: images of different shapes, or smaller than the window.
    """
    made, true = _pair(made, true)
    if min(made.shape) < WINDOW:
        raise ValueError(f"an image of {made.shape} pixels: expected {WINDOW} or more each way")
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    mean_a, mean_b = _windowed(made), _windowed(true)
    var_a = _windowed(made * made) - mean_a**2
    var_b = _windowed(true * true) - mean_b**2
    covariance = _windowed(made * true) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (var_a + var_b + c2)))


def embedding_distance(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the perceptual distances [N] of images by their embeddings [N, D]: 1 - cosine."""
    made, true = (np.asarray(z, np.float64) for z in (made, true))
    lengths = np.linalg.norm(made, axis=1) * np.linalg.norm(true, axis=1)
    return 1 - np.sum(made * true, axis=1) / lengths


def audit(image: np.ndarray) -> dict[str, float]:
    """Describe an image [H, W] by the six quantities of FusionRS's audit of translated images.

    The paper names them without formulas; these are ours. In grey levels: `brightness` is the mean,
    `contrast` the standard deviation, `dynamic_range` the distance of the 99th from the 1st
    percentile, `edge_strength` the mean length of the gradient (central
    differences, per pixel). `entropy` is that of the 256 levels, in bits, `laplacian_variance` the
    variance of the sum of the four neighbours less four times the pixel, borders left out.
    """
    levels = np.asarray(image, np.float64)
    counts = np.bincount(np.clip(np.rint(levels), 0, 255).astype(int).ravel(), minlength=256)
    shares = counts[counts > 0] / levels.size
    dy, dx = np.gradient(levels)
    neighbours = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return {
        "brightness": float(levels.mean()),
        "contrast": float(levels.std()),
        "dynamic_range": float(np.subtract(*np.percentile(levels, (99, 1)))),
        "entropy": float(np.sum(shares * np.log2(1 / shares))),
        "edge_strength": float(np.hypot(dy, dx).mean()),
        "laplacian_variance": float((neighbours - 4 * levels[1:-1, 1:-1]).var()),
    }


def _pair(made: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if made.shape != true.shape or made.ndim != 2:
        raise ValueError(f"images of {made.shape} and {true.shape}: expected one shape [H, W]")
    return np.asarray(made, np.float64), np.asarray(true, np.float64)


def _windowed(x: np.ndarray) -> np.ndarray:
    """Average under the Gaussian window, which is a product of two vectors."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis) @ weights
    return x
