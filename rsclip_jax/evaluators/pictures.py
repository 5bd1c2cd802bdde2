"""Pictures of what a model finds, and how far off it is: retrieval and localisation."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsclip_jax import atomic
from rsclip_jax.evaluators.texts import normalise

THUMB, FRAME, GAP, MARGIN = 132, 5, 16, 32
CAPTION_WIDTH = 300
SHOWN = 5
CANDIDATES = 200  # images among which queries are looked for
WIDTH = 2 * MARGIN + CAPTION_WIDTH + GAP + SHOWN * (THUMB + GAP) - GAP
INK, FAINT, RIGHT, WRONG = "#1c2733", "#6b7885", "#2a9d4a", "#d23b3b"
LINE = 19


def save_retrieval_picture(
    path: str | os.PathLike,
    image_at: Callable[[int], np.ndarray],
    captions: Sequence[str],
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    text_image_index: np.ndarray,
    *,
    title: str = "",
    text_queries: int = 4,
    image_queries: int = 3,
) -> None:
    """Draw the five best answers of a few text and image queries into a PNG file.

    Right answers have a green frame or bar, wrong ones a red one. A caption equal (up to case and
    white space) to one of the image's own is right. As far as there are both, half of the queries
    find a right answer first and half do not.

    Args:
      path: file to write; its directory is made.
      image_at: the image of an index in [0, N), uint8 [H, W, 3]; called for shown images only.
      captions: the M texts.
      image_embeddings, text_embeddings: [N, D] and [M, D], L2-normalised.
      text_image_index: [M] integers, the image that each text belongs to.
      title: what was searched, such as "rsicd/val".
      text_queries, image_queries: how many of each.
    """
    case = _Case(image_at, captions, image_embeddings, text_embeddings, text_image_index)
    number = len(image_embeddings)
    some = np.unique(np.linspace(0, number - 1, min(number, CANDIDATES)).round().astype(int))
    apart = len(some) >= 4 * (text_queries + image_queries)  # else the same images serve for both
    texts = [int(case.own_texts(i)[0]) for i in (some[::2] if apart else some)]
    others = [int(i) for i in (some[1::2] if apart else some)]
    blocks = [
        _heading(title, f"{len(image_embeddings):,} images, {len(captions):,} texts"),
        _section("Text to image"),
        *[_text_query(case, j) for j in _hits_and_misses(texts, case.text_hits, text_queries)],
        _section("Image to text"),
        *[_image_query(case, i) for i in _hits_and_misses(others, case.image_hits, image_queries)],
    ]
    _save_stack(path, blocks)


def save_pairs_picture(
    path: str | os.PathLike,
    rgb_at: Callable[[int], np.ndarray],
    ir_at: Callable[[int], np.ndarray],
    zrgb: np.ndarray,
    zir: np.ndarray,
    *,
    title: str = "",
    queries: int = 4,
) -> None:
    """Draw the five best infrared answers of a few RGB images, and the other way round.

    An image's own partner has a green frame. Half of the queries find it first, where there are
    such and others.

    Args:
      path: PNG file to write; its directory is made.
      rgb_at, ir_at: the images of an index in [0, N), uint8 [H, W, 3]; called for shown ones only.
      zrgb, zir: [N, D], L2-normalised.
      title: what was searched, such as "cart/test".
      queries: how many of each direction.
    """
    number = len(zrgb)
    some = np.unique(np.linspace(0, number - 1, min(number, CANDIDATES)).round().astype(int))
    blocks = [_heading(title, f"{number:,} pairs of RGB and infrared images")]
    for name, query_at, answer_at, zquery, zanswer in (
        ("RGB to infrared", rgb_at, ir_at, zrgb, zir),
        ("Infrared to RGB", ir_at, rgb_at, zir, zrgb),
    ):
        scores = {int(i): zanswer @ zquery[i] for i in some}
        found = {i for i, row in scores.items() if row.argmax() == i}
        chosen = _hits_and_misses(list(scores), found.__contains__, queries)
        blocks.append(_section(name))
        blocks += [_pair_query(query_at(i), answer_at, scores[i], i) for i in chosen]
    _save_stack(path, blocks)


def save_localization_picture(
    path: str | os.PathLike,
    scene_at: Callable[[str], np.ndarray],
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Draw some localisations into a PNG file: described regions, and the map with its centres.

    Args:
      path: file to write; its directory is made.
      scene_at: the scene of a name, uint8 [H, W, 3].
      results: of each query `caption`, `jpg_name`, `points` (polygons [V, 2]), `centres` [C, 2]
        and the metrics; of the `shown_queries` also `map` (uint8 [H, W]).
    """
    chosen = [results[i] for i in shown_queries(len(results))]
    blocks = [_localization(scene_at(result["jpg_name"]), result) for result in chosen]
    _save_stack(path, blocks)


