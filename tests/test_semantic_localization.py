import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from golden_models import GOLDEN
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage

from rsclip_jax import evaluators
from rsclip_jax.evaluators import semantic_localization as selo

CASES = json.loads((GOLDEN / "selo_metric.json").read_text())


@pytest.mark.parametrize("name", list(CASES))
def test_the_metrics_are_those_of_the_reference(name):
    case = CASES[name]
    y, x = np.mgrid[: case["H"], : case["W"]].astype(float)
    blobs = [
        a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s * s)) for cx, cy, s, a in case["blobs"]
    ]
    grey = np.uint8(np.floor(255 * np.max(blobs, axis=0)))
    found = selo.score(grey, case["regions"])
    for metric in ("Rsu", "Ras", "Rda", "Rmi"):
        assert found[metric] == pytest.approx(case[metric], abs=1e-6)
    assert selo.attention_centres(grey / 255).tolist() == case["centers"]
    assert selo.attention_centres(grey).tolist() == case["centers"]
    assert selo.score(grey / 255, case["regions"]) == pytest.approx(found, abs=1e-12)


def test_two_centres_in_one_region_and_none_elsewhere():
    # The formulas of the paper's code, by hand: centres (a, b) of one region, radius r.
    polygons = [np.array([[0, 0], [400, 0], [400, 400], [0, 400]], float)]
    centres = np.array([[150, 200], [250, 200]])
    found = selo._compare(np.full((1000, 1000), 0.5), polygons, centres)
    radius = int(1.5 * np.hypot(200, 200))
    assert found["Rda"] == pytest.approx(0.5 * (1 - 50 / radius) + np.exp(-2))
    assert found["Ras"] == pytest.approx((np.exp(3 * 50 / radius) - 1) / (np.exp(3) - 1))
    assert found["Rsu"] == pytest.approx(1 - np.exp(-0.707), abs=1e-6)  # a uniform map
    empty = selo._compare(np.full((1000, 1000), 0.5), polygons, np.zeros((0, 2), int))
    assert (empty["Ras"], empty["Rda"]) == (1.0, 0.0)


def smooth_map(seed, height, width):
    """Make blobs, plateaus and flat ground, of few grey levels for some seeds: many ties."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (2 + height // 90, 2 + width // 90), np.uint8)
    grey = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    levels = [256, 8, 3][seed % 3]
    return (grey // (256 // levels) * (255 // (levels - 1))).astype(np.uint8)


def direct_peaks(grey, size):
    return (grey == ndimage.maximum_filter(grey, size)) & (grey > 0)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("size", [1, 2, 7, 40, 101, 300])
def test_peaks_are_the_pixels_that_equal_scipys_maximum(seed, size):
    height, width = np.random.default_rng(seed).integers(30, 400 if size > 20 else 60, 2)
    grey = smooth_map(seed, height, width)
    marks, tiles, side = selo.peaks(grey, size)
    np.testing.assert_array_equal(marks, direct_peaks(grey, size))
    rows, columns = np.nonzero(marks)
    expected = np.zeros_like(tiles)
    expected[rows // side, columns // side] = 1
    np.testing.assert_array_equal(tiles, expected)


@pytest.mark.parametrize("value", [0, 7])
def test_peaks_of_a_flat_map(value):
    grey = np.full((130, 70), value, np.uint8)
    np.testing.assert_array_equal(selo.peaks(grey, 60)[0], direct_peaks(grey, 60))


def direct_centres(probability):
    """Find the centres as the paper's code does."""
    grey = (255 * (probability / 255)).astype(np.uint8)
    for _ in range(5):
        grey = cv2.blur(grey, (50, 50))
    found = direct_peaks(grey, 1000)
    number, _, _, centroids = cv2.connectedComponentsWithStats(
        found.astype(np.uint8), connectivity=8
    )
    centres = centroids[1:number].astype(int)
    heights = probability[centres[:, 1], centres[:, 0]] / 255
    order = np.argsort(-heights, kind="stable")
    return centres[order][heights[order] >= 0.5]


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("extent", [(20, 30), (240, 700), (1700, 1333), (2600, 3100)])
def test_the_centres_are_those_of_whole_images(seed, extent):
    probability = 255 - smooth_map(seed, *extent) // 4 if seed > 5 else smooth_map(seed, *extent)
    assert selo.attention_centres(probability).tolist() == direct_centres(probability).tolist()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [3, 30])
def test_components_are_numbered_as_in_the_whole_image(seed, levels):
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, levels, rng.integers(20, 120, 2)).astype(np.uint8)
    marks, tiles, side = selo.peaks(grey, 80)
    _, _, _, centroids = cv2.connectedComponentsWithStats(marks, connectivity=8)
    assert selo._centroids(marks, tiles, side).tolist() == centroids[1:].astype(int).tolist()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("as_float", [False, True])
def test_the_significant_area_is_that_of_a_mask_of_the_whole_map(seed, as_float):
    rng = np.random.default_rng(seed)
    probability = rng.integers(0, 256, (200, 300), np.uint8)
    probability = probability / 255 if as_float else probability
    polygons = [rng.uniform(-60, 330, (rng.integers(3, 9), 2)) for _ in range(rng.integers(1, 4))]
    mask = np.zeros((200, 300), np.uint8)
    cv2.fillPoly(mask, [polygon.astype(np.int32) for polygon in polygons], 1)
    level = 1 if as_float else 255
    inside = float(probability[mask > 0].sum() / level)
    outside = float(probability.sum() / level) - inside
    ratio = inside / (outside + 1e-7) * (mask.size - mask.sum()) / mask.sum()
    assert selo._significant_area(probability, polygons) == 1 - np.exp(-0.707 * ratio)


