"""Training views: which part of an image is seen, which way up, and how it is resampled.

Training applies one `Geometry` to every image of a record, so that RGB and infrared stay aligned.
It is drawn in fractions of the image, hence the two may differ in size. An image is resampled once:
crop and resize in one call, flips and right angles move whole pixels of the small result; a free
angle puts all of it into one affine warp.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from rsclip_jax.data.header import JPEG_MAGIC, read_header
from rsclip_jax.data.images import decode, eval_preprocess
from rsclip_jax.data.orientation import upright, upright_size

# What stands for the infrared image: itself, or FusionRS's controls, made of the RGB image.
IR_VIEWS = ("translated", "grayscale", "rgb_duplicate")
AUGMENT_TEXT = ("off", "leave", "turn")
ASPECT_RANGE = (3 / 4, 4 / 3)
# Up to this shrinking factor bilinear resizing is close enough to an antialiased bicubic one (41 dB
# on aerial photographs; area averaging has 44 and takes seven times as long), up to the next one
# with a blur of 3 x 3 pixels before it (41 dB in a third of the time of area averaging).
_LINEAR_UP_TO = 3 / 2
_BLUR_UP_TO = 3.0


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training may do to an image.

    Attributes:
      crop: range of the crop's share of the image area, within (0, 1]; () keeps the evaluation
        preprocessing (resize of the shorter side, centre crop).
      flip: mirror horizontally and vertically, each with probability 1/2.
      right_angles: rotate by 0, 90, 180 or 270 degrees.
      rotate: rotate by an angle drawn from +-rotate degrees (180: any), borders reflected.
      augment_text: what becomes of samples whose texts name a direction (`directions`): "off", they
        are treated as all others; "leave", they are neither flipped nor turned; "turn", flips and
        right angles turn the words as well, and there is no other angle; images whose words
        cannot be turned for sure stay unturned.
    """

    crop: tuple[float, ...] = (0.5, 1.0)
    flip: bool = True
    right_angles: bool = True
    rotate: float = 0.0
    augment_text: str = "off"

    def __post_init__(self):
        crop = tuple(self.crop)
        object.__setattr__(self, "crop", crop)
        if crop and not (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1):
            raise ValueError(
                f"crop is {crop}: expected (least, greatest) share of the image area with "
                "0 < least <= greatest <= 1, or () for no random crop"
            )
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate is {self.rotate}: expected degrees between 0 and 180")
        if self.augment_text not in AUGMENT_TEXT:
            expected = ", ".join(AUGMENT_TEXT)
            raise ValueError(f"augment_text is {self.augment_text!r}: expected one of {expected}")

    def turns(self) -> bool:
        """Tell whether directions in the image change."""
        return self.flip or self.right_angles or self.rotate > 0

    def of_directions(self) -> "Augmentation":
        """Return what is done to samples whose texts name a direction."""
        if self.augment_text == "off":
            return self
        if self.augment_text == "turn":
            return dataclasses.replace(self, rotate=0.0)
        return self.unturned()

    def unturned(self) -> "Augmentation":
        """Return what is done to samples whose image must not be turned."""
        return dataclasses.replace(self, flip=False, right_angles=False, rotate=0.0)


class Geometry(NamedTuple):
    """Which part of an image is seen, and which way up; made by `draw_geometry`.

    Attributes:
      box: (top, left, height, width) as fractions of the image; None: evaluation preprocessing.
      aspect: width / height of the image in pixels.
      angle: rotation about the centre of the box in radians.
      transpose, flip_rows, flip_columns: applied to the square result, in this order.
    """

    box: tuple[float, float, float, float] | None
    aspect: float
    angle: float
    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def move(self, vector: tuple[int, int]) -> tuple[int, int]:
        """Return where flips and right angles take a direction (x, y), y downwards."""
        x, y = vector[::-1] if self.transpose else vector
        return (-x if self.flip_columns else x, -y if self.flip_rows else y)


GEOMETRY_DRAWS = 8