def save_grid(
    path: str | os.PathLike,
    rows: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    *,
    title: str = "",
) -> None:
    """Draw images side by side, the same views of each in a column, into a PNG file.

    Args:
      path: file to write; its directory is made.
      rows: of uint8 images [H, W, 3] or [H, W], all of one size, as many as `names`.
      names: of the columns.
      title: where the images are from, such as "naip/test".
    """
    height, width = rows[0][0].shape[:2]
    canvas = Image.new(
        "RGB",
        (
            2 * MARGIN + len(names) * (width + GAP) - GAP,
            2 * MARGIN + 64 + len(rows) * (height + GAP) - GAP,
        ),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, INK, font(18))
    for column, name in enumerate(names):
        x = MARGIN + column * (width + GAP)
        draw.text((x, MARGIN + 36), cut(name, font(15), width), FAINT, font(15))
        for number, row in enumerate(rows):
            canvas.paste(Image.fromarray(row[column]), (x, MARGIN + 64 + number * (height + GAP)))
    save_png(path, canvas)


def shown_queries(number: int, most: int = 4) -> list[int]:
    """Choose which of so many queries are drawn: the first, the last, and evenly between."""
    return np.unique(np.linspace(0, number - 1, most).round().astype(int)).tolist()


def _localization(scene: np.ndarray, result: Mapping[str, Any]) -> Image.Image:
    side = (WIDTH - 2 * MARGIN - GAP) // 2
    scale = side / max(scene.shape[:2])
    size = tuple(max(1, round(scale * extent)) for extent in scene.shape[1::-1])
    plain = Image.fromarray(cv2.resize(scene, size, interpolation=cv2.INTER_AREA))
    grey = cv2.resize(result["map"], size, interpolation=cv2.INTER_AREA)
    heat = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    overlay = Image.blend(plain, Image.fromarray(heat), 0.6)
    for picture in (plain, overlay):
        draw = ImageDraw.Draw(picture)
        for polygon in result["points"]:
            corners = [tuple(corner) for corner in (scale * np.asarray(polygon)).tolist()]
            draw.line([*corners, corners[0]], RIGHT, 3)
    for x, y in (scale * np.asarray(result["centres"])).tolist():
        draw.line((x - 9, y, x + 9, y), "white", 3)
        draw.line((x, y - 9, x, y + 9), "white", 3)
    block = Image.new("RGB", (WIDTH, size[1] + 84), "white")
    words = ImageDraw.Draw(block)
    words.text(
        (MARGIN, 0), cut(result["caption"].strip(), font(16), WIDTH - 2 * MARGIN), INK, font(16)
    )
    numbers = "   ".join(f"{name} {result[name]:.3f}" for name in ("Rsu", "Ras", "Rda", "Rmi"))
    words.text((MARGIN, 26), f"{result['jpg_name']}   {numbers}", FAINT, font(13))
    block.paste(plain, (MARGIN, 52))
    block.paste(overlay, (MARGIN + side + GAP, 52))
    return block


def _save_stack(path: str | os.PathLike, blocks: Sequence[Image.Image]) -> None:
    """Write blocks one below the other, atomically."""
    canvas = Image.new("RGB", (WIDTH, sum(b.height for b in blocks) + 2 * MARGIN), "white")
    y = MARGIN
    for block in blocks:
        canvas.paste(block, (0, y))
        y += block.height
    save_png(path, canvas)


