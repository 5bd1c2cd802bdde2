"""TIFF files of every kind, against tifffile's reading of them and the rules of `images.decode`.

tifffile writes the files and reads the stored numbers; what becomes of those is computed here, in
64-bit floats, from what the documentation says.
"""

import io
import logging
import re

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from rsclip_jax.data import images
from rsclip_jax.data.image_check import DEEP, check_image, inspect_image

KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
STRIPS, TILES = {"rowsperstrip": 7}, {"tile": (16, 32)}
ORIENTATION, NODATA = 274, 42113
GDAL_DEEP = {"photometric": "minisblack", "extrasamples": [0, 0]}  # so GDAL marks deep RGB
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it names nodata that are no numbers


def made(kind, bands, height=37, width=29):
    rng = np.random.default_rng(0)
    a = rng.gamma(3.0, 12.0, (height, width, bands)).clip(0, 120)
    a = a * 100 if np.dtype(kind).itemsize > 1 else a
    return (a - a.mean() if np.dtype(kind).kind in "if" else a).astype(kind)


def write(a, *, planar=False, order="<", big=False, orientation=1, nodata=None, **options):
    """Write [H, W, bands] with tifffile."""
    bands = a.shape[2]
    options.setdefault("photometric", "rgb" if bands in (3, 4) else "minisblack")
    extra = [(ORIENTATION, "H", 1, orientation, True)]
    extra += [] if nodata is None else [(NODATA, "s", 0, nodata, True)]
    if bands == 1:
        a = a[..., 0]
    else:
        options["planarconfig"] = "separate" if planar else "contig"
        a = np.moveaxis(a, 2, 0) if planar else a
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as writer:
        writer.write(a, extratags=extra, metadata=None, software=False, **options)
    return file.getvalue()