def draw_geometry(
    augmentation: Augmentation, draws: Sequence[float], height: int, width: int
) -> Geometry:
    """Turn uniform random numbers into the geometry of one training view.

    The crop's area is uniform in what part of `augmentation.crop` some aspect ratio of [3/4, 4/3]
    fits into the image, the logarithm of its ratio uniform in what fits of these, its place
    uniform. Where none fits (a long strip), the crop is the greatest of ratio 4/3, or 3/4, in the
    centre, as torchvision's RandomResizedCrop falls back to: nothing is squeezed further.

    Args:
      draws: GEOMETRY_DRAWS numbers, uniform in [0, 1).
      height, width: of the image, in pixels.
    """
    u_area, u_ratio, u_top, u_left, u_rows, u_columns, u_turns, u_angle = draws
    aspect = width / height
    box = None
    if augmentation.crop:
        least, greatest = augmentation.crop
        fits = min(ASPECT_RANGE[1] / aspect, aspect / ASPECT_RANGE[0], 1.0)
        if fits < least:
            least, u_top, u_left = fits, 0.5, 0.5
        area = least + (min(greatest, fits) - least) * u_area
        # Both sides of the crop fit if aspect * area <= ratio <= aspect / area.
        low = min(max(ASPECT_RANGE[0], aspect * area), aspect / area)
        high = max(min(ASPECT_RANGE[1], aspect / area), aspect * area)
        ratio = low * (high / low) ** u_ratio
        crop_height = min(math.sqrt(area * aspect / ratio), 1.0)
        crop_width = min(math.sqrt(area * ratio / aspect), 1.0)
        box = (u_top * (1 - crop_height), u_left * (1 - crop_width), crop_height, crop_width)
    elif augmentation.rotate:
        crop_height, crop_width = min(aspect, 1.0), min(1 / aspect, 1.0)
        box = ((1 - crop_height) / 2, (1 - crop_width) / 2, crop_height, crop_width)
    flip_rows = augmentation.flip and u_rows < 0.5
    flip_columns = augmentation.flip and u_columns < 0.5
    turns = int(4 * u_turns) if augmentation.right_angles else 0
    if turns % 2:  # Transposing first makes row flips column flips.
        flip_rows, flip_columns = flip_columns, flip_rows
    return Geometry(
        box=box,
        aspect=aspect,
        angle=math.radians(augmentation.rotate * (2 * u_angle - 1)),
        transpose=bool(turns % 2),
        flip_rows=flip_rows ^ (turns in (1, 2)),
        flip_columns=flip_columns ^ (turns in (2, 3)),
    )


def train_view(data: bytes, geometry: Geometry, out: np.ndarray) -> None:
    """Decode an image and write the view that `geometry` describes into `out`.

    Args:
      data: an encoded image, see `decode`.
      out: uint8 [size, size, 3], C-contiguous; overwritten.

    Raises:
      ValueError: the data are not an image.
    """
    size = len(out)
    if geometry.box is None:
        image = eval_preprocess(decode(data), size)
        if geometry.transpose:
            cv2.transpose(image, dst=out)
        else:
            out[...] = image
        _flip(out, geometry)
        return
    top, left, height, width = geometry.box
    image = _decode_at_least(data, math.ceil(size / height), math.ceil(size / width))
    if geometry.angle:
        _warp(image, geometry, out)
        return
    rows, columns = image.shape[:2]
    crop_rows, crop_columns = max(round(height * rows), 1), max(round(width * columns), 1)
    first_row = min(round(top * rows), rows - crop_rows)
    first_column = min(round(left * columns), columns - crop_columns)
    crop = image[first_row : first_row + crop_rows, first_column : first_column + crop_columns]
    if geometry.transpose:  # into another array: OpenCV takes twice as long in place
        cv2.transpose(_resize(crop, size), dst=out)
    else:
        _resize(crop, size, out)
    _flip(out, geometry)


def control_view(rgb: np.ndarray, ir_view: str, out: np.ndarray) -> None:
    """Write what FusionRS's ablations feed in place of the infrared image.

    Args:
      rgb: uint8 [S, S, 3], the training view of the RGB image.
      ir_view: "rgb_duplicate", or "grayscale" (ITU-R 601 luma on all channels, as Pillow's "L").
      out: uint8 [S, S, 3]; overwritten.
    """
    if ir_view == "grayscale":
        out[...] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    else:
        out[...] = rgb


