import cv2
import numpy as np
import pytest

from rsclip_jax.evaluators.cell_median import cell_median


def filtered(values, ys, xs, size):
    return cv2.medianBlur(values.repeat(np.diff(ys), axis=0).repeat(np.diff(xs), axis=1), size)


def edges(rng, extent, cells):
    inner = rng.choice(np.arange(1, extent), cells - 1, replace=False)
    return np.array([0, *np.sort(inner), extent])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_random_cells_give_opencvs_median(seed, levels):
    rng = np.random.default_rng(seed)
    size = int(rng.choice([1, 3, 7, 31, 51, 251]))
    height, width = rng.integers(60, 400, 2)
    ys, xs = edges(rng, height, rng.integers(1, 20)), edges(rng, width, rng.integers(1, 20))
    values = rng.integers(0, levels, (len(ys) - 1, len(xs) - 1), np.uint8)
    np.testing.assert_array_equal(
        cell_median(values, ys, xs, size), filtered(values, ys, xs, size), f"{size} {ys} {xs}"
    )


@pytest.mark.parametrize(
    ("ys", "xs"),
    [
        ([0, 300], [0, 280]),  # one cell
        ([0, 1], [0, 1]),
        ([0, 5, 6], [0, 1, 2, 9]),  # much smaller than the window
        ([0, 1, 2, 3, 290, 291, 292], [0, 299, 300]),  # cells of one pixel, at the borders too
        (range(0, 600, 120), range(0, 1300, 130)),  # narrower and wider than half a window
        (range(301), [0, 40, 300]),  # every row a cell
    ],
)
def test_cells_of_any_width_give_opencvs_median(ys, xs):
    ys, xs = np.array(ys), np.array(xs)
    values = np.random.default_rng(0).integers(0, 256, (len(ys) - 1, len(xs) - 1), np.uint8)
    np.testing.assert_array_equal(cell_median(values, ys, xs, 251), filtered(values, ys, xs, 251))


def test_a_tie_of_areas_goes_to_the_pixel_in_the_middle():
    # 2 x 2 cells of which each value covers half of some windows but for their middle row.
    ys = xs = np.array([0, 125, 250])
    values = np.array([[10, 20], [20, 10]], np.uint8)
    np.testing.assert_array_equal(cell_median(values, ys, xs, 251), filtered(values, ys, xs, 251))
