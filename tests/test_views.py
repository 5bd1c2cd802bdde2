"""The geometry of training views, and how they are resampled."""

import math

import cv2
import numpy as np
import pytest
from PIL import Image
from test_images import (
    IDENTITY,
    encode,
    photograph,
    pillow_pixels,
    rms,
    torchvision_preprocess,
    view,
)

from rsclip_jax.data import images, views


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 600), (600, 200)])
def test_crops_keep_to_area_and_aspect_and_stay_inside(height, width):
    rng = np.random.default_rng(0)
    augmentation = views.Augmentation(crop=(0.3, 0.9))
    areas, ratios, centres = [], [], []
    for _ in range(2000):
        geometry = views.draw_geometry(augmentation, rng.random(8), height, width)
        top, left, box_height, box_width = geometry.box
        assert min(top, left) >= 0 and top + box_height <= 1 + 1e-9 and left + box_width <= 1 + 1e-9
        areas.append(box_height * box_width)
        ratios.append(box_width * width / (box_height * height))
        centres.append((top + box_height / 2, left + box_width / 2))
    greatest = 0.9 if height == width else 4 / 9  # more of 3:1 has no ratio of 4/3 or less
    assert min(areas) >= 0.3 - 1e-9 and max(areas) <= greatest + 1e-9
    expected = np.linspace(0.3, greatest, 3)
    np.testing.assert_allclose(np.percentile(areas, [0, 50, 100]), expected, atol=0.02)
    np.testing.assert_allclose(np.mean(centres, axis=0), 0.5, atol=0.02)
    assert min(ratios) >= 3 / 4 - 1e-9 and max(ratios) <= 4 / 3 + 1e-9
    if height == width:
        assert min(ratios) < 0.8 and max(ratios) > 1.25
        assert abs(np.mean(np.log(ratios))) < 0.02


@pytest.mark.parametrize(
    ("height", "width", "size"), [(10, 1000, (10, 40 / 3)), (1000, 10, (40 / 3, 10))]
)
def test_a_crop_of_a_long_strip_is_torchvisions_fallback(height, width, size):
    # Its greatest part of ratio 4/3 or 3/4, in the centre, whatever is drawn.
    for draws in np.random.default_rng(0).random((5, 8)):
        augmentation = views.Augmentation(crop=(0.5, 1.0))
        top, left, rows, columns = views.draw_geometry(augmentation, draws, height, width).box
        np.testing.assert_allclose((rows * height, columns * width), size)
        np.testing.assert_allclose((top + rows / 2, left + columns / 2), 0.5)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_flips_and_right_angles_move_whole_pixels(turns, rows, columns):
    image = photograph(32, 32)
    draws = [0.5, 0.5, 0.5, 0.5, 0.75 - 0.5 * rows, 0.75 - 0.5 * columns, turns / 4 + 0.1, 0.5]
    expected = image
    if rows:
        expected = expected[::-1]
    if columns:
        expected = expected[:, ::-1]
    expected = np.rot90(expected, turns)
    for crop in ((1.0, 1.0), ()):
        geometry = views.draw_geometry(views.Augmentation(crop=crop), draws, 32, 32)
        np.testing.assert_array_equal(view(encode(image), geometry, 32), expected)
    # The warp takes another way to the same end; a hair's breadth of rotation makes it do so.
    warped = view(encode(image), geometry._replace(box=(0, 0, 1, 1), angle=1e-9), 32)
    np.testing.assert_allclose(warped.astype(int), expected, atol=1)


def test_without_augmentation_a_view_is_the_evaluation_preprocessing():
    augmentation = views.Augmentation(crop=(), flip=False, right_angles=False)
    data = encode(photograph(90, 130), "JPEG")
    geometry = views.draw_geometry(augmentation, np.random.default_rng(0).random(8), 90, 130)
    expected = torchvision_preprocess(pillow_pixels(data), 48)
    np.testing.assert_array_equal(view(data, geometry, 48), expected)


@pytest.mark.parametrize("side", [40, 256, 300, 512, 1200])
def test_a_crop_is_close_to_pillows_antialiased_bicubic_crop(side):
    image = photograph(side, side)
    data = encode(image, "JPEG", quality=95, subsampling=0)
    geometry = IDENTITY._replace(box=(0.1, 0.2, 0.7, 0.8))
    box = tuple(round(x * side) for x in (0.2, 0.1, 1.0, 0.8))
    expected = Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC, box=box)
    assert rms(view(data, geometry, 112), np.asarray(expected)) < 4


