"""Hostile images: refused by their headers, before a decoder asks for memory or spends time."""

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from rsclip_jax.data import images, limits
from rsclip_jax.data.image_check import check_image
from rsclip_jax.data.limits import LimitError
from rsclip_jax.data.views import Geometry, train_view

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
WHOLE_VIEW = Geometry((0.0, 0.0, 1.0, 1.0), 1.0, 0.0, False, False, False)
HUGE = 60_000


def encode(form, pixels=PIXELS, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def view(data):
    train_view(data, WHOLE_VIEW, np.empty((32, 32, 3), np.uint8))


def check(data):
    check_image(data, limits.MAX_PIXELS)


DOORS = {"prepare": check, "decode": images.decode, "train": view, "size": images.dimensions}


def refused(data, reason, error=ValueError, doors=tuple(DOORS)):
    """See that every door refuses, in little memory and time."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for door in doors:
        with pytest.raises(error, match=reason):
            DOORS[door](data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    assert time.process_time() - start < 2


def chunk(kind, data, length=None):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data) if length is None else length) + kind + data + crc


def png(height, width, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def replaced(data, old, new):
    assert data.count(old) == 1, data.count(old)
    return data.replace(old, new)


ZEROS = chunk(b"IDAT", zlib.compress(bytes(1000)))


def test_png_headers_and_chunks_that_lie():
    refused(png(HUGE, HUGE, ZEROS), "too large: 60,000 x 60,000 pixels, more than 200", LimitError)
    refused(png(12_000, 12_000, ZEROS), "too compressed: .* become 432,000,000", LimitError)
    refused(png(20, 24, chunk(b"IDAT", bytes(9), 2**32 - 1)), "truncated: b'IDAT' has 4,294,967,")
    refused(png(20, 24, chunk(b"tEXt", bytes(9), 2**31)), "truncated: b'tEXt' has 2,147,483,")
    again = chunk(b"IHDR", struct.pack(">IIBBBBB", HUGE, HUGE, 8, 2, 0, 0, 0))
    refused(png(20, 24, again, ZEROS), "header is not its first chunk")
    refused(png(0, 24, ZEROS), "an image of 24 x 0 pixels")


def test_a_png_bomb_of_zeros_is_refused_and_an_honest_black_image_is_not():
    rows = zlib.compress(bytes(4000 * (3 * 4000 + 1)), 9)  # 47 kB become 48 MB
    assert images.decode(png(4000, 4000, chunk(b"IDAT", rows))).shape == (4000, 4000, 3)
    text = zlib.compress(bytes(50 << 20), 9)  # in a text beside the pixels
    whole = encode("PNG")
    data = whole[:33] + chunk(b"zTXt", b"a\0\0" + text) + whole[33:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(images.decode(data), PIXELS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_thin_images_are_refused_in_every_form(form):
    line = np.repeat(PIXELS[:1], 10, axis=1)
    refused(encode(form, line), "too thin: 600 x 1 pixels, a side more than 200", LimitError)
    refused(encode(form, line.swapaxes(0, 1)), "too thin: 1 x 600 pixels", LimitError)
    assert images.decode(encode(form, line[:, :200])).shape == (1, 200, 3)


def with_scans(count):
    """Make a progressive JPEG file whose last scan, which corrects one bit, comes `count` times."""
    data = encode("JPEG", PIXELS, progressive=True)
    last = data.rindex(b"\xff\xc4")  # the tables of the last scan, then it
    return data[:last] + count * data[last:-2] + data[-2:]


def test_progressive_jpegs_of_thousands_of_scans_are_refused():
    assert limits.MAX_SCANS < 1000
    refused(
        with_scans(5000), r"too slow: a JPEG file of 5,0\d\d scans, more than 64 for", LimitError
    )
    large = with_scans(40)  # of 40 x 60 pixels they pass
    images.decode(large)
    large = replaced(large, struct.pack(">BHH", 8, 40, 60), struct.pack(">BHH", 8, 9000, 9000))
    refused(large + bytes(10**6), r"scans, more than 29 for its size", LimitError)
    whole = encode("JPEG", PIXELS, progressive=True)
    # Those of other files behind the image and in its metadata do not count.
    np.testing.assert_array_equal(images.decode(whole + 99 * whole), images.decode(whole))
    noted = whole[:2] + b"\xff\xe5" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200 + whole[2:]
    np.testing.assert_array_equal(images.decode(noted), images.decode(whole))


def test_jpeg_headers_that_lie():
    whole = encode("JPEG")
    frame = b"\xff\xc0\x00\x11\x08"
    size = frame + struct.pack(">HH", 40, 60)
    huge = replaced(whole, size, frame + struct.pack(">HH", HUGE, HUGE))
    refused(huge, "too large: 60,000 x 60,000", LimitError)
    refused(replaced(whole, size, frame + struct.pack(">HH", 9000, 9000)), "compressed", LimitError)


def test_webp_headers_that_lie():
    lossy, lossless = encode("WEBP"), encode("WEBP", lossless=True)
    side = struct.pack("<HH", 60, 40)
    refused(replaced(lossy, side, struct.pack("<HH", 16383, 16383)), "too large", LimitError)
    bits = struct.pack("<I", 0x3FFF | 0x3FFF << 14)
    refused(lossless[:21] + bits + lossless[25:], "too large: 16,384 x 16,384", LimitError)
    # A canvas that the picture does not fill.
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    for canvas, reason in (((40, 60), "cannot decode"), ((1, 1), "cannot decode")):
        sides = b"".join((length - 1).to_bytes(3, "little") for length in canvas)
        body = b"WEBP" + extended + sides + lossy[12:]
        refused(b"RIFF" + struct.pack("<I", len(body)) + body, reason, doors=("decode", "prepare"))


def test_gif_and_bmp_headers_that_lie():
    gif = encode("GIF")
    refused(gif[:6] + struct.pack("<HH", HUGE, HUGE) + gif[10:], "too large", LimitError)
    refused(gif[:6] + struct.pack("<HH", 9000, 9000) + gif[10:], "too compressed", LimitError)
    bmp = encode("BMP")
    refused(bmp[:18] + struct.pack("<ii", HUGE, HUGE) + bmp[26:], "too large", LimitError)
    refused(bmp[:18] + struct.pack("<ii", 6000, 6000) + bmp[26:], "too compressed", LimitError)


def test_jpeg2000_and_avif_headers_unlike_their_pixels():
    jp2 = encode("JPEG2000")
    size = jp2.index(b"\xff\x51")  # of the codestream, which the decoder believes
    huge = jp2[: size + 6] + struct.pack(">II", HUGE, HUGE) + jp2[size + 14 :]
    refused(huge, "too large: 60,000 x 60,000", LimitError)
    bands = jp2[: size + 38] + struct.pack(">H", 16384) + jp2[size + 40 :]
    refused(bands, "too compressed|too large", LimitError)
    avif = encode("AVIF")
    extent = avif.index(b"ispe") + 8
    huge = avif[:extent] + struct.pack(">II", 16384, 16384) + avif[extent + 8 :]
    refused(huge, "too large", LimitError)
    huge = avif[:extent] + struct.pack(">II", 8000, 8000) + avif[extent + 8 :]
    refused(huge, "too compressed", LimitError)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "AVIF"])
def test_damaged_images_raise_value_errors_alone(form):
    whole = encode(form)
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 600), 3):
            data[place] = rng.integers(256)
        for door in DOORS.values():
            try:
                door(bytes(data))
            except ValueError as error:
                assert str(error)


def written(pixels=PIXELS, **options):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(pixels, metadata=None, photometric="rgb", **options)
    return file.getvalue()


def patched(data, tag, value=None, count=None, kind=None, place=None):
    """Change an entry of the first directory of a little-endian TIFF file."""
    start = struct.unpack_from("<I", data, 4)[0]
    number = struct.unpack_from("<H", data, start)[0]
    for at in range(start + 2, start + 2 + 12 * number, 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            old = struct.unpack_from("<HHII", data, at)
            new = [
                n if n is not None else o
                for n, o in zip((place, kind, count, value), old, strict=True)
            ]
            return data[:at] + struct.pack("<HHII", *new) + data[at + 12 :]
    raise AssertionError(tag)


def test_tiff_directories_that_lie():
    whole = written(compression="zlib", rowsperstrip=40)
    for tag in (256, 257):
        tall = patched(patched(whole, 256, 9000, 1, 4), 257, 9000, 1, 4)
        refused(patched(tall, tag, HUGE, 1, 4), "too large", LimitError)
    refused(tall, "too compressed", LimitError)
    for tag in (256, 258, 273, 279):
        refused(patched(whole, tag, 0, 2**32 - 1), f"tag {tag} lies behind its end")
        refused(patched(whole, tag, count=0), f"tag {tag} has 0 numbers")
    refused(patched(whole, 257, place=256), "tag 256 twice")
    short = ("decode", "prepare", "train")
    refused(patched(whole, 277, 16384), "of 16384 bands", doors=short)
    refused(patched(whole, 278, 0), "pixels in parts of")
    tiles = written(compression="zlib", tile=(64, 64))
    refused(patched(patched(tiles, 322, 1 << 20), 323, 1 << 20), "take 3,298,", LimitError)
    refused(patched(whole, 273, 2**32 - 1), "cannot decode", doors=short)
    refused(patched(whole, 278, 1), "lists 1 of 40 strips or tiles", doors=short)


def test_a_tiff_directory_that_leads_to_itself_ends():
    whole = written()
    start = struct.unpack_from("<I", whole, 4)[0]
    end = start + 2 + 12 * struct.unpack_from("<H", whole, start)[0]
    loop = whole[:end] + struct.pack("<I", start) + whole[end + 4 :]
    np.testing.assert_array_equal(images.decode(loop), PIXELS)


def test_strips_that_all_claim_the_whole_file_take_no_more_than_their_pixels():
    whole = written(np.repeat(PIXELS, 50, axis=0), rowsperstrip=1, compression="zlib")
    padded = whole + bytes(20 << 20)
    start = struct.unpack_from("<I", padded, 4)[0]
    sizes = next(
        struct.unpack_from("<HHII", padded, at)
        for at in range(start + 2, start + 400, 12)
        if struct.unpack_from("<H", padded, at)[0] == 279
    )
    form = {3: "<H", 4: "<I"}[sizes[1]]
    greedy = struct.pack(form, 2 ** (8 * struct.calcsize(form)) - 1) * sizes[2]
    data = padded[: sizes[3]] + greedy + padded[sizes[3] + len(greedy) :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(images.decode(data), np.repeat(PIXELS, 50, axis=0))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
