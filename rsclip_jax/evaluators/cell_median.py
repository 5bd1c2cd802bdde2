"""The exact median filter of a map that is constant on the cells of a grid.

OpenCV's filter looks at every pixel. Where the cells are about as large as the window, a window
sees few values: its median is the first of them, in ascending order, up to which they cover more
than half of it, and the areas that they cover are products of overlaps along y and along x.

That is four times as fast with cells of half the window's side and as fast with a quarter; with
smaller ones it is slower and takes more memory. Threads did not help: NumPy is called often, on
few pixels at a time.

Dimensions: R, C rows and columns of cells; I, J of those that a window touches; K = I J values.
"""

import itertools

import numpy as np


def cell_median(values: np.ndarray, ys: np.ndarray, xs: np.ndarray, size: int) -> np.ndarray:
    """Unfold a grid to pixels and take the median over `size` x `size` of them.

    Args:
      values: uint8 [R, C], one for each cell.
      ys, xs: ascending edges [R + 1] and [C + 1] of the cells, from 0 to H and W.
      size: odd side of the window in pixels, less than 4096: float32 holds its area exactly.

    Returns:
      uint8 [H, W], equal to `cv2.medianBlur`'s: borders are replicated.
    """
    y, x = _Axis(ys, size), _Axis(xs, size)
    pixels = np.empty((ys[-1], xs[-1]), np.uint8)

    for row in range(len(values)):
        near = values[y.near[row]][:, x.near].swapaxes(0, 1)
        overlaps, corners = np.ascontiguousarray(y.overlaps[row].T), y.corners[row].T
        _fill(pixels[y.pixels[row]], near, overlaps, corners, x, size**2 // 2)
    return pixels


class _Axis:
    """What the windows about the pixels of one axis cover.

    Attributes, for each of R cells:
      pixels: its slice of the axis.
      near: integers [R, I], the cells that the windows of its pixels touch; the last may repeat.
      overlaps: float32 [I, h], how much of them the window about each of its h pixels covers.
      corners: float32 [R, I, N], the overlaps where they bend, and at the ends of the cell: they
        are linear in between. The last may repeat.
    """

    def __init__(self, edges: np.ndarray, size: int):
        reach, inner = size // 2, edges[1:-1]
        first = np.searchsorted(inner, edges[:-1] - reach, side="right")
        last = np.searchsorted(inner, edges[1:] - 1 + reach, side="right")
        beside = first[:, None] + np.arange((last - first).max() + 1)
        self.near = np.minimum(beside, last[:, None])
        # The cells at the border go on behind it.
        begin, end = np.r_[-reach, inner], np.r_[inner, edges[-1] + reach]
        bends = np.unique(np.r_[edges[:-1], edges[1:] - 1, inner + reach, inner - reach - 1])
        self.pixels, self.overlaps, corners = [], [], []
        for cell, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
            pixel, touched = np.arange(start, stop), self.near[cell, :, None]
            overlap = np.minimum(end[touched], pixel + reach + 1)
            overlap = np.maximum(overlap - np.maximum(begin[touched], pixel - reach), 0)
            overlap[beside[cell] > last[cell]] = 0  # not twice
            self.pixels.append(slice(start, stop))
            self.overlaps.append(overlap.astype(np.float32))
            corners.append(self.overlaps[-1][:, bends[(bends >= start) & (bends < stop)] - start])
        most = max(corner.shape[1] for corner in corners)
        self.corners = np.stack(
            [np.pad(c, [(0, 0), (0, most - c.shape[1])], mode="edge") for c in corners]
        )


def _fill(
    pixels_hxW: np.ndarray,
    near_CxIxJ: np.ndarray,
    overlaps_hxI: np.ndarray,
    corners_NxI: np.ndarray,
    x: _Axis,
    half: int,
) -> None:
    """Write the medians of one row of cells."""
    levels_CxK = np.sort(near_CxIxJ.reshape(len(near_CxIxJ), -1))
    below = (near_CxIxJ[:, None] <= levels_CxK[:, :, None, None]).astype(np.float32)
    # An area is linear along y and along x between corners, so those at the corners bound it: for
    # most values it is more than half, or less, at all pixels of a cell.
    area = (corners_NxI @ below @ x.corners[:, None]).reshape(*levels_CxK.shape, -1)
    reached = area.max(axis=2) > half
    crossing = reached & (area.min(axis=2) <= half)
    crossing[:, :-1] &= levels_CxK[:, :-1] < levels_CxK[:, 1:]
    first = reached.argmax(axis=1)
    for c, levels in enumerate(levels_CxK):
        found = levels[first[c]]
        for k in crossing[c].nonzero()[0]:
            above = overlaps_hxI @ below[c, k] @ x.overlaps[c] <= half
            found = np.maximum(found, above.view(np.uint8) * levels[k + 1])
        pixels_hxW[:, x.pixels[c]] = found