def save_png(path: str | os.PathLike, picture: Image.Image) -> None:
    """Write a picture atomically; its directory is made."""
    with atomic.replacing(path) as unfinished:
        picture.save(unfinished, format="PNG")


@dataclasses.dataclass
class _Case:
    """What was searched; see `save_retrieval_picture`."""

    image_at: Callable[[int], np.ndarray]
    captions: Sequence[str]
    zimg: np.ndarray
    ztxt: np.ndarray
    image_index: np.ndarray

    def own_texts(self, image: int) -> np.ndarray:
        return np.flatnonzero(np.asarray(self.image_index) == image)

    def right(self, image: int, text: int) -> bool:
        own = {normalise(self.captions[j]) for j in self.own_texts(image)}
        return normalise(self.captions[text]) in own

    def text_hits(self, text: int) -> bool:
        return self.right(int(np.argmax(self.zimg @ self.ztxt[text])), text)

    def image_hits(self, image: int) -> bool:
        return self.right(image, int(np.argmax(self.ztxt @ self.zimg[image])))

    def distinct(self, order: np.ndarray) -> list[int]:
        """Return the first texts of `order`, equal ones once."""
        found: dict[str, int] = {}
        for text in order:
            found.setdefault(normalise(self.captions[text]), int(text))
            if len(found) == SHOWN:
                break
        return list(found.values())


