"""Speed of semantic localisation beside the way of the papers' code.

    python -m benchmarks.semantic_localization

Both score one caption on a scene with the same randomly initialised model. The papers' code
(generate_selo.py) writes every window to a JPEG file, reads and encodes them one at a time,
averages in a Python loop over the pixels, and writes the map and two pictures. That is done here
on a smaller scene, and its seconds per window and per pixel are multiplied. Compilation counts on
neither side. The metrics are ours on both, so theirs gain from what makes ours faster. Both are
timed in turn; the medians of the rounds count.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from absl import app, flags

from configs import defaults
from rsclip_jax import sharding
from rsclip_jax.data import images
from rsclip_jax.data.text import ClipTokenizer
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators import semantic_localization as selo
from rsclip_jax.models import clip

_SIDE = flags.DEFINE_integer("side", 10_000, "Side of the scene in pixels.")
_SMALL = flags.DEFINE_integer("small_side", 1_500, "Side of the scene for the papers' way.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often both are timed.")
_VARIANT = flags.DEFINE_string("variant", "tiny", "Size of the model.")

REGION = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3]])  # a triangle, of a scene of side 1


def main(_: Sequence[str]) -> None:
    """Measure and print."""
    found = measure()
    print(
        f"{_SIDE.value} x {_SIDE.value} px, {found['count']} windows, {_VARIANT.value}: "
        f"{found['ours_s']:.1f} s ({found['windows_s']:.1f} windows, {found['map_s']:.1f} map, "
        f"{found['metrics_s']:.1f} metrics), one by one {found['theirs_s']:.0f} s if the whole "
        f"scene took as long as {_SMALL.value} x {_SMALL.value} px: {found['ratio']:.1f} times ours"
    )


def measure() -> dict[str, float]:
    """Time both ways as the flags say.

    Returns:
      Medians over the rounds: seconds `ours_s` and of its parts `windows_s`, `map_s`, `metrics_s`;
      `theirs_s`; their `ratio`; and the `count` of windows.
    """
    config = defaults.get_config()
    config.model.variant = _VARIANT.value
    config.model.vocab_size, config.model.eot_id = 49408, 49407
    model = clip.build(config.model)
    params = clip.init_params(model, jax.random.key(0))
    encoder = Encoder(model, sharding.make_mesh())
    ztxt = encoder.text(params, ClipTokenizer(77)(["there is a green pond next to the gray road"]))[
        0
    ]

    side = _SIDE.value
    scene = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (side // 40, side // 40, 3), np.uint8),
        (side, side),
    )
    small = scene[: _SMALL.value, : _SMALL.value]
    list(encoder.image_stream(params, selo.crops(scene, selo.windows(800, 800), encoder)))
    count = len(selo.windows(side, side))
    stages, theirs = [], []
    for _ in range(_ROUNDS.value):
        stages.append(at_once(scene, encoder, params, ztxt))
        theirs.append(one_by_one(small, encoder, params, ztxt) @ [count, side * side])
        ratio = theirs[-1] / sum(stages[-1])
        print(f"at once {sum(stages[-1]):.1f} s, one by one {theirs[-1]:.0f} s: {ratio:.1f} times")
    ours = np.sum(stages, axis=1)
    windows_s, map_s, metrics_s = np.median(stages, axis=0)
    return {
        "count": count,
        "ours_s": float(np.median(ours)),
        "windows_s": float(windows_s),
        "map_s": float(map_s),
        "metrics_s": float(metrics_s),
        "theirs_s": float(np.median(theirs)),
        "ratio": float(np.median(theirs / ours)),
    }


def at_once(
    scene: np.ndarray, encoder: Encoder, params, ztxt: np.ndarray
) -> tuple[float, float, float]:
    """Return the seconds for the embeddings of the windows, the map, and the metrics."""
    height, width, _ = scene.shape
    start = time.perf_counter()
    boxes = selo.windows(height, width)
    zimg = np.concatenate(list(encoder.image_stream(params, selo.crops(scene, boxes, encoder))))
    encoded = time.perf_counter()
    found = selo.heat_map(boxes, zimg @ ztxt, height, width)
    mapped = time.perf_counter()
    selo.score(found, [REGION * height])
    return encoded - start, mapped - encoded, time.perf_counter() - mapped


def one_by_one(scene: np.ndarray, encoder: Encoder, params, ztxt: np.ndarray) -> np.ndarray:
    """Return the seconds per window and per pixel of the papers' way."""
    height, width, _ = scene.shape
    boxes = selo.windows(height, width)
    encoder.image(params, np.zeros((1, encoder.image_size, encoder.image_size, 3), np.uint8))
    total, count = np.zeros((2, height, width))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "window.jpg")
        for y0, x0, y1, x1 in boxes:
            window = cv2.resize(
                scene[y0:y1, x0:x1], (selo.CROP, selo.CROP), interpolation=cv2.INTER_CUBIC
            )
            cv2.imwrite(path, window)
            pixels = images.eval_preprocess(
                images.decode(Path(path).read_bytes()), encoder.image_size
            )
            similarity = float(encoder.image(params, pixels[None])[0] @ ztxt)
            total[y0:y1, x0:x1] += similarity
            count[y0:y1, x0:x1] += 1
        windows_s = time.perf_counter() - start
        start = time.perf_counter()
        for y in range(height):
            for x in range(width):
                total[y, x] /= count[y, x]
        total -= total.min()
        grey = cv2.medianBlur(np.uint8(255 * (total / total.max())), selo.MEDIAN)
        heat = cv2.applyColorMap(grey, cv2.COLORMAP_JET)
        for picture in (heat, cv2.addWeighted(scene, 0.7, heat, 0.3, 0), grey):
            cv2.imwrite(path, picture)
        probability = cv2.imread(path, cv2.IMREAD_GRAYSCALE) / 255.0
        selo.score(probability, [REGION * height])
        pixels_s = time.perf_counter() - start
    return np.array([windows_s / len(boxes), pixels_s / (height * width)])


if __name__ == "__main__":
    app.run(main)
