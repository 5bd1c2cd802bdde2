"""Class lists of scene classification data sets: folder names and the words for the prompts.

NAME.json holds "title", "classes" (folder or label name -> words, sorted), "source" (where both
were read, and what is our own wording) and "get" (where the data set is downloaded).
"""

import difflib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

_FILES = {
    path.name.removesuffix(".json"): path
    for path in resources.files(__name__).iterdir()
    if path.name.endswith(".json")
}
NAMES: tuple[str, ...] = tuple(sorted(_FILES))


def entry(name: str) -> dict[str, Any]:
    """Return what is known of a data set: "title", "classes", "source" and "get".

    Raises:
      ValueError: `name` is none of NAMES.
    """
    if name not in _FILES:
        near = difflib.get_close_matches(str(name).lower(), NAMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"class list {name!r}: expected one of {', '.join(NAMES)}{hint}")
    return json.loads(_FILES[name].read_text(encoding="utf-8"))


def load(name: str) -> dict[str, str]:
    """Return the classes of a data set: folder or label name -> words, sorted by the former.

    Raises:
      ValueError: `name` is none of NAMES.
    """
    return entry(name)["classes"]


def key(label: str) -> str:
    """Reduce a label to its letters and digits: "BareLand", "Bare Land", "bare_land" are one."""
    return "".join(filter(str.isalnum, label.lower()))


def match(name: str, labels: Sequence[str]) -> tuple[list[str], list[int]]:
    """Find the classes of a list that a data set's own labels stand for.

    Args:
      name: one of NAMES.
      labels: folder names or words, in any order and spelled as `key` forgives; not all classes
        need to be among them.

    Returns:
      The words of all C classes in the list's order, and for each label its class in [0, C).

    Raises:
      ValueError: `name` is none of NAMES, or labels are of none of the list's classes.
    """
    classes = load(name)
    index = {key(text): i for i, pair in enumerate(classes.items()) for text in pair}
    unknown = list(dict.fromkeys(label for label in labels if key(label) not in index))
    if unknown:
        raise ValueError(
            f"class list {name!r} has no class for the labels {', '.join(map(repr, unknown))}; "
            f"its classes are {', '.join(classes)}. For other classes, leave class_list out, or "
            "name the class of each label with class_names"
        )
    return list(classes.values()), [index[key(label)] for label in labels]