def _hits_and_misses(queries: Sequence[int], hits: Callable[[int], bool], number: int) -> list[int]:
    """Choose `number` queries, hits and misses in turn while there are both."""
    kinds: tuple[list[int], list[int]] = ([], [])
    for query in queries:
        kinds[not hits(query)].append(query)
    least = [min(len(kind), number // 2 + (number % 2) * k) for k, kind in enumerate(kinds)]
    chosen = []
    for kind, other in ((0, 1), (1, 0)):
        count = min(len(kinds[kind]), number - least[other])
        places = np.linspace(0, len(kinds[kind]) - 1, count).round().astype(int)
        chosen += [kinds[kind][place] for place in places]
    return chosen


def _text_query(case: _Case, text: int) -> Image.Image:
    scores = case.zimg @ case.ztxt[text]
    order = np.argsort(-scores, kind="stable")
    own = case.image_index[text]
    lines = _wrap(case.captions[text], font(15), CAPTION_WIDTH, 6)
    block = Image.new("RGB", (WIDTH, THUMB + 22 + GAP), "white")
    draw = ImageDraw.Draw(block)
    _lines(draw, (MARGIN, 0), lines, font(15), INK)
    rank = int(np.flatnonzero(order == own)[0]) + 1
    note = f"its own image: rank {rank:,} of {len(order):,}"
    draw.text((MARGIN, len(lines) * LINE + 6), note, FAINT, font(13))
    _answers(block, case.image_at, scores, order, lambda image: case.right(image, text))
    return block


def _pair_query(
    query: np.ndarray, answer_at: Callable[[int], np.ndarray], scores: np.ndarray, own: int
) -> Image.Image:
    order = np.argsort(-scores, kind="stable")
    block = Image.new("RGB", (WIDTH, THUMB + 22 + GAP), "white")
    _thumbnail(block, query, (MARGIN, 0), FAINT)
    rank = int(np.flatnonzero(order == own)[0]) + 1
    note = f"its partner: rank {rank:,} of {len(order):,}"
    ImageDraw.Draw(block).text((MARGIN, THUMB + 3), note, FAINT, font(13))
    _answers(block, answer_at, scores, order, lambda image: image == own)
    return block


def _answers(
    block: Image.Image,
    image_at: Callable[[int], np.ndarray],
    scores: np.ndarray,
    order: np.ndarray,
    right: Callable[[int], bool],
) -> None:
    """Draw the first images of `order` with their scores."""
    for k, image in enumerate(order[:SHOWN]):
        x = MARGIN + CAPTION_WIDTH + GAP + k * (THUMB + GAP)
        colour = RIGHT if right(int(image)) else WRONG
        _thumbnail(block, image_at(int(image)), (x, 0), colour)
        word = "   right" if colour == RIGHT else ""  # not everyone tells green from red
        text = f"{k + 1}.  {scores[image]:.3f}{word}"
        ImageDraw.Draw(block).text((x, THUMB + 3), text, FAINT, font(13))


def _image_query(case: _Case, image: int) -> Image.Image:
    scores = case.ztxt @ case.zimg[image]
    order = np.argsort(-scores, kind="stable")
    own = case.own_texts(image)
    left = MARGIN + THUMB + 2 * GAP
    width = WIDTH - MARGIN - left
    answers = [(j, _wrap(case.captions[j], font(15), width - 74, 2)) for j in case.distinct(order)]
    height = sum(len(lines) * LINE + 8 for _, lines in answers)
    block = Image.new("RGB", (WIDTH, max(THUMB, height + 20) + GAP), "white")
    draw = ImageDraw.Draw(block)
    _thumbnail(block, case.image_at(image), (MARGIN, 0), FAINT)
    y = 0
    for text, lines in answers:
        colour = RIGHT if case.right(image, text) else WRONG
        fill = RIGHT if colour == RIGHT else None
        draw.rectangle((left, y + 1, left + 6, y + len(lines) * LINE), fill, colour, 2)
        draw.text((left + 18, y + 1), f"{scores[text]:.3f}", FAINT, font(13))
        _lines(draw, (left + 74, y), lines, font(15), INK)
        y += len(lines) * LINE + 8
    rank = int(np.flatnonzero(np.isin(order, own))[0]) + 1
    own_texts = "its own text" if len(own) == 1 else f"the best of its own {len(own)} texts"
    note = f"{own_texts}: rank {rank:,} of {len(order):,}"
    draw.text((left + 74, y), note, FAINT, font(13))
    return block


def _heading(title: str, sizes: str) -> Image.Image:
    block = Image.new("RGB", (WIDTH, 64), "white")
    draw = ImageDraw.Draw(block)
    draw.text((MARGIN, 0), f"Retrieval{title and f': {title}'}", INK, font(26))
    draw.text((MARGIN, 38), f"{sizes}; numbers are cosine similarities", FAINT, font(14))
    x = WIDTH - MARGIN - 150
    for colour, word, fill in ((RIGHT, "right", RIGHT), (WRONG, "wrong", None)):
        draw.rectangle((x, 41, x + 12, 53), fill, colour, 2)
        draw.text((x + 19, 38), word, FAINT, font(14))
        x += 80
    return block


def _section(name: str) -> Image.Image:
    block = Image.new("RGB", (WIDTH, 56), "white")
    draw = ImageDraw.Draw(block)
    draw.line((MARGIN, 10, WIDTH - MARGIN, 10), fill="#d5dbe1")
    draw.text((MARGIN, 20), name, INK, font(18))
    return block


def _thumbnail(block: Image.Image, pixels: np.ndarray, at: tuple[int, int], colour: str) -> None:
    picture = Image.fromarray(pixels)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    inner = THUMB - 2 * FRAME
    picture = picture.resize(
        (inner, inner), Image.Resampling.LANCZOS, (left, top, left + side, top + side)
    )
    x, y = at
    ImageDraw.Draw(block).rectangle((x, y, x + THUMB - 1, y + THUMB - 1), fill=colour)
    block.paste(picture, (x + FRAME, y + FRAME))


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own typeface."""
    return ImageFont.load_default(size)  # type: ignore[return-value]


def _lines(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines, face, colour: str) -> None:
    for number, line in enumerate(lines):
        draw.text((at[0], at[1] + number * LINE), line, colour, face)


def _wrap(text: str, face: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Break a text into at most `most` lines of `width` pixels; what is left out leaves "..."."""
    lines, words = [""], text.split()
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) < most and lines[-1]:
            lines.append(cut(word, face, width))
        else:
            rest = " ".join([lines[-1], *words[number:]]).strip()
            lines[-1] = cut(rest, face, width)
            break
    return lines


def cut(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a text that is wider than `width` pixels, to end in "..."."""
    text = text[:width]  # no letter is narrower than a pixel
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
