"""A picture of a confusion matrix."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rsclip_jax.evaluators.pictures import FAINT, INK, MARGIN, RIGHT, WRONG, cut, font, save_png

SIDE = 900  # of the matrix in pixels, at most
CELL = (12, 44)  # of one class, at least and at most
NAME = 260  # pixels of a class's name, at most
FROM = 0.02  # share of a class's images from which a cell shows its number


def save_confusion_picture(
    path: str | os.PathLike, names: Sequence[str], confusion: np.ndarray, *, title: str = ""
) -> None:
    """Draw a confusion matrix into a PNG file: a row for each true class, in percent of its images.

    Green is right, red is wrong, the stronger the more. Classes without an image are left blank.

    Args:
      path: file to write; its directory is made.
      names: of the C classes.
      confusion: integers [C, C], see `zero_shot.confusion`.
      title: what was classified, such as "eurosat/test".
    """
    images = confusion.sum(axis=1)
    share = confusion / np.maximum(images, 1)[:, None]
    cell = int(np.clip(SIDE // len(names), *CELL))
    small = font(min(14, max(9, cell - 4)))
    numbers = font(min(13, cell // 2)) if cell >= 20 else None  # smaller ones nobody could read
    names = [cut(name, small, NAME) for name in names]
    rows = [f"{name}  {100 * share[k, k]:.0f} %  of {images[k]:,}" for k, name in enumerate(names)]
    left = int(max(map(small.getlength, rows))) + MARGIN + 10
    top = int(max(map(small.getlength, names))) + MARGIN + 60
    width = max(left + cell * len(names) + MARGIN, 640)
    canvas = Image.new("RGB", (width, top + cell * len(names) + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 8), f"Confusion{title and f': {title}'}", INK, font(24))
    note = "rows: the true class, with its accuracy; columns: the predicted one; percent of the row"
    draw.text((MARGIN, MARGIN + 24), note, FAINT, font(13))
    for k, name in enumerate(names):
        y = top + k * cell + (cell - small.size) // 2 - 1
        draw.text((left - 10 - small.getlength(rows[k]), y), rows[k], INK, small)
        label = Image.new("RGB", (int(small.getlength(name)) + 2, int(small.size) + 5), "white")
        ImageDraw.Draw(label).text((0, 0), name, INK, small)
        label = label.rotate(90, expand=True)
        x = left + k * cell + (cell - label.width) // 2
        canvas.paste(label, (x, top - 8 - label.height))
    for (row, column), value in np.ndenumerate(share):
        x, y = left + column * cell, top + row * cell
        colour = _mix(RIGHT if row == column else WRONG, value)
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), colour, "#e4e8ec")
        if numbers and value >= FROM:
            text = f"{100 * value:.0f}"
            at = (x + (cell - numbers.getlength(text)) / 2, y + (cell - numbers.size) / 2 - 1)
            draw.text(at, text, "white" if value > 0.5 else INK, numbers)
    save_png(path, canvas)


def _mix(colour: str, share: float) -> tuple[int, ...]:
    """Return `colour` on white, opaque as `share` (with a root, so that little is still seen)."""
    full = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return tuple(int(v) for v in 255 + (full - 255) * np.sqrt(share))
