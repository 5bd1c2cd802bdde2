"""Decoding, CLIP's evaluation preprocessing and the geometry of training views."""

import io
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from rsclip_jax.data import images, views
from rsclip_jax.data.image_check import check_image, shrink

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "preprocess.npz"
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])
IDENTITY = views.Geometry((0.0, 0.0, 1.0, 1.0), 1.0, 0.0, False, False, False)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw smooth noise: what JPEG and resampling are made for."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((3, 80), (12, 40), (40, 12)):
        noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        image += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, file_format: str = "PNG", **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pillow_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def view(data: bytes, geometry: views.Geometry, size: int) -> np.ndarray:
    out = np.full((size, size, 3), 77, np.uint8)
    views.train_view(data, geometry, out)
    return out


@pytest.mark.parametrize(
    "options",
    [{"quality": 90}, {"quality": 75, "subsampling": 0}, {"quality": 85, "progressive": True}],
)
def test_jpeg_pixels_equal_pillows(options):
    data = encode(photograph(123, 201), "JPEG", **options)
    np.testing.assert_array_equal(images.decode(data), pillow_pixels(data))
    assert images.dimensions(data) == (123, 201)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_modes_become_three_channels_and_alpha_is_dropped(mode, file_format):
    image = Image.fromarray(photograph(20, 31)).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(photograph(20, 31, seed=1)).convert("L"))
    data = encode(image, file_format)
    np.testing.assert_array_equal(images.decode(data), np.asarray(image.convert("RGB")))
    assert images.dimensions(data) == (20, 31)


