"""Captions from boxes and masks by rules, without a language model (RemoteCLIP, section 3.2).

RemoteCLIP's box-to-caption: five captions an image. The first names the objects in its centre, the
second those that are not, each by the centre point of its box; three more name random objects with
their counts, in words up to ten, and "many" above. Its mask-to-box follows the outer border of each
part of a class and takes the box around it, which is the box around the part.

How large "the centre" is, how many objects a random caption names, and the sentences are not known
for certain: here the middle third of each side, one to three classes, and words of our own.
"""

import dataclasses
import math
import random
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from rsclip_jax.data import class_names

NUMBER_WORDS = ("no", *"one two three four five six seven eight nine ten".split())
_CENTRE = (1 / 3, 2 / 3)
_VIEWS = ("an aerial view", "a satellite view", "an overhead view")
_IRREGULAR = {"person": "people", "man": "men", "woman": "women", "aircraft": "aircraft"}


@dataclasses.dataclass(frozen=True)
class Box:
    """One object: its class and its extent in fractions of the image, from the top left."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    def in_centre(self) -> bool:
        """Tell whether the middle of the box lies in the middle third of both sides."""
        middle = ((self.left + self.right) / 2, (self.top + self.bottom) / 2)
        return all(_CENTRE[0] <= value <= _CENTRE[1] for value in middle)


def boxes_from_pixels(
    labels: Sequence[str], corners: Iterable[Sequence[float]], width: int, height: int
) -> list[Box]:
    """Make boxes of (left, top, right, bottom) in pixels.

    Raises:
      ValueError: a box without an extent or wholly outside of the image, one that is not finite or
        has no label, an image without an extent.
    """
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"an image of {width} x {height} pixels")
    boxes = []
    for label, (left, top, right, bottom) in zip(labels, corners, strict=True):
        if not isinstance(label, str) or not clean_label(label):
            raise ValueError(f"a box whose class is {label!r}, which is no name")
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError(f"box {left:g}, {top:g}, {right:g}, {bottom:g} of {label!r}")
        box = Box(
            clean_label(label),
            max(0.0, left / width),
            max(0.0, top / height),
            min(1.0, right / width),
            min(1.0, bottom / height),
        )
        if box.left >= box.right or box.top >= box.bottom:
            raise ValueError(
                f"box {left:g}, {top:g}, {right:g}, {bottom:g} of {label!r} has no part in an "
                f"image of {width} x {height} pixels (left, top, right, bottom were expected)"
            )
        boxes.append(box)
    return boxes


def boxes_from_voc(xml: str | bytes) -> list[Box]:
    """Read an annotation of Pascal VOC (DIOR, HRRSD, RSOD ...): pixels counted from 1."""
    root = ElementTree.fromstring(xml)
    width, height = (int(root.findtext(f"size/{name}") or 0) for name in ("width", "height"))
    if not width or not height:
        raise ValueError("a VOC annotation without size/width and size/height")
    labels, corners = [], []
    for thing in root.iterfind("object"):
        values = [thing.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        if None in values:
            raise ValueError("a VOC object without bndbox/xmin, ymin, xmax and ymax")
        left, top, right, bottom = (float(value) for value in values if value is not None)
        labels.append(thing.findtext("name") or "object")
        corners.append((left - 1, top - 1, right, bottom))
    return boxes_from_pixels(labels, corners, width, height)


def boxes_from_yolo(text: str, names: Sequence[str]) -> list[Box]:
    """Read a label file of YOLO: class, centre x, centre y, width, height in fractions a line."""
    labels, corners = [], []
    for line in text.splitlines():
        if line.strip():
            index, *numbers = line.split()[:5]
            x, y, width, height = map(float, numbers)
            if not 0 <= int(index) < len(names):
                raise ValueError(f"class {index}: expected 0 to {len(names) - 1}, see --names")
            labels.append(names[int(index)])
            corners.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return boxes_from_pixels(labels, corners, 1, 1)


def boxes_from_coco(
    annotations: Iterable[Mapping[str, Any]], names: Mapping[int, str], width: int, height: int
) -> list[Box]:
    """Read the annotations of one image of COCO: `bbox` is left, top, width, height in pixels."""
    annotations = list(annotations)
    labels = [names[annotation["category_id"]] for annotation in annotations]
    corners = [(x, y, x + w, y + h) for x, y, w, h in (item["bbox"] for item in annotations)]
    return boxes_from_pixels(labels, corners, width, height)


def boxes_from_meta(meta: Mapping[str, Any]) -> list[Box]:
    """Read {"boxes": [[label, left, top, right, bottom], ...]}, in fractions of the image.

    Args:
      meta: of a row, decoded; `boxes_to_meta` writes such boxes. Without any, the list is empty.

    Raises:
      ValueError: they have another form, or one has no label.
    """
    given = meta.get("boxes") or []
    try:
        boxes = [Box(clean_label(str(label)), *map(float, corners)) for label, *corners in given]
        if not all(box.label for box in boxes):
            raise ValueError("a box without a label")
        return boxes
    except (TypeError, ValueError):
        raise ValueError(
            f"boxes in meta: expected [[label, left, top, right, bottom], ...], got {given!r:.100}"
        ) from None


def boxes_to_meta(boxes: Iterable[Box]) -> dict[str, Any]:
    """Return what `boxes_from_meta` reads."""
    return {"boxes": [list(dataclasses.astuple(box)) for box in boxes]}


def mask_to_boxes(mask: np.ndarray, names: Mapping[int, str], min_area: int = 16) -> list[Box]:
    """Put a box around each connected part of each class, diagonal neighbours included.

    Args:
      mask: class numbers [H, W].
      names: of the classes that are objects; other numbers (background) are passed over.
      min_area: in pixels; smaller specks are passed over.
    """
    height, width = mask.shape
    labels, corners = [], []
    for number, name in names.items():
        layer = (mask == number).astype(np.uint8)
        _, _, parts, _ = cv2.connectedComponentsWithStats(layer, connectivity=8)
        for x, y, w, h, area in parts[1:].tolist():  # the first is the background
            if area >= min_area:
                labels.append(name)
                corners.append((x, y, x + w, y + h))
    return boxes_from_pixels(labels, corners, width, height)


def box_captions(boxes: Sequence[Box], seed: int | str = 0) -> list[str]:
    """Write RemoteCLIP's five captions of an image, fewer if they repeat; none without boxes.

    Args:
      boxes: of the image.
      seed: such as the id of the row; the same one writes the same captions.
    """
    if not boxes:
        return []
    draw = random.Random(str(seed))
    inside = Counter(box.label for box in boxes if box.in_centre())
    outside = Counter(box.label for box in boxes if not box.in_centre())
    captions = []
    if inside:
        captions.append(f"{phrase(inside)} in the centre of the image.")
    if outside:
        captions.append(f"{phrase(outside)} away from the centre of the image.")
    counts = Counter(box.label for box in boxes)
    for _ in range(3):
        chosen = draw.sample(sorted(counts), draw.randint(1, min(3, len(counts))))
        view = draw.choice(_VIEWS)
        captions.append(f"{view} of {phrase({label: counts[label] for label in chosen})}.")
    captions = [caption[0].upper() + caption[1:] for caption in captions]
    return list(dict.fromkeys(captions))


def phrase(counts: Mapping[str, int]) -> str:
    """Write {"ship": 2, "harbor": 1} as "two ships and a harbor"; above ten, "many"."""
    parts = [_counted(label, count) for label, count in counts.items() if count]
    return " and ".join([*([", ".join(parts[:-1])] if parts[1:] else []), *parts[-1:]])


def _counted(label: str, count: int) -> str:
    if count == 1:
        return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"
    return f"{NUMBER_WORDS[count] if count < len(NUMBER_WORDS) else 'many'} {plural(label)}"


def plural(label: str) -> str:
    """Return the plural of a class name, by its last word."""
    *first, last = label.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("ss", "us", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("s"):
        pass  # a class whose name is a plural, such as "buildings"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*first, last])


def clean_label(label: str) -> str:
    """Write a class name as words: "Ground_Track-Field" as "ground track field"."""
    return " ".join(class_names.words(label).replace("-", " ").split())
