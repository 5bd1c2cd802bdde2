"""Encoded image -> uint8 RGB array: decoding, and CLIP's evaluation preprocessing.

Everything here is uint8 [H, W, 3] in RGB order; the model normalises on the device.
"""

import os

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from rsclip_jax.data import tiff
from rsclip_jax.data.header import (
    JPEG2000_MAGICS,
    JPEG_MAGIC,
    PNG_MAGIC,
    Header,
    is_webp,
    read_header,
    undecodable,
)
from rsclip_jax.data.orientation import upright
from rsclip_jax.data.pillow import open_image
from rsclip_jax.data.stretch import rgb8

# The pipeline decodes one image per thread; OpenCV's own threads would only fight with those.
cv2.setNumThreads(0)
# It writes a line for every file that Pillow reads after it. What neither reads is an error of
# `decode`.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_THIN = 8  # times the shorter side: longer images are cropped before they are resized


def decode(data: bytes, *, fast: bool = False) -> np.ndarray:
    """Decode an encoded image into uint8 [H, W, 3] RGB.

    JPEG pixels equal Pillow's. Grey is replicated to three channels, alpha is dropped, palettes
    and CMYK are converted, an EXIF or TIFF orientation is applied, of an animation the first frame
    counts. Images of other numbers than 8-bit ones (16-bit infrared, float) are stretched linearly
    from their 1st to their 99th percentile, jointly over the channels: sensors fill 10 to 14 of 16
    bits, so a division by 257 would leave most of them black. Where the two are equal, the least
    and the greatest number take their place: a few bright pixels are all there is to see. A range
    below 1 % of the numbers is taken for 1 %: what is almost constant is not blown up to its noise.
    Pixels without data stay out of the stretch and become black: those that equal a TIFF file's
    GDAL_NODATA, that are not finite, are -9999, or are floats beyond +-1e38, as GDAL's least one.
    Of 3 or 4 bands the first three are taken, as RGB.

    Args:
      data: a whole file of one of `pillow.FORMATS`.
      fast: allow JPEG decoding shortcuts; pixels then differ a little from Pillow's.

    Raises:
      ValueError: the data are not an image, or a truncated one, or a TIFF file whose bands are
        not grey, RGB or RGB and another.
      LimitError: it exceeds one of `limits`; no memory was asked for.
    """
    header = read_header(data)
    try:
        return _decode(data, header, fast)
    except ValueError as error:
        raise undecodable(data, error) from error


def to_rgb8(image: Image.Image | np.ndarray) -> np.ndarray:
    """Turn a decoded image, a Pillow image or an array, into uint8 [H, W, 3] as `decode` does.

    Raises:
      ValueError: an array that is neither [H, W], [H, W, 1] nor [H, W, 3], that is empty, or that
        holds no numbers, or complex ones.
    """
    if isinstance(image, Image.Image):
        if not _is_deep(image):
            return np.asarray(image.convert("RGB"))
        image = np.asarray(image)
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
        raise ValueError(f"an image of shape {image.shape}: expected [H, W, 3] or [H, W]")
    if image.dtype.kind not in "buif":
        raise ValueError(f"an image of type {image.dtype}: expected integers, floats or booleans")
    return rgb8(image)


def dimensions(data: bytes) -> tuple[int, int]:
    """Return (height, width) in pixels of an encoded image, from its header.

    They are those of `decode`: after an orientation.

    Raises:
      ValueError: the data are not an image, or one beyond the `limits`.
    """
    return read_header(data).size


def eval_preprocess(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` (bicubic, antialiased) and crop the centre, as CLIP does.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, 3], equal to torchvision's Resize and CenterCrop of a Pillow image
      (to one level in images whose sides are 8 times as long as each other).
    """
    height, width = image.shape[:2]
    short = min(height, width)
    new_height, new_width = (int(size * side / short) for side in (height, width))
    top = round((new_height - size) / 2)
    left = round((new_width - size) / 2)
    if max(height, width) > _THIN * short:
        # Enlarged as a whole, a line of 8,000 pixels would take 1.6 GB: make the crop alone.
        down, right = height / new_height, width / new_width
        box = (left * right, top * down, (left + size) * right, (top + size) * down)
        some = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(some)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def _decode(data: bytes, header: Header, fast: bool) -> np.ndarray:
    if header.layout is not None:
        return _decode_tiff(data, header, header.layout)
    image = None
    if data.startswith(JPEG_MAGIC):
        image = _decode_jpeg(data, fast)
    elif data.startswith((PNG_MAGIC, *JPEG2000_MAGICS)) or is_webp(data):
        image = _decode_opencv(data)
    # Pillow also reads what the fast decoders refuse, and tells best what is wrong with the rest.
    if image is None:
        image = _decode_pillow(data, (header.height, header.width))
    elif image.shape[:2] != (header.height, header.width):
        raise _contradiction((header.height, header.width), image.shape[:2])
    return upright(image, header.orientation)


def _decode_tiff(data: bytes, header: Header, layout: tiff.Layout) -> np.ndarray:
    tiff.refuse_bands(layout)
    if layout.readable:
        pixels = rgb8(tiff.read_pixels(data, layout), layout.nodata, layout.inverted)
        return upright(pixels, layout.orientation)
    if layout.bits <= 8 and layout.kind == "u":
        return _decode_pillow(data, header.size)  # which applies the orientation
    raise ValueError(
        f"a TIFF file of {layout.bands} bands of {layout.bits} bits, stored in an unknown way "
        f"(compression {layout.compression}, photometric {layout.photometric}, kind of number "
        f"{layout.kind or 'unknown'}); gdal_translate -co COMPRESS=DEFLATE INPUT OUTPUT"
    )


def _decode_jpeg(data: bytes, fast: bool) -> np.ndarray | None:
    try:
        return simplejpeg.decode_jpeg(data, fastdct=fast, fastupsample=fast)
    except ValueError:
        return None


def _decode_opencv(data: bytes) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        return None
    if image.ndim == 3 and image.shape[2] > 1:
        image = image[..., 2::-1]  # BGR or BGRA.
    return rgb8(image)


def _decode_pillow(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode with Pillow an image that it finds to be of `size`, (height, width)."""
    try:
        with open_image(data) as image:
            found = image.height, image.width
            pixels = to_rgb8(image) if found == size else None
    except Exception as error:  # Damaged files make Pillow's plugins raise whatever they please.
        raise ValueError(str(error)) from error
    if pixels is None or pixels.shape[:2] != size:
        raise _contradiction(size, found if pixels is None else pixels.shape[:2])
    return pixels


def _contradiction(size: tuple[int, int], found: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"its header says {size[1]:,} x {size[0]:,} pixels, its decoder finds "
        f"{found[1]:,} x {found[0]:,}"
    )


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;")
