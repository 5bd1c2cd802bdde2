"""Compare translators of RGB to infrared with each other and with what costs nothing.

    python -m benchmarks.translation --models=runs/pix2pix,runs/bridge --data_dir=data \\
        --data=naip --split=test --output=docs/translation.png

Prints a Markdown table: PSNR, SSIM, with --tower the distance of a CLIP model's embeddings, and
FusionRS's audit, whose best values are those of the true images. Besides grayscale, inverted and
vegetation it has `affine`: infrared as the best sum of R, G, B and a constant, pixel by pixel,
fitted by least squares on the training split. All see images of the translators' size.
"""

import functools
from collections.abc import Callable

import numpy as np
from absl import app, flags

from rsclip_jax import loading
from rsclip_jax.build.stages import markdown_table
from rsclip_jax.data.free_infrared import FREE
from rsclip_jax.data.records import open_source
from rsclip_jax.evaluators.pictures import save_grid
from rsclip_jax.evaluators.translation import compare, pairs
from rsclip_jax.models import translator
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.translation import Translation

SHOWN = 5


def fit_affine(images) -> np.ndarray:
    """Return the weights [4] of R, G, B and 1 that come nearest to the infrared images."""
    squares, products = np.zeros((4, 4)), np.zeros(4)
    for rgb, ir in images:
        x = np.concatenate([rgb.reshape(-1, 3), np.ones((ir.size, 1))], axis=1, dtype=np.float64)
        squares += x.T @ x
        products += x.T @ ir.ravel()
    return np.linalg.solve(squares, products)


def affine(weights: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Return uint8 [..., H, W] of uint8 [..., H, W, 3]."""
    return np.clip(np.rint(rgb @ weights[:3] + weights[3]), 0, 255).astype(np.uint8)


def main(argv: list[str]) -> None:
    """Print the table, and draw the picture."""
    del argv
    values = flags.FLAGS
    views: dict[str, Callable] = dict(FREE)
    sizes = set()
    for path in values.models:
        config, params, step = load_for_inference(path)
        runner = Translation(translator.build(config.model))
        sizes.add(runner.image_size)
        name = path.rstrip("/").split("/")[-1]
        views[name] = functools.partial(runner.infrared, params)
        print(f"{name}: {config.model.variant}, width {config.model.width}, step {step}")
    if len(sizes) > 1:
        raise app.UsageError(f"translators of {sorted(sizes)} pixels: expected one size")
    size = sizes.pop() if sizes else 256
    train, test = (
        open_source(values.data_dir, values.data, split) for split in ("train", values.split)
    )
    weights = fit_affine(pairs(train, size))
    views["affine"] = functools.partial(affine, weights)
    print("affine: " + " ".join(f"{w:+.3f}" for w in weights) + " of R, G, B, 1")
    found = compare(views, pairs(test, size), loading.load(values.tower) if values.tower else None)
    metrics = list(next(iter(found.values())))
    table = [
        [name, *(f"{of[m]:.4g}" if m in of else "" for m in metrics)] for name, of in found.items()
    ]
    print(markdown_table(["image", *(m.replace("_", " ") for m in metrics)], table))
    if values.output:
        shown = next(pairs(test, size, SHOWN * 2))  # every other one
        rgb, ir = (x[::2] for x in shown)
        rows = list(zip(rgb, *(view(rgb) for view in views.values()), ir, strict=True))
        save_grid(
            values.output,
            rows,
            ("RGB", *views, "infrared"),
            title=f"{values.data}/{values.split}",
        )


if __name__ == "__main__":
    flags.DEFINE_list("models", [], "Workdirs of translators.")
    flags.DEFINE_string("data_dir", None, "Directory of the prepared data sets.", required=True)
    flags.DEFINE_string("data", "naip", "Data set.")
    flags.DEFINE_string("split", "test", "Records compared.")
    flags.DEFINE_string("tower", "", "A CLIP model, as rsclip_jax.load takes it.")
    flags.DEFINE_string("output", "", "PNG file of some images; empty for none.")
    app.run(main)
