import golden_models
import numpy as np
import pytest
from PIL import Image

from rsclip_jax.models.positions import (
    fit_image_positions,
    fit_text_positions,
    interpolate_positions,
    stretch_positions,
)

TABLE = np.random.default_rng(0).normal(size=(77, 6))


def stretched_by_hand(table, keep, ratio):
    """The index formula of the papers' notes, one row at a time in float64."""
    length = len(table)
    rows = list(table[:keep])
    for q in range(ratio * (length - keep)):
        b, f = keep + q // ratio, (q % ratio) / ratio
        after = table[b + 1] if b + 1 < length else 2 * table[b] - table[b - 1]
        rows.append((1 - f) * table[b] + f * after)
    return np.array(rows)


@pytest.mark.parametrize(("keep", "ratio"), [(20, 4), (0, 2), (30, 3), (75, 5)])
def test_stretching_follows_the_released_code(keep, ratio):
    expected = stretched_by_hand(TABLE, keep, ratio)
    actual = stretch_positions(TABLE.astype(np.float32), keep, ratio)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_77_positions_become_248_and_the_first_20_keep_their_bits():
    table = TABLE.astype(np.float32)
    stretched = stretch_positions(table)
    assert stretched.shape == (248, 6)
    np.testing.assert_array_equal(stretched[:20], table[:20])


def test_a_fractional_ratio_and_ratio_one():
    np.testing.assert_allclose(stretch_positions(TABLE, 20, 1), TABLE, atol=1e-6)
    assert stretch_positions(TABLE, 20, 2.5).shape == (20 + round(2.5 * 57), 6)


@pytest.mark.parametrize(
    ("keep", "ratio", "word"), [(76, 4, "keep"), (-1, 4, "keep"), (20, 0.5, "ratio")]
)
def test_impossible_stretches_are_refused(keep, ratio, word):
    with pytest.raises(ValueError, match=word):
        stretch_positions(TABLE, keep, ratio)


def test_plain_interpolation_keeps_both_ends():
    long = np.asarray(interpolate_positions(TABLE, 248))
    grid = np.linspace(0, 76, 248)
    expected = np.stack([np.interp(grid, np.arange(77), column) for column in TABLE.T], axis=1)
    np.testing.assert_allclose(long, expected, atol=1e-5)


def test_fitting_cuts_stretches_or_says_what_is_missing():
    np.testing.assert_array_equal(fit_text_positions(TABLE, 50), TABLE[:50])
    np.testing.assert_array_equal(
        fit_text_positions(TABLE, 200), stretch_positions(TABLE, 20, 4)[:200]
    )
    with pytest.raises(ValueError, match="stretches 77 positions to 191"):
        fit_text_positions(TABLE, 248, keep=20, ratio=3)
    with pytest.raises(ValueError, match=r"config\.model\.stretch"):
        fit_text_positions(TABLE, 248, method="linear")


def test_long_clip_tables_are_merged_at_the_kept_rows():
    _, params, arrays = golden_models.load("longclip_tiny")
    table = params["txt"]["pos_embedding"]
    np.testing.assert_array_equal(table[:20], arrays["param/positional_embedding"][:20])
    np.testing.assert_array_equal(table[20:], arrays["param/positional_embedding_res"][20:])


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (16, 24)])
def test_image_positions_are_resized_like_pillow(old, new):
    # Pillow's bicubic is the antialiased one that torch and open_clip use.
    table = np.random.default_rng(1).normal(size=(1 + old * old, 3)).astype(np.float32)
    actual = fit_image_positions(table, new)
    np.testing.assert_array_equal(actual[0], table[0])
    for channel in range(3):
        plane = Image.fromarray(table[1:, channel].reshape(old, old))
        expected = np.asarray(plane.resize((new, new), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(actual[1:, channel].reshape(new, new), expected, atol=2e-5)
