import io
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import rsclip_jax
from rsclip_jax.data.image_check import DEEP, check_image, inspect_image, shrink
from rsclip_jax.data.images import decode, dimensions
from rsclip_jax.data.views import Geometry, train_view

LIMIT = 10**6
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encode(pixels=PIXELS, form="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def tiff16():
    """RGB of 16 bits a channel, which OpenCV reads and Pillow does not."""
    return cv2.imencode(".tiff", PIXELS.astype(np.uint16) * 257)[1].tobytes()


WHOLE = {
    "jpeg": encode(),
    "progressive": encode(progressive=True),
    "grey": encode(PIXELS[..., 0]),
    "png": encode(form="PNG"),
    "png16": encode(PIXELS[..., 0].astype(np.uint16) * 257, "PNG"),
    "webp": encode(form="WEBP"),
    "tiff": encode(form="TIFF"),
    "tiff16": tiff16(),
    "bmp": encode(form="BMP"),
    "gif": encode(form="GIF"),
    "jp2": encode(form="JPEG2000"),
    "jp2_16": cv2.imencode(".jp2", PIXELS.astype(np.uint16) * 16)[1].tobytes(),
    "avif": encode(form="AVIF"),
}


@pytest.mark.parametrize("form", WHOLE)
def test_whole_images_of_every_form_pass_with_their_size(form):
    assert check_image(WHOLE[form], LIMIT) == (40, 60)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("form", WHOLE)
def test_truncated_images_of_every_form_are_refused(form, share):
    with pytest.raises(ValueError, match=r"^unreadable image: ") as caught:
        check_image(WHOLE[form][: int(share * len(WHOLE[form]))], LIMIT)
    assert "0x" not in str(caught.value), "an address in memory differs from run to run"


def test_a_jpeg_with_stray_bytes_is_not_truncated():
    data = WHOLE["jpeg"]
    middle = data.index(b"\xff\xc0")
    assert check_image(data[:middle] + b"\0\0\0" + data[middle:], LIMIT) == (40, 60)
    assert check_image(data + b"trailing", LIMIT) == (40, 60)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"<html>404</html>", "unreadable image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "unreadable image"),
        (b"II*\0\x08\0\0\0", "unreadable image"),
    ],
)
def test_what_is_no_image_is_refused(data, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        check_image(data, LIMIT)


def test_pillows_own_limit_is_left_aside(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert check_image(WHOLE["png"], LIMIT) == (40, 60)
    assert Image.MAX_IMAGE_PIXELS == 100


def png_header(width, height):
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["png", "jpeg", "tiff16"])
def test_a_decompression_bomb_is_refused_by_its_header(form):
    bomb = {
        "png": png_header(60_000, 50_000),
        # Height and width follow marker, length and precision in the frame header.
        "jpeg": WHOLE["jpeg"].replace(
            b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 40, 60),
            b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 50_000, 60_000),
        ),
        "tiff16": WHOLE["tiff16"]
        .replace(struct.pack("<HHII", 257, 3, 1, 40), struct.pack("<HHII", 257, 4, 1, 50_000))
        .replace(struct.pack("<HHII", 256, 3, 1, 60), struct.pack("<HHII", 256, 4, 1, 60_000)),
    }[form]
    assert bomb != WHOLE[form]
    with pytest.raises(
        ValueError, match=r"^image too large: 60,000 x 50,000 pixels, more than 200"
    ):
        check_image(bomb, 200_000_000)


def test_the_pixel_limit_is_inclusive():
    assert check_image(WHOLE["png"], 2400)
    with pytest.raises(
        ValueError, match=r"too large: 60 x 40 pixels, more than --max_pixels=2,399"
    ):
        check_image(WHOLE["png"], 2399)


def test_shrinking_keeps_the_shape_and_equals_pillows_resize():
    smooth = cv2.GaussianBlur(PIXELS, (0, 0), 4)
    small = decode(shrink(encode(smooth, "PNG"), 20))
    assert small.shape == (20, 30, 3)
    expected = np.asarray(Image.fromarray(smooth).resize((30, 20), Image.Resampling.BICUBIC))
    assert np.abs(small.astype(int) - expected).mean() < 2


def test_images_that_are_small_already_keep_their_bytes():
    assert shrink(WHOLE["png"], 40) is WHOLE["png"]
    assert shrink(WHOLE["png"], 1000) is WHOLE["png"]


def test_extreme_shapes_shrink_to_at_least_the_side_asked_for():
    strip = encode(np.repeat(PIXELS[:4], 10, axis=1), "PNG")
    assert decode(shrink(strip, 1)).shape == (1, 150, 3)


def test_numbers_of_more_than_8_bits_are_said_in_every_form():
    deep = {form for form, data in WHOLE.items() if inspect_image(data, LIMIT)[1] == [DEEP]}
    assert deep == {"png16", "tiff16", "jp2_16"}


@pytest.mark.parametrize("form", ["EPS", "PPM", "TGA", "ICO"])
def test_formats_that_are_none_of_ours_are_refused(form):
    data = encode(form=form)
    for read in (lambda data: check_image(data, LIMIT), decode, dimensions, to_view):
        with pytest.raises(ValueError, match=r"of no known format .JPEG, PNG|cannot decode"):
            read(data)


def to_view(data):
    train_view(data, Geometry(None, 1.0, 0.0, False, False, False), np.empty((8, 8, 3), np.uint8))


def test_pillow_opens_files_in_one_place_only():
    """Elsewhere it would read EPS files, for which it starts Ghostscript."""
    package = Path(rsclip_jax.__file__).parent
    calls = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"Image\.open\(|ImageFile\.|import open as", path.read_text("utf-8"))
    ]
    assert calls == ["pillow.py"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_what_is_odd_about_an_image_is_named(form):
    def remarks(pixels):
        return inspect_image(encode(pixels, form), LIMIT)[1]

    assert remarks(PIXELS) == []
    assert remarks(np.zeros((40, 60, 3), np.uint8)) == ["black, or constant"]
    assert remarks(np.full((40, 60, 3), 128, np.uint8)) == ["constant, every pixel alike"]
    assert remarks(PIXELS[:1, :1]) == ["of one pixel"]
    checks = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((4, 4)))[..., None]
    assert remarks(np.repeat(128 + 20 * checks, 3, axis=2).astype(np.uint8)) == []