def expected(data):
    """What `decode` promises, from tifffile's reading."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        tags = {tag.code: tag.value for tag in page.tags}
        a = np.atleast_3d(page.asarray())
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        a = np.moveaxis(a, 0, 2)
    a = a[..., :3] if a.shape[2] >= 3 else a[..., :1]
    white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        a = (tags[320][:, a[..., 0]] // 256).transpose(1, 2, 0)
    elif page.bitspersample == 1:
        a = (a != white_is_zero) * 255
    elif a.dtype == np.uint8:
        a = 255 - a if white_is_zero else a
    else:
        a = stretch(a, tags.get(NODATA, ""), white_is_zero)
    a = UPRIGHT[tags[ORIENTATION]](a.astype(np.uint8))
    return np.broadcast_to(a, (*a.shape[:2], 3))


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


def stretch(a, nodata, white_is_zero):
    valid = np.isfinite(a)
    if a.dtype.kind in "if":
        valid &= a != -9999
    if a.dtype.kind == "f":
        valid &= np.abs(a.astype(np.float64)) < 1e38
    if NUMBER.fullmatch(nodata.strip()):
        with np.errstate(over="ignore"):
            gap = float(nodata)
            valid &= a != (a.dtype.type(gap) if a.dtype.kind == "f" else gap)
    a = np.where(valid, a, 0).astype(np.float64)
    low, high = np.percentile(a[valid], (1, 99))
    if low == high:
        low, high = a[valid].min(), a[valid].max()
    steps = (a - low) * 255 / max(high - low, 0.01 * max(abs(low), abs(high)))
    steps = 255 - steps if white_is_zero else steps
    return np.where(valid, np.clip(np.rint(steps), 0, 255), 0)


def check(data):
    """Hold what is decoded against `expected`; tell that it was."""
    right = expected(data)
    np.testing.assert_array_equal(images.decode(data), right)
    assert check_image(data, 10**6) == images.dimensions(data) == right.shape[:2]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("bands", "planar"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_that_tifffile_reads(kind, bands, planar, order):
    a = made(kind, bands)
    extras = {1: [[]], 2: [[1], [2]], 3: [[]], 4: [[0], [1], [2]]}[bands]
    stored = [STRIPS, TILES | {"compression": "zlib"}, STRIPS | {"compression": "lzma"}]
    if a.dtype.kind != "f" and a.itemsize < 8:
        stored += [way | {"compression": "zlib", "predictor": 2} for way in (STRIPS, TILES)]
    stored += [TILES]
    for number, way in enumerate(stored):
        extra = extras[number % len(extras)]
        big = number % 2 == 1
        check(write(a, planar=planar, order=order, extrasamples=extra, big=big, **way))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bands_keep_their_order_where_a_file_calls_them_grey(kind, planar, order):
    for bands in (3, 4):
        for way in (STRIPS, TILES | {"compression": "zlib"}):
            options = GDAL_DEEP | {"extrasamples": [0] * (bands - 1)} | way
            check(write(made(kind, bands), planar=planar, order=order, **options))


@pytest.mark.parametrize("way", UPRIGHT)
@pytest.mark.parametrize(("bands", "planar"), [(1, False), (3, False), (3, True), (4, False)])
@pytest.mark.parametrize("kind", ["u1", "i2", "f4"])
def test_orientation_is_applied_once(kind, bands, planar, way):
    check(write(made(kind, bands), planar=planar, orientation=way))


@pytest.mark.parametrize("value", [0, 9, 700])
def test_an_orientation_that_is_none_is_left_alone(value):
    a = made("u1", 3)
    np.testing.assert_array_equal(images.decode(write(a, orientation=value)), a)


@pytest.mark.parametrize(("bands", "planar"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize(
    ("kind", "gap", "tag"),
    [
        ("i4", -9999, "-9999"),
        ("u4", 2**32 - 1, str(2**32 - 1)),
        ("u2", 0, "0"),
        ("u2", 0, "0.0"),
        ("u2", 0, None),
        ("u2", 65535, "65535 "),
        ("u2", 5, "-9999"),
        ("u2", 5, "0.5"),
        ("u2", 5, "none"),
        ("u1", 0, "0"),  # of 8 bits, nothing is stretched
        ("i1", -128, "-128"),
        ("i2", -9999, None),
        ("i2", -32768, "-32768"),
        ("f4", -9999, "-9999"),
        ("f4", 0, "0"),
        ("f4", np.nan, "nan"),
        ("f4", np.inf, None),
        ("f4", 1e20, "1e+20"),
        ("f4", np.finfo(np.float32).min, "-3.40282346638529e+38"),
        ("f4", np.finfo(np.float32).max, None),
        ("f4", 5, "1e+300"),
        ("f8", 0.1, "0.1"),
        ("f8", np.finfo(np.float64).min, "-1.7976931348623157e+308"),
        ("f8", np.finfo(np.float64).max, None),
    ],
)
def test_pixels_without_data_stay_out_of_the_stretch(kind, gap, tag, bands, planar):
    a = made(kind, bands)
    a[:9] = gap
    a[20, :, 0] = gap
    check(write(a, nodata=tag, planar=planar))
    check(write(a, nodata=tag, planar=planar, orientation=6))


@pytest.mark.parametrize("way", [STRIPS, TILES, STRIPS | {"compression": "zlib"}])
def test_what_a_file_calls_white_and_palettes(way):
    for kind in KINDS:
        check(write(made(kind, 1), photometric="miniswhite", nodata="7", **way))
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    for orientation in (1, 6):
        options = way | {"orientation": orientation}
        check(write(made("u1", 1), photometric="palette", colormap=colours, **options))
        for photometric in ("minisblack", "miniswhite"):
            check(write(made("u1", 1) > 30, photometric=photometric, **options))


@pytest.mark.parametrize("kind", ["u2", "i2", "f4"])
def test_parts_that_are_not_stored_have_no_data(kind):
    """GDAL leaves them out of sparse files."""
    tile = made(kind, 1, 16, 16)[..., 0]
    for tag in (None, "-9999", "0"):
        file = io.BytesIO()
        extra = [(ORIENTATION, "H", 1, 1, True)] + [(NODATA, "s", 0, tag, True)] * (tag is not None)
        with tifffile.TiffWriter(file) as writer:
            options = {"tile": (16, 16), "compression": "zlib", "extratags": extra}
            tiles = iter([tile, None, None, None])
            writer.write(tiles, shape=(32, 30), dtype=kind, metadata=None, **options)
        decoded = images.decode(file.getvalue())
        if kind == "f4" or tag == "0" or (kind, tag) == ("i2", "-9999"):
            whole = write(tile[..., None])
            np.testing.assert_array_equal(decoded[:16, :16], expected(whole))
            assert not decoded[:16, 16:].any()
        else:
            check(file.getvalue())


# OpenCV's libtiff packs what tifffile alone does not.
@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 32946])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_every_packing_gives_the_same_pixels(kind, bands, compression):
    a = made(kind, bands)
    right = expected(write(a))
    for predictor in (1, 2, 3) if compression in (5, 8, 32946) else (1,):
        if predictor == 3 and a.dtype.kind != "f":
            continue
        options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
        ok, data = cv2.imencode(".tiff", a if bands == 1 else a[..., ::-1], options)
        assert ok and tags_of(data.tobytes()).get(259, 1) == compression
        np.testing.assert_array_equal(images.decode(data.tobytes()), right)


def tags_of(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return {tag.code: tag.value for tag in file.pages[0].tags}


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"]
)
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_pillows_files_are_read_as_pillow_does(mode, compression):
    image = Image.fromarray(made("u1", 3)).convert("L" if mode in ("I;16", "F") else "RGB")
    image = image.convert("RGB").convert(mode) if mode not in ("I;16", "F") else image.convert(mode)
    if compression == "jpeg" and mode not in ("L", "RGB", "CMYK", "YCbCr"):
        pytest.skip("JPEG has no such mode")
    if (compression, mode) == (None, "YCbCr"):
        pytest.skip("Pillow cannot read what it writes")
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    stored = Image.open(io.BytesIO(file.getvalue()))
    right = images.to_rgb8(np.asarray(stored) if mode in ("I;16", "F") else stored)
    np.testing.assert_array_equal(images.decode(file.getvalue()), right)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("bands", [2, 5, 13])
def test_other_numbers_of_bands_are_refused_by_name(kind, bands, planar):
    extra = [0] * (bands - 1)
    data = write(made(kind, bands), planar=planar, extrasamples=extra)
    for read in (images.decode, lambda data: check_image(data, 10**6)):
        with pytest.raises(ValueError, match=f"of {bands} bands: expected 1 .* gdal_translate -b"):
            read(data)


def test_complex_numbers_are_refused_by_name():
    data = write(made("f4", 1).astype(np.complex64))
    with pytest.raises(ValueError, match=r"1 bands of 64 bits, stored in an unknown way .*kind of"):
        images.decode(data)


@pytest.mark.parametrize("way", [STRIPS, TILES, STRIPS | {"compression": "zlib"}])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize(("bands", "planar"), [(1, False), (3, False), (3, True)])
def test_a_truncated_file_is_refused(kind, bands, planar, way):
    data = write(made(kind, bands), planar=planar, **way)
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(ValueError):
            images.decode(data[: int(share * len(data))])


@pytest.mark.parametrize("compression", [5, 8, 32773])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_packed_strip_that_is_cut_is_refused(kind, compression):
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
    data = bytearray(cv2.imencode(".tiff", made(kind, 1), options)[1].tobytes())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags[279]
        place, sizes = tag.valueoffset, np.atleast_1d(tag.value)
    form = {3: "u2", 4: "u4"}[int(tag.dtype)]
    half = np.asarray(sizes // 2, form).tobytes()
    data[place : place + len(half)] = half
    with pytest.raises(ValueError, match="cannot decode"):
        images.decode(bytes(data))


def test_a_fourth_band_that_is_left_out_is_said():
    assert inspect_image(write(made("u1", 4), extrasamples=[0]), 10**6)[1] == [
        "of four bands, of which the fourth is left out"
    ]
    assert inspect_image(write(made("u1", 4), extrasamples=[2]), 10**6)[1] == []
    assert inspect_image(write(made("u1", 3)), 10**6)[1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_more_than_8_bits_are_said(kind):
    deep = [DEEP] if np.dtype(kind).itemsize > 1 else []
    assert inspect_image(write(made(kind, 1)), 10**6)[1] == deep


def test_damaged_directories_are_refused_whatever_is_wrong_with_them():
    for options in ({}, {"compression": "zlib"}, {"big": True, "compression": "zlib"}):
        whole = write(made("u2", 3, 9, 7), planar=True, nodata="0", **options)
        rng = np.random.default_rng(0)
        for _ in range(200):
            data = bytearray(whole)
            for place in rng.integers(4, 400, 3):
                data[place] = rng.integers(256)
            try:
                assert images.decode(bytes(data)).ndim == 3
            except ValueError as error:
                assert "cannot decode" in str(error) or "image too" in str(error)