def _resize(image: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resize to a square, antialiased: bilinear behind a blur, which area averaging is slow for."""
    shrinking = max(image.shape[:2]) / size
    interpolation = cv2.INTER_LINEAR
    if shrinking <= 1:
        interpolation = cv2.INTER_CUBIC
    elif shrinking > _BLUR_UP_TO:
        interpolation = cv2.INTER_AREA
    elif shrinking > _LINEAR_UP_TO:
        image = cv2.GaussianBlur(image, (3, 3), 0.4 * math.sqrt(shrinking**2 - 1))
    return cv2.resize(image, (size, size), dst=out, interpolation=interpolation)


def _flip(image: np.ndarray, geometry: Geometry) -> None:
    """Flip a square image in place, ten times faster than NumPy would."""
    if geometry.flip_rows and geometry.flip_columns:
        cv2.flip(image, -1, dst=image)
    elif geometry.flip_rows or geometry.flip_columns:
        cv2.flip(image, int(geometry.flip_columns), dst=image)


def _warp(image: np.ndarray, geometry: Geometry, out: np.ndarray) -> None:
    """Crop, rotate, resize, flip: one bilinear warp, antialiased by a filter before it."""
    assert geometry.box is not None  # `train_view` does without a warp then
    size = len(out)
    top, left, height, width = geometry.box
    shrinking = max(height * image.shape[0], width * image.shape[1]) / size
    if (factor := int(shrinking)) >= 2:
        small = (max(image.shape[1] // factor, 1), max(image.shape[0] // factor, 1))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        shrinking /= factor
    if shrinking > _LINEAR_UP_TO:
        # Bring the blur from half a pixel of the image to half a pixel of the result.
        image = cv2.GaussianBlur(image, (5, 5), 0.5 * math.sqrt(shrinking**2 - 1))
    rows, columns = image.shape[:2]

    # Columns of `axes`: where one step right and one down in the result lead, before the rotation,
    # as a share of the box.
    right, down = (-1.0, 1.0)[not geometry.flip_columns], (-1.0, 1.0)[not geometry.flip_rows]
    axes = np.array([[0.0, down], [right, 0.0]] if geometry.transpose else [[right, 0], [0, down]])
    # Rotate where distances are true: in units of the image's height.
    cos, sin = math.cos(geometry.angle), math.sin(geometry.angle)
    box_size = np.array([width * geometry.aspect, height])
    pixels = np.array([columns / geometry.aspect, rows])
    linear = pixels[:, None] * np.array([[cos, -sin], [sin, cos]]) @ (box_size[:, None] * axes)
    centre = np.array([(left + width / 2) * columns, (top + height / 2) * rows])
    # Pixel centres lie at +0.5 on both sides.
    offset = centre - 0.5 - linear @ np.full(2, (size - 1) / size / 2)
    cv2.warpAffine(
        image,
        np.column_stack([linear / size, offset]),
        (size, size),
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _decode_at_least(data: bytes, min_height: int, min_width: int) -> np.ndarray:
    """Decode for training: a JPEG at the smallest of 1/1, 1/2, 1/4, 1/8 that keeps the given size.

    libjpeg computes the averages of 2x2, 4x4, ... pixels straight from the DCT coefficients. What
    is resized from them to the least size allowed differs from a full decoding by some 35 dB; of
    the scale 3/8, which cuts frequencies off within blocks, by 26 dB.
    """
    if not data.startswith(JPEG_MAGIC):
        return decode(data)
    try:
        header = read_header(data)
        height, width, way_up = header.height, header.width, header.orientation
        min_height, min_width = upright_size(min_height, min_width, way_up)  # as stored
        factor = min(height // min_height, width // min_width)
        factor = next((scale for scale in (8, 4, 2) if scale <= factor), 1)
        image = simplejpeg.decode_jpeg(
            data,
            fastdct=True,
            fastupsample=True,
            min_height=height // factor,
            min_width=width // factor,
            min_factor=factor,
        )
    except ValueError:
        return decode(data)
    return upright(image, way_up)
