"""Against loops over pixels and windows, written from the definitions."""

import math

import numpy as np
import pytest
from PIL import Image

from rsclip_jax.data.free_infrared import FREE
from rsclip_jax.evaluators.image_quality import audit, embedding_distance, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (17, 14)).astype(np.uint8)
    made = np.clip(true + rng.normal(0, 30, true.shape), 0, 255).astype(np.uint8)
    return made, true


def slow_ssim(a, b):
    weights = np.array(
        [[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)]
    )
    weights /= weights.sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = (m[y : y + 11, x : x + 11].astype(float) for m in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            c = (weights * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + 6.5025) * (2 * c + 58.5225)
                / ((mp**2 + mq**2 + 6.5025) * (vp + vq + 58.5225))
            )  # fmt: skip
    return sum(values) / len(values)


def test_psnr_and_ssim_follow_their_definitions(pair):
    made, true = pair
    error = sum((int(p) - int(q)) ** 2 for p, q in zip(made.flat, true.flat, strict=True))
    expected = 20 * math.log10(255) - 10 * math.log10(error / made.size)
    assert psnr(made, true) == pytest.approx(expected, abs=1e-12)
    assert psnr(true, true) == math.inf
    assert ssim(made, true) == pytest.approx(slow_ssim(made, true), abs=1e-12)
    assert ssim(true, true) == pytest.approx(1, abs=1e-12)
    assert ssim(255 - true, true) < 0


def test_images_that_cannot_be_compared_are_refused(pair):
    made, true = pair
    with pytest.raises(ValueError, match="one shape"):
        psnr(made[1:], true)
    with pytest.raises(ValueError, match="11 or more"):
        ssim(made[:8], true[:8])


def percentile(levels, percent):
    place = (len(levels) - 1) * percent / 100
    below, above = sorted(levels)[math.floor(place)], sorted(levels)[math.ceil(place)]
    return below + (place % 1) * (above - below)


def test_audit_follows_its_definitions(pair):
    image = pair[1]
    levels = [float(v) for v in image.flat]
    mean = sum(levels) / len(levels)
    entropy = -sum(
        levels.count(v) / len(levels) * math.log2(levels.count(v) / len(levels))
        for v in set(levels)
    )
    height, width = image.shape
    at = lambda y, x: float(image[y, x])  # noqa: E731

    def slope(before, after, apart):
        return (after - before) / apart

    edges, curves = [], []
    for y in range(height):
        for x in range(width):
            up, down = max(y - 1, 0), min(y + 1, height - 1)
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            dy = slope(at(up, x), at(down, x), down - up)
            dx = slope(at(y, left), at(y, right), right - left)
            edges.append(math.sqrt(dy * dy + dx * dx))
            if 0 < y < height - 1 and 0 < x < width - 1:
                around = at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1)
                curves.append(around - 4 * at(y, x))
    centre = sum(curves) / len(curves)
    assert audit(image) == pytest.approx(
        {
            "brightness": mean,
            "contrast": math.sqrt(sum((v - mean) ** 2 for v in levels) / len(levels)),
            "dynamic_range": percentile(levels, 99) - percentile(levels, 1),
            "entropy": entropy,
            "edge_strength": sum(edges) / len(edges),
            "laplacian_variance": sum((v - centre) ** 2 for v in curves) / len(curves),
        },
        rel=1e-12,
    )
    assert audit(np.full((4, 4), 7))["entropy"] == 0


def test_embedding_distance_is_one_less_the_cosine():
    a, b = np.array([[3.0, 4], [1, 0], [2, 0]]), np.array([[6.0, 8], [0, 5], [-1, 0]])
    np.testing.assert_allclose(embedding_distance(a, b), [0, 1, 2], atol=1e-12)


def test_free_views_follow_their_formulas():
    rgb = np.random.default_rng(1).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    luma = np.asarray(Image.fromarray(rgb).convert("L")).astype(int)
    views = {name: view(rgb).astype(int) for name, view in FREE.items()}
    assert abs(views["grayscale"] - luma).max() <= 1
    assert abs(views["inverted"] - (255 - luma)).max() <= 1
    for (y, x), found in np.ndenumerate(views["vegetation"]):
        r, g, b = map(float, rgb[y, x])
        index = (2 * g - r - b) / (2 * g + r + b)
        expected = (0.299 * r + 0.587 * g + 0.114 * b) * (1 + index) / (1 - index)
        assert found == pytest.approx(min(expected, 255), abs=0.5 + 1e-9)
    grass, roof = np.uint8([[[60, 140, 50]], [[140, 130, 140]]])
    assert FREE["vegetation"](grass) > FREE["grayscale"](grass)
    assert FREE["vegetation"](roof) < FREE["grayscale"](roof)
    assert FREE["vegetation"](np.zeros((1, 1, 3), np.uint8)) == 0