@pytest.mark.parametrize(
    ("file_format", "options"), [("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {})]
)
def test_other_formats_equal_pillow(file_format, options):
    data = encode(photograph(24, 30), file_format, **options)
    np.testing.assert_array_equal(images.decode(data), pillow_pixels(data))


def test_grey_and_cmyk_jpeg_become_rgb():
    grey = encode(Image.fromarray(photograph(40, 50)).convert("L"), "JPEG")
    cmyk = encode(Image.fromarray(photograph(40, 50)).convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(images.decode(grey), pillow_pixels(grey))
    np.testing.assert_allclose(images.decode(cmyk).astype(int), pillow_pixels(cmyk), atol=1)


def test_16_bit_infrared_is_stretched_between_its_percentiles():
    # 0 ... 10,000: the 1st percentile is 100, the 99th is 9,900.
    counts = np.random.default_rng(0).permutation(10001).astype(np.uint16).reshape(73, 137)
    expected = np.clip(np.rint((counts.astype(np.float64) - 100) / 9800 * 255), 0, 255)
    for data in (encode(counts), encode(counts, "TIFF"), encode(counts.astype(np.float32), "TIFF")):
        decoded = images.decode(data)
        assert decoded.dtype == np.uint8
        for channel in range(3):
            np.testing.assert_array_equal(decoded[..., channel], expected)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize(
    ("form", "options"), [(".png", []), (".jp2", [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])]
)
def test_every_depth_of_every_format_is_stretched_or_kept(form, options, bands, depth):
    top = 256 if depth == 8 else 4000  # of 16 bits, as sensors have it
    pixels = np.random.default_rng(0).integers(0, top, (40, 60, bands)).astype(f"u{depth // 8}")
    stored = pixels if bands == 1 else pixels[..., [2, 1, 0, 3][:bands]]  # OpenCV writes BGR
    ok, data = cv2.imencode(form, stored, options)
    assert ok
    expected = images.to_rgb8(pixels[..., : min(bands, 3)])
    assert depth == 16 or (expected[..., 0] == pixels[..., 0]).all()
    np.testing.assert_array_equal(images.decode(data.tobytes()), expected)


def test_16_bit_colour_keeps_its_channels_apart():
    colour = np.zeros((10, 10, 3), np.uint16)
    colour[..., 0] = 4000
    colour[..., 2] = 2000
    ok, data = cv2.imencode(".png", colour[..., ::-1])
    assert ok
    np.testing.assert_array_equal(images.decode(data.tobytes())[3, 3], [255, 0, 128])


def test_a_constant_or_blank_16_bit_image_becomes_black():
    assert images.decode(encode(np.full((4, 5), 900, np.uint16))).max() == 0
    assert images.decode(encode(np.full((4, 5), np.nan, np.float32), "TIFF")).max() == 0


@pytest.mark.parametrize("kind", ["u2", "i4", "f4"])
@pytest.mark.parametrize(("rest", "few"), [(0, 4000), (4000, 0), (100, 30000)])
def test_a_few_pixels_that_differ_stay_visible(kind, rest, few):
    counts = np.full((50, 60), rest, kind)
    counts[:4, :5] = few  # 20 of 3,000: both percentiles are those of the rest
    seen = images.to_rgb8(counts)
    assert np.ptp(seen[..., 0]) == 255
    np.testing.assert_array_equal(seen[..., 0] == seen[0, 0, 0], counts == few)
    counts[:4, :5] = rest + 1  # of what is almost constant, noise stays noise
    assert np.ptp(images.to_rgb8(counts)[..., 0]) <= 255 / max(1, 0.01 * rest)


@pytest.mark.parametrize(
    "array", [np.array([["a"]]), np.ones((2, 2), complex), np.array([[None]]), np.array([[b"a"]])]
)
def test_arrays_of_no_numbers_are_refused(array):
    with pytest.raises(ValueError, match="expected integers, floats or booleans"):
        images.to_rgb8(array)


@pytest.mark.parametrize("way", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_orientation_is_applied_as_pillow_does(form, way):
    exif = Image.Exif()
    exif[0x0112] = way
    data = encode(photograph(200, 400), form, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(images.decode(data), expected)
    assert images.dimensions(data) == check_image(data, 10**6) == expected.shape[:2]
    upright = encode(expected)
    geometry = views.Geometry((0.1, 0.5, 0.8, 0.4), 1.0, 0.0, False, False, False)
    for size in (100, 20):  # decoded whole, and at a part of the size; another way up: 60 and more
        assert rms(view(data, geometry, size), view(upright, geometry, size)) < 12
    assert decode_size(shrink(data, 50)) == ((100, 50) if way >= 5 else (50, 100))


def decode_size(data):
    return images.decode(data).shape[:2]


@pytest.mark.parametrize("value", [0, 9, 700])
def test_an_orientation_that_is_none_is_left_alone(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert images.decode(encode(photograph(20, 40), "JPEG", exif=exif)).shape == (20, 40, 3)


@pytest.mark.parametrize(("height", "width"), [(4, 300), (300, 4), (2, 17), (30, 900)])
def test_a_thin_image_is_cropped_as_if_it_had_been_enlarged_as_a_whole(height, width):
    image = photograph(height, width)
    found = images.eval_preprocess(image, 64).astype(int)
    assert np.abs(found - torchvision_preprocess(image, 64)).max() <= 1


def test_a_line_of_pixels_takes_little_memory():
    line = np.random.default_rng(0).integers(0, 255, (20000, 1, 3), dtype=np.uint8)
    tracemalloc.start()
    images.eval_preprocess(line, 224)
    assert images.eval_preprocess(line.swapaxes(0, 1).copy(), 224).shape == (224, 224, 3)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


PHOTO_JPEG = encode(photograph(64, 64), "JPEG")
PHOTO_PNG = encode(photograph(64, 64))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>404</html>",
        PHOTO_JPEG[:40],
        PHOTO_JPEG[:-300],
        PHOTO_PNG[:20],
        PHOTO_PNG[:-900],
    ],
    ids=["empty", "html", "jpeg head", "jpeg cut", "png head", "png cut"],
)
def test_undecodable_data_are_refused_and_named(data):
    with pytest.raises(ValueError, match=f"cannot decode {len(data)} bytes starting with"):
        images.decode(data)
    with pytest.raises(ValueError, match="cannot decode"):
        view(data, IDENTITY, 8)


def torchvision_preprocess(image: np.ndarray, size: int) -> np.ndarray:
    """Resize(size, BICUBIC) and CenterCrop(size) of a Pillow image, as torchvision defines them."""
    height, width = image.shape[:2]
    if width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return np.asarray(resized)[top : top + size, left : left + size]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (256, 256, 224),
        (301, 417, 224),
        (417, 301, 96),
        (64, 64, 224),
        (50, 233, 32),
        (224, 300, 224),
    ],
)
def test_eval_preprocess_equals_pillow(height, width, size):
    image = photograph(height, width)
    result = images.eval_preprocess(image, size)
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    np.testing.assert_array_equal(result, torchvision_preprocess(image, size))


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared/golden, which is not here")
@pytest.mark.parametrize("name", ["256", "301x417"])
def test_eval_preprocess_equals_the_golden_numbers(name):
    golden = np.load(GOLDEN)
    result = images.eval_preprocess(golden[f"rgb_{name}"], 224)
    normalised = ((result / 255 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    # float16 keeps 11 bits: of values up to 2.7, to half of 2^-9.
    np.testing.assert_allclose(normalised, golden[f"out_{name}"], atol=2**-10 + 1e-6)


def test_a_mask_is_black_and_white():
    mask = np.eye(3, dtype=bool)
    np.testing.assert_array_equal(images.to_rgb8(mask), np.repeat(255 * mask[..., None], 3, 2))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_nearly_constant_image_is_not_stretched_into_noise(kind):
    noise = np.random.default_rng(0).integers(-2, 3, (32, 32))
    for spread, levels in ((1, 15), (10, 146), (100, 255)):  # 4, 40 and 400 of 70, 70 and 72
        image = images.to_rgb8((7000 + spread * noise).astype(kind)).astype(int)
        assert np.ptp(image) == pytest.approx(levels, abs=1)
    celsius = images.to_rgb8((20 + noise).astype(kind)).astype(int)
    assert np.ptp(celsius) == 255