def textured(side: int) -> np.ndarray:
    """Draw noise whose amplitude falls with its frequency, as in photographs, up to pixels."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft2(rng.normal(size=(3, side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1
    image = np.fft.irfft2(spectrum / frequency, s=(side, side))
    image = 40 * image / image.std() + 128
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("side", "share", "decoded"),
    [
        (300, 1.0, 300),
        (448, 1.0, 224),
        (512, 0.75, 512),  # a crop of 384 pixels would have 192 at half the scale
        (700, 1.0, 350),  # not 263, which would be enough
        (1024, 1.0, 256),
        (1024, 0.8, 512),
        (2048, 1.0, 256),
    ],
)
def test_large_jpegs_are_decoded_small_where_that_keeps_the_size(side, share, decoded, monkeypatch):
    sizes = []

    def decode_jpeg(*arguments, **options):
        image = original(*arguments, **options)
        sizes.append(image.shape[:2])
        return image

    original = images.simplejpeg.decode_jpeg
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", decode_jpeg)
    image = textured(side)
    data = encode(image, "JPEG", quality=95, subsampling=0)
    result = view(data, IDENTITY._replace(box=(0.0, 0.0, share, share)), 224)
    assert sizes == [(decoded, decoded)]
    end = round(share * decoded) * side / decoded
    expected = np.asarray(
        Image.fromarray(pillow_pixels(data)).resize(
            (224, 224), Image.Resampling.BICUBIC, box=(0, 0, end, end)
        )
    )
    # A peak signal-to-noise ratio of 33 dB.
    assert rms(result, expected) < 255 / 10 ** (33 / 20)
    assert abs(result.mean() - expected.mean()) < 1.5


def test_evaluation_is_never_decoded_small():
    data = encode(textured(512), "JPEG", quality=95)
    result = view(data, IDENTITY._replace(box=None), 48)
    np.testing.assert_array_equal(result, torchvision_preprocess(pillow_pixels(data), 48))


@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_shrinking_averages_instead_of_picking_pixels(angle, file_format):
    noise = np.random.default_rng(0).integers(0, 2, (512, 512, 1)).astype(np.uint8) * 255
    data = encode(np.repeat(noise, 3, axis=2), file_format)
    # The mean of 8 x 8 pixels of standard deviation 127 has 16; picked pixels keep theirs.
    assert view(data, IDENTITY._replace(angle=angle), 64).std() < 24


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_rotation_by_an_angle_samples_the_rotated_place(transpose, flip_columns):
    height, width, size, angle = 200, 300, 64, 0.6
    y, x = np.mgrid[:height, :width] + 0.5
    scene = np.stack([x * 0.8, y * 1.2, np.full_like(x, 50)], axis=-1)
    top, left, box_height, box_width = 0.3, 0.35, 0.4, 0.3
    geometry = views.Geometry(
        (top, left, box_height, box_width), width / height, angle, transpose, False, flip_columns
    )
    result = view(encode(np.rint(scene).astype(np.uint8)), geometry, size)

    down, right = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    if flip_columns:
        right = -right
    if transpose:
        down, right = right, down
    right, down = right * box_width * width, down * box_height * height
    expected_x = (left + box_width / 2) * width + np.cos(angle) * right - np.sin(angle) * down
    expected_y = (top + box_height / 2) * height + np.sin(angle) * right + np.cos(angle) * down
    expected = np.stack([expected_x * 0.8, expected_y * 1.2, np.full_like(expected_x, 50)], -1)
    np.testing.assert_allclose(result, expected, atol=1.5)


@pytest.mark.parametrize("rotate", [0.0, 180.0])
def test_images_of_one_place_stay_aligned_at_different_sizes(rotate):
    scene = photograph(480, 640)
    small = cv2.resize(scene, (160, 120), interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(0)
    for _ in range(10):
        draws = rng.random(8)
        augmentation = views.Augmentation(crop=(0.4, 0.9), rotate=rotate)
        geometry = views.draw_geometry(augmentation, draws, 480, 640)
        large_view = view(encode(scene, "JPEG", quality=95), geometry, 64)
        assert rms(large_view, view(encode(small), geometry, 64)) < 6
        moved = views.draw_geometry(augmentation, (draws + 0.3) % 1, 480, 640)
        assert rms(large_view, view(encode(small), moved, 64)) > 15


def test_rotation_angles_fill_their_range():
    rng = np.random.default_rng(0)
    augmentation = views.Augmentation(rotate=30.0)
    angles = [
        math.degrees(views.draw_geometry(augmentation, rng.random(8), 9, 9).angle)
        for _ in range(500)
    ]
    assert -30 <= min(angles) < -28 and 28 < max(angles) <= 30


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", (0.0, 1.0)),
        ("crop", (0.9, 0.5)),
        ("crop", (0.5, 1.5)),
        ("crop", (0.5,)),
        ("rotate", -1.0),
        ("rotate", 270.0),
    ],
)
def test_impossible_augmentation_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*expected"):
        views.Augmentation(**{field: value})
