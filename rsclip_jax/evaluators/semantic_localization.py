"""Semantic localisation (SeLo): where in a large scene is what a caption describes?

The map is that of Yuan et al., "Learning to Evaluate Performance of Multi-modal Semantic
Localization" (TGRS 2022), as GeoRSCLIP and LRSCLIP use it on AIR-SLT; the metrics are those of its
released code. Two of that code's detours are left out, each worth at most a grey level: windows and
maps are not written to JPEG files and read back.
"""

import concurrent.futures
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from rsclip_jax import distributed
from rsclip_jax.data import images
from rsclip_jax.encoder import SILENT_S, Encoder
from rsclip_jax.evaluators.cell_median import cell_median
from rsclip_jax.evaluators.pictures import save_localization_picture, shown_queries
from rsclip_jax.evaluators.recall import DRAWS
from rsclip_jax.evaluators.texts import tokenizer_for
from rsclip_jax.host import available_cores

METRICS = ("Rsu", "Ras", "Rda", "Rmi")
SCALES = (256, 512, 768)  # window sides in pixels
CROP = 256  # side to which every window is resized before the model's own preprocessing
MEDIAN = 251  # side of the median filter of the map
SU_STEEPNESS = 0.707
AS_STEEPNESS = 3.0
REGION_EXPANSION = 1.5
CENTRE_BLUR, CENTRE_BLURS, CENTRE_WINDOW, CENTRE_LEAST = 50, 5, 1000, 0.5

Polygon = ArrayLike  # [V, 2], x and y in pixels


def score(probability_map: ArrayLike, regions: Sequence[Polygon]) -> dict[str, float]:
    """Compare a map with the regions that the caption describes.

    Args:
      probability_map: [H, W], uint8, or float in [0, 1].
      regions: one polygon or more, each [V, 2] of x, y in pixels.

    Returns:
      "Rsu" (significant area), "Ras" (attention shift, lower is better), "Rda" (discrete
      attention), and "Rmi" = 0.4 Rsu + 0.35 (1 - Ras) + 0.25 Rda; all in [0, 1].

    Raises:
      ValueError: not such a map, no region, or regions that cover no pixel or all of them.
    """
    probability = np.asarray(probability_map)
    if probability.ndim != 2 or not probability.size:
        raise ValueError(f"probability_map of shape {probability.shape}: expected [H, W]")
    if probability.dtype != np.uint8 and not (
        np.isfinite(probability).all() and 0 <= probability.min() <= probability.max() <= 1
    ):
        raise ValueError("probability_map: expected uint8, or float values from 0 to 1")
    return _compare(probability, _polygons(regions), attention_centres(probability))


def _polygons(regions: Sequence[Polygon]) -> list[np.ndarray]:
    polygons = [np.asarray(region, np.float64).reshape(-1, 2) for region in regions]
    if not polygons or min(map(len, polygons)) < 3:
        raise ValueError("regions: expected one polygon or more, each of three points or more")
    return polygons


def _compare(
    probability: np.ndarray, polygons: list[np.ndarray], centres: np.ndarray
) -> dict[str, float]:
    su = _significant_area(probability, polygons)
    shift, discrete = [], []
    for polygon in polygons:
        middle = polygon.mean(axis=0).astype(int)
        radius = int(REGION_EXPANSION * np.linalg.norm(polygon - middle, axis=1).mean())
        distance = np.linalg.norm(centres - middle, axis=1)
        inside = distance <= radius
        shift.append(distance[inside].mean() / radius if inside.any() else 1.0)
        discrete.append(_discreteness(centres[inside], radius))
    attention = math.expm1(AS_STEEPNESS * np.mean(shift)) / math.expm1(AS_STEEPNESS)
    da = float(np.mean(discrete))
    mi = 0.4 * su + 0.35 * (1 - attention) + 0.25 * da
    return {"Rsu": su, "Ras": attention, "Rda": da, "Rmi": mi}


def attention_centres(probability: np.ndarray) -> np.ndarray:
    """Find the peaks of a map [H, W], uint8 or in [0, 1]: [C, 2] of x, y, the highest first."""
    centres = _centroids(*peaks(_smooth(probability), CENTRE_WINDOW))
    heights = _unit(probability[centres[:, 1], centres[:, 0]])
    order = np.argsort(-heights, kind="stable")
    return centres[order][heights[order] >= CENTRE_LEAST]