@pytest.mark.parametrize(
    ("height", "width", "count"), [(10000, 10001, 4283), (3000, 2000, 261), (5000, 5000, 1095)]
)
def test_windows_are_as_many_as_the_references(height, width, count):
    found = selo.windows(height, width)
    assert len(found) == count
    assert found.min() == 0 and found[:, 2].max() == height and found[:, 3].max() == width


def test_a_scene_smaller_than_a_window_is_one_window():
    assert selo.windows(200, 300, (512,)).tolist() == [[0, 0, 200, 300]]


@pytest.mark.parametrize(
    ("height", "width", "scales"),
    [(300, 420, (64, 128)), (1100, 870, selo.SCALES), (200, 3000, selo.SCALES)],
)
def test_the_map_equals_averaging_pixel_by_pixel(height, width, scales):
    rng = np.random.default_rng(0)
    boxes = selo.windows(height, width, scales)
    scores = rng.integers(0, 1 << 20, len(boxes)) / (1 << 20)  # their sums are exact in any order
    total, count = np.zeros((2, height, width))
    for (y0, x0, y1, x1), value in zip(boxes, scores, strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    mean -= mean.min()
    expected = cv2.medianBlur(np.uint8(np.floor(255 * mean / mean.max())), 251)
    np.testing.assert_array_equal(selo.heat_map(boxes, scores, height, width), expected)


class Colours:
    """Stands for an encoder: an image is its mean colour, a text the colour it names."""

    batch_size, image_size = 16, 8

    def image_stream(self, params, batches, field="image"):
        for batch in batches:
            z = batch.reshape(len(batch), -1, 3).mean(axis=1)
            yield (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)

    def text(self, params, ids):
        return np.eye(3, dtype=np.float32)[[0 if 736 in row else 2 for row in ids]]


@pytest.fixture
def mosaic(tmp_path):
    """Write a scene in AIR-SLT's layout: grey, with a red and a blue tile."""
    scene = np.full((1200, 1500, 3), 120, np.uint8)
    scene[100:500, 100:500] = (200, 20, 20)
    scene[700:1100, 1000:1400] = (20, 20, 200)
    (tmp_path / "imgs").mkdir()
    Image.fromarray(scene).save(tmp_path / "imgs" / "0.png")
    square = lambda x, y: [[x, y], [x + 400, y], [x + 400, y + 400], [x, y + 400]]  # noqa: E731
    queries = [
        {"caption": "red\n", "jpg_name": "0.png", "points": [square(100, 100)]},
        {"caption": "blue", "jpg_name": "0.png", "points": [square(1000, 700)]},
    ]
    (tmp_path / "anno.json").write_text(json.dumps(queries))
    return tmp_path


def build(mosaic, **fields):
    fields = {"annotations": str(mosaic / "anno.json"), "images": str(mosaic / "imgs"), **fields}
    config = ConfigDict(
        {
            "tokenizer": "clip",
            "input": {"lengths": {"text": 77}},
            "evals": {"selo": {"type": "semantic_localization", **fields}},
        }
    )
    return evaluators.build(config, Colours())["selo"]


def test_what_is_described_is_found(mosaic):
    from rsclip_jax.data.text import ClipTokenizer

    assert 736 in ClipTokenizer(77)(["red"])[0] and 736 not in ClipTokenizer(77)(["blue"])[0]
    evaluator = build(mosaic)
    found = dict(evaluator.run(SimpleNamespace()))
    assert found["Rsu"] > 0.7 and found["Ras"] < 0.1 and found["Rda"] == 1
    evaluator.picture(mosaic / "selo.png")
    assert Image.open(mosaic / "selo.png").height > 400


def test_swapped_regions_are_not_found(mosaic):
    queries = json.loads((mosaic / "anno.json").read_text())
    queries[0]["caption"], queries[1]["caption"] = "blue", "red"
    (mosaic / "anno.json").write_text(json.dumps(queries))
    found = dict(build(mosaic).run(SimpleNamespace()))
    assert found["Rsu"] < 0.4 and found["Rmi"] < 0.3


def test_absent_scenes_and_other_files_are_told(mosaic):
    with pytest.raises(FileNotFoundError, match=r"has not 0\.png"):
        build(mosaic, images=str(mosaic))
    (mosaic / "anno.json").write_text('[{"caption": "x"}]')
    with pytest.raises(ValueError, match="caption, jpg_name, points"):
        build(mosaic)
    with pytest.raises(ValueError, match="needs the field 'annotations'"):
        build(mosaic, annotations="")


@pytest.mark.parametrize(
    ("grey", "regions", "message"),
    [
        (np.zeros((5, 5, 3), np.uint8), [[[0, 0], [1, 0], [1, 1]]], r"\(5, 5, 3\)"),
        (np.full((5, 5), 2.0), [[[0, 0], [1, 0], [1, 1]]], "from 0 to 1"),
        (np.zeros((5, 5), np.uint8), [], "one polygon or more"),
        (np.zeros((5, 5), np.uint8), [[[9, 9], [12, 9], [9, 12]]], "cover 0 of 25 pixels"),
    ],
)
def test_wrong_maps_and_regions_are_told(grey, regions, message):
    with pytest.raises(ValueError, match=message):
        selo.score(grey, regions)
