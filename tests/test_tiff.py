"""TIFF files of every depth, sign, layout and orientation against the pixels written into them."""

import itertools

import numpy as np
import pytest
from tiff_writer import tiff

from rsclip_jax.data import images
from rsclip_jax.data.image_check import DEEP, check_image, inspect_image

KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def made(kind, bands, height=37, width=29):
    rng = np.random.default_rng(0)
    a = rng.gamma(3.0, 12.0, (height, width, bands)).clip(0, 120)
    a = a * 100 if np.dtype(kind).itemsize > 1 else a
    return (a - a.mean() if np.dtype(kind).kind in "if" else a).astype(kind)


def expected(a, valid=None):
    """What `decode` promises of [H, W, bands], computed in the plainest way."""
    a = a[..., :3].astype(np.float64) if a.dtype != np.uint8 else a[..., :3]
    if a.dtype != np.uint8:
        valid = np.ones(a.shape, bool) if valid is None else valid[..., :3]
        low, high = np.percentile(a[valid], (1, 99))
        a = np.where(valid, np.clip(np.rint((a - low) * (255 / (high - low))), 0, 255), 0)
    return np.broadcast_to(a.astype(np.uint8), (*a.shape[:2], 3))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_written(kind, bands, planar, order):
    a = made(kind, bands)
    if (kind, bands, planar) == ("i1", 4, False):  # no decoder reads them rightly: no pixels then
        with pytest.raises(ValueError, match="cannot decode"):
            images.decode(tiff(a, planar=planar, order=order))
        return
    stored = [{}, {"deflate": True}, {"tile": 32}, {"tile": 32, "deflate": True}]
    if a.dtype.kind != "f":
        stored += [{"predictor": True, "deflate": True}]
    if order == "<" or a.itemsize > 1:
        stored += [{"big": True}, {"big": True, "tile": 32, "deflate": True}]
    for options, extra in itertools.product(stored, (None, 0, 2) if bands == 4 else (None,)):
        data = tiff(a, planar=planar, order=order, extra=extra, **options)
        np.testing.assert_array_equal(images.decode(data), expected(a))
        assert check_image(data, 10**6) == images.dimensions(data) == (37, 29)


@pytest.mark.parametrize("way", UPRIGHT)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(
    ("kind", "bands"), [("u1", 4), ("u1", 3), ("u1", 1), ("i2", 4), ("u2", 3), ("f4", 1)]
)
def test_orientation_is_applied_once(kind, bands, planar, way):
    a = made(kind, bands)
    data = tiff(a, planar=planar, orientation=way)
    upright = expected(UPRIGHT[way](a))
    np.testing.assert_array_equal(images.decode(data), upright)
    assert check_image(data, 10**6) == images.dimensions(data) == upright.shape[:2]


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    ("kind", "gap", "tag"),
    [
        ("i4", -9999, "-9999"),
        ("u4", 2**32 - 1, str(2**32 - 1)),
        ("u2", 0, "0"),
        ("u2", 65535, "65535"),
        ("u1", 0, "0"),  # of 8 bits, nothing is stretched
        ("i2", -9999, ""),
        ("i2", -32768, "-32768"),
        ("f4", -9999, "-9999"),
        ("f4", -9999, ""),
        ("f4", np.nan, "nan"),
        ("f4", np.nan, ""),
        ("f4", np.inf, ""),
        ("f4", 1e20, "1e+20"),
        ("f4", np.finfo(np.float32).min, "-3.40282346638529e+38"),
        ("f8", 0.1, "0.1"),
    ],
)
def test_pixels_without_data_stay_out_of_the_stretch(kind, gap, tag, bands, planar):
    a = made(kind, bands)
    if kind == "u2":
        a += 1
    a[:9] = gap
    valid = np.ones(a.shape, bool)
    valid[:9] = False
    for way in (1, 6):  # as stored, and turned
        turned = expected(UPRIGHT[way](a), UPRIGHT[way](valid))
        data = tiff(a, nodata=tag, planar=planar, orientation=way)
        np.testing.assert_array_equal(images.decode(data), turned)


def test_zero_without_a_tag_is_data():
    a = made("u2", 1)
    a[:9] = 0
    np.testing.assert_array_equal(images.decode(tiff(a)), expected(a))


def test_white_is_zero_is_turned_over():
    a = made("u2", 1)
    np.testing.assert_array_equal(images.decode(tiff(a, photometric=0)), 255 - expected(a))
    a = made("u1", 1)
    np.testing.assert_array_equal(images.decode(tiff(a, photometric=0)), 255 - expected(a))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("bands", [2, 5, 13])
def test_other_numbers_of_bands_are_refused_by_name(kind, bands, planar):
    data = tiff(made(kind, bands), planar=planar)
    for read in (images.decode, lambda data: check_image(data, 10**6)):
        with pytest.raises(ValueError, match=f"of {bands} bands: expected 1 .* gdal_translate -b"):
            read(data)


def test_floats_of_16_bits_are_refused_by_name():
    with pytest.raises(ValueError, match=r"16-bit floats.*Float32"):
        images.decode(tiff(made("f4", 1).astype("f2")))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_truncated_file_is_refused(kind, bands, planar):
    data = tiff(made(kind, bands), planar=planar)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(ValueError):
            images.decode(data[: int(share * len(data))])


def test_a_fourth_band_that_is_left_out_is_said():
    assert inspect_image(tiff(made("u1", 4), extra=0), 10**6)[1] == [
        "of four bands, of which the fourth is left out"
    ]
    assert inspect_image(tiff(made("u1", 4), extra=2), 10**6)[1] == []
    assert inspect_image(tiff(made("u1", 3)), 10**6)[1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_more_than_8_bits_are_said(kind):
    deep = [DEEP] if np.dtype(kind).itemsize > 1 else []
    assert inspect_image(tiff(made(kind, 1)), 10**6)[1] == deep


def test_damaged_directories_are_refused_whatever_is_wrong_with_them():
    whole = tiff(made("u2", 3, 9, 7), planar=True, nodata="0")
    start = int.from_bytes(whole[4:8], "little")
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(start, len(data), 3):
            data[place] = rng.integers(256)
        try:
            assert images.decode(bytes(data)).ndim == 3
        except ValueError:
            pass