def _smooth(probability: np.ndarray) -> np.ndarray:
    """Return the map as uint8, blurred CENTRE_BLURS times, strips of rows at once on all cores."""
    smooth = np.empty(probability.shape, np.uint8)
    edges = np.linspace(0, len(smooth), available_cores() + 1).astype(int)
    reach = CENTRE_BLURS * (CENTRE_BLUR // 2)

    def strip(start: int, stop: int) -> None:
        first = max(0, start - reach)  # with the rows that its own ones see
        rows = probability[first : stop + reach]
        if rows.dtype == np.uint8:  # as it would come out of the line below
            grey = cv2.LUT(rows, (255 * (np.arange(256) / 255)).astype(np.uint8))
        else:
            grey = (255 * rows).astype(np.uint8)
        for _ in range(CENTRE_BLURS):
            grey = cv2.blur(grey, (CENTRE_BLUR, CENTRE_BLUR))
        smooth[start:stop] = grey[start - first : stop - first]

    with concurrent.futures.ThreadPoolExecutor(len(edges) - 1) as pool:
        list(pool.map(strip, edges[:-1], edges[1:]))
    return smooth


def peaks(grey: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Mark the pixels above 0 that equal the maximum of the `size` x `size` window about them.

    The maxima of tiles tell for almost every tile that it has no such pixel, or that all its
    highest ones are; only the windows of the others are searched.

    Args:
      grey: uint8 [H, W].

    Returns:
      Marks, uint8 [H, W]; the tiles that have some, uint8 [R, C]; their side in pixels.
    """
    side, reach = max(1, size // 20), size // 2
    tops = grey
    for _ in range(2):  # along y, then along x
        tops = np.stack([tops[at : at + side].max(0) for at in range(0, len(tops), side)]).T
    # As many tiles on each side lie in the windows of all pixels of a tile, or meet one of them.
    inner = min((reach + 1) // side, (size - reach) // side) - 1
    outer = max(-(-reach // side), (size - reach + side - 2) // side)
    least, most = (cv2.dilate(tops, np.ones((2 * n + 1,) * 2, np.uint8)) for n in (inner, outer))
    marks, tiles = np.zeros_like(grey), np.zeros_like(tops)
    for row, column in np.argwhere((tops == least) & (tops > 0)):
        top, y, x = tops[row, column], row * side, column * side
        marked = grey[y : y + side, x : x + side] == top
        if most[row, column] > top:
            y0, x0 = max(0, y - reach), max(0, x - reach)
            around = grey[y0 : y + side - reach + size, x0 : x + side - reach + size]
            higher = cv2.integral((around > top).view(np.uint8))
            ys, xs = (
                np.clip(np.arange(n) + at - reach + np.array([[0], [size]]), 0, extent)
                for n, at, extent in zip(marked.shape, (y - y0, x - x0), around.shape, strict=True)
            )
            count = np.diff(np.diff(higher[ys][:, :, xs], axis=0), axis=2)[0, :, 0]
            marked &= count == 0
        marks[y : y + side, x : x + side] = marked
        tiles[row, column] = marked.any()
    return marks, tiles, side


def _centroids(marks: np.ndarray, tiles: np.ndarray, side: int) -> np.ndarray:
    """Return the centroids [C, 2] of the 8-connected components of what `peaks` marks.

    Only groups of touching tiles are searched; truncated to integers, in the order in which
    OpenCV would number the components of the whole image: that of their first 2 x 2 pixels.
    """
    found = []
    number, group, boxes, _ = cv2.connectedComponentsWithStats(tiles, connectivity=8)
    for k in range(1, number):  # the first is the background
        x, y, width, height, _ = boxes[k]
        own = group[y : y + height, x : x + width] == k
        y, x = side * y, side * x
        part = marks[y : y + side * height, x : x + side * width]
        own = own.repeat(side, axis=0).repeat(side, axis=1)[: len(part), : part.shape[1]]
        count, label = cv2.connectedComponents(part * own, connectivity=8)
        for component in range(1, count):
            ys, xs = np.nonzero(label == component)
            ys, xs = ys + y, xs + x
            block = min(zip((ys // 2).tolist(), (xs // 2).tolist(), strict=True))
            found.append((block, int(xs.mean()), int(ys.mean())))
    return np.array([centre for _, *centre in sorted(found)], int).reshape(-1, 2)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / 255 if values.dtype == np.uint8 else values


def _significant_area(probability: np.ndarray, polygons: list[np.ndarray]) -> float:
    height, width = probability.shape
    corners = [polygon.astype(np.int32) for polygon in polygons]
    (left, top), (right, bottom) = (
        np.clip(extreme(np.concatenate(corners), axis=0), 0, [width - 1, height - 1])
        for extreme in (np.min, np.max)
    )
    around = probability[top : bottom + 1, left : right + 1]
    mask = np.zeros(around.shape, np.uint8)
    cv2.fillPoly(mask, [corner - np.array([left, top], np.int32) for corner in corners], 1)
    area, inside = int(mask.sum()), float(around[mask > 0].sum())
    if probability.dtype == np.uint8:  # an exact sum, like NumPy's, in a tenth of its time
        inside, total = inside / 255, cv2.sumElems(probability)[0] / 255
    else:
        total = float(probability.sum())
    if area in (0, probability.size):
        raise ValueError(
            f"the regions cover {area} of {probability.size} pixels of a map of {width} x "
            f"{height}: expected some of them; are they those of another image?"
        )
    ratio = inside / (total - inside + 1e-7) * (probability.size - area) / area
    return 1 - math.exp(-SU_STEEPNESS * ratio)


def _discreteness(centres: np.ndarray, radius: int) -> float:
    if len(centres) < 2:
        return float(len(centres))
    spread = np.linalg.norm(centres - centres.mean(axis=0), axis=1).mean()
    return 0.5 * (1 - spread / radius) + math.exp(-0.5 * (len(centres) + 2))


def windows(height: int, width: int, scales: Sequence[int] = SCALES) -> np.ndarray:
    """Lay two grids of each scale over a scene, the second shifted by half a window both ways.

    Returns:
      [W, 4] integers y0, x0, y1, x1, each window once; those at the border are moved inside.
    """
    found = set()
    for scale in scales:
        for offset in (0, scale // 2):
            rows, columns = (_spans(extent, scale, offset) for extent in (height, width))
            found |= {(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns}
    return np.array(sorted(found))


def _spans(extent: int, scale: int, offset: int) -> list[tuple[int, int]]:
    return [
        (start, start + scale) if start + scale < extent else (max(0, extent - scale), extent)
        for start in range(offset, extent, scale)
    ]


def heat_map(boxes: np.ndarray, scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average the scores of the windows over each pixel, stretch to 0 ... 255 and take the median.

    The average is constant between the edges of the windows: it is summed on the grid that they
    make, exactly, and only the median unfolds it to pixels.

    Args:
      boxes: [W, 4], see `windows`; scores: [W].

    Returns:
      uint8 [H, W].
    """
    ys, xs = (
        np.unique([0, extent, *boxes[:, [a, a + 2]].ravel()])
        for a, extent in ((0, height), (1, width))
    )
    y0, x0, y1, x1 = (
        np.searchsorted(edges, boxes[:, column]) for column, edges in enumerate((ys, xs, ys, xs))
    )
    sums = np.zeros((2, len(ys), len(xs)))
    for values, total in zip((scores, np.ones(len(scores))), sums, strict=True):
        for rows, columns, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            np.add.at(total, (rows, columns), sign * values)
    total, count = sums.cumsum(1).cumsum(2)[:, :-1, :-1]
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0.5)
    mean -= mean.min()
    grey = np.floor(255 * mean / (mean.max() or 1)).astype(np.uint8)
    if grey.size * (MEDIAN / 5) ** 2 < height * width:
        return cell_median(grey, ys, xs, MEDIAN)
    # Of windows so small the median sees too many cells.
    return cv2.medianBlur(grey.repeat(np.diff(ys), axis=0).repeat(np.diff(xs), axis=1), MEDIAN)


class SemanticLocalization:
    """Evaluator `{"type": "semantic_localization", "annotations": ..., "images": ...}`.

    Metrics: Rsu, Ras, Rda, Rmi, the means over the annotated captions.

    Args:
      config: the whole configuration; the tokenizer is read from it.
      encoder: what embeds windows and captions.
      annotations: AIR-SLT's anno.json, a list of {"caption", "jpg_name", "points"}.
      images: the directory of the scenes.
      scales: sides of the windows in pixels.
    """

    metrics = METRICS

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        annotations: str,
        images: str,
        scales: Sequence[int] = SCALES,
    ):
        self._encoder = encoder
        self._tokenizer = tokenizer_for(config, "text")
        self._scales = tuple(scales)
        self.protocol = "windows " + "/".join(map(str, self._scales))
        self._images = Path(images)
        self._queries = read_annotations(annotations, images)
        self._results: list[dict[str, Any]] = []

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics."""
        self._results = []
        scored: list[tuple[int, dict[str, float]]] = []
        scenes = dict.fromkeys(query["jpg_name"] for query in self._queries)
        shown = shown_queries(len(self._queries))
        for name in tqdm(
            scenes,
            unit=" scenes",
            desc="localisation",
            delay=SILENT_S,
            leave=False,
            disable=jax.process_index() != 0,
        ):
            scene = images.decode((self._images / name).read_bytes())
            height, width, _ = scene.shape
            boxes = windows(height, width, self._scales)
            zimg = self._embed_windows(params, name, scene, boxes)
            for query in [q for q in self._queries if q["jpg_name"] == name]:
                ztxt = self._encoder.text(params, self._tokenizer([query["caption"].strip()]))
                place, result = len(self._results), dict(query)
                self._results.append(result)
                drawn = place in shown and jax.process_index() == 0
                if not drawn and place % jax.process_count() != jax.process_index():
                    continue  # another process scores it
                found = heat_map(boxes, zimg @ ztxt[0], height, width)
                result["centres"] = attention_centres(found)
                scored.append((place, _compare(found, query["points"], result["centres"])))
                if drawn:  # the others' maps would fill the memory
                    result["map"] = found
        for place, metrics in itertools.chain.from_iterable(distributed.gather(scored)):
            self._results[place] |= metrics
        for metric in METRICS:
            yield metric, float(np.mean([result[metric] for result in self._results]))

    def _embed_windows(
        self, params: Any, name: str, scene: np.ndarray, boxes: np.ndarray
    ) -> np.ndarray:
        parts = []
        with tqdm(
            total=len(boxes),
            unit=" windows",
            desc=name,
            delay=SILENT_S,
            leave=False,
            disable=jax.process_index() != 0,
        ) as progress:
            windows_of_batches = crops(scene, boxes, self._encoder)
            for z in self._encoder.image_stream(params, windows_of_batches):
                parts.append(z)
                progress.update(len(z))
        return np.concatenate(parts)

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        scenes = len({result["jpg_name"] for result in self._results})
        return [
            f"{self._images}: {len(self._results)} captions on {scenes} scenes",
            f"{self.protocol} pixels, half overlapping; the metrics of "
            "SemanticLocalizationMetrics, from 0 to 1; Ras is better when lower",
        ]

    def details(self) -> dict[str, Any]:
        """Return what a report says beside the metrics of the latest run."""
        number = len(self._results)
        drawn = np.random.default_rng(0).multinomial(
            number, np.full(number, 1 / number), size=DRAWS
        )
        intervals = {}
        for metric in METRICS:
            means = drawn @ [result[metric] for result in self._results] / number
            intervals[metric] = np.percentile(means, [2.5, 97.5]).tolist()
        return {"size": number, "intervals": intervals}

    def picture(self, path: str | os.PathLike) -> None:
        """Draw a few queries of the latest run into a PNG file."""
        save_localization_picture(
            path, lambda name: images.decode((self._images / name).read_bytes()), self._results
        )


def crops(scene: np.ndarray, boxes: np.ndarray, encoder: Encoder) -> Iterator[np.ndarray]:
    """Cut the windows out of a scene [H, W, 3], in batches uint8 [B, S, S, 3] for the encoder.

    Of several processes each cuts those that its devices embed, the others stay black.
    """
    black = np.zeros((encoder.image_size, encoder.image_size, 3), np.uint8)
    size = min(len(boxes), encoder.batch_size)
    own = np.ones(size, bool) if jax.process_count() == 1 else encoder.own_rows(size)

    def crop(box: np.ndarray, wanted: bool) -> np.ndarray:
        if not wanted:
            return black
        y0, x0, y1, x1 = box
        window = cv2.resize(scene[y0:y1, x0:x1], (CROP, CROP), interpolation=cv2.INTER_CUBIC)
        return images.eval_preprocess(window, encoder.image_size)

    with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(boxes), size):
            yield np.stack(list(pool.map(crop, boxes[start : start + size], own)))


def read_annotations(path: str | os.PathLike, images: str | os.PathLike) -> list[dict[str, Any]]:
    """Read AIR-SLT's annotations.

    Raises:
      FileNotFoundError: no such file, or a scene is not in the directory of the images.
      ValueError: not such annotations.
    """
    try:
        queries = json.loads(Path(path).read_text(encoding="utf-8"))
        if not queries:
            raise ValueError("no query")
        names = sorted({str(query["jpg_name"]) for query in queries})
        for query in queries:
            query["points"] = _polygons(query["points"])
            query["caption"] = str(query["caption"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a list of {{caption, jpg_name, points}}, as AIR-SLT's anno.json"
        ) from error
    absent = [name for name in names if not (Path(images) / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{images} has not {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}: "
            "AIR-SLT's scenes come with GeoRSCLIP's rs5m_test_data.zip, in AIR-SLT/imgs"
        )
    return queries
