"""Which class a label stands for: by name, by number or by place, never by a guess."""

from collections.abc import Mapping, Sequence

import numpy as np

from rsclip_jax.data.class_names import in_order, number, other_order, words
from rsclip_jax.evaluators import class_lists


def class_index(
    labels: Sequence[str], given_names: Sequence[str] | str = (), label_words: bool = True
) -> tuple[list[str], np.ndarray]:
    """Return the class names that go into the prompts and the class of each label, [N] integers.

    Args:
      labels: of N images.
      given_names: a name of `class_lists`; (), the labels themselves; or own names. These are
        matched, the first way that fits all labels: as "LABEL=WORDS"; by name, however it is
        spelled; by number, where the labels are 0, 1, ..., or 1, 2, ... up to the last name; by
        place among the sorted labels (`data.class_names.in_order`).
      label_words: False leaves labels that are the names as they are written.

    Raises:
      ValueError: `given_names` can be matched to the labels in no way, or in two; labels without
        words; two classes of one name.
    """
    if isinstance(given_names, str):
        found, numbers = class_lists.match(given_names, labels)
        return found, np.array(numbers)
    present = in_order(labels)
    if not given_names:
        names, place = _own_names(present, label_words), {x: i for i, x in enumerate(present)}
    elif all("=" in name for name in given_names):
        names, place = _pairs(present, given_names)
    else:
        names, place = list(given_names), _places(present, list(given_names))
    return names, np.array([place[label] for label in labels])


def shared_index(
    known: Sequence[str], labels: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the classes of several sets of labels, as numbers in the order of the known labels.

    Labels are one class where `class_index` gives them one name, however they are spelled:
    "AnnualCrop" and "annual_crop", "7" and "7.0".

    Args:
      known: the labels that make the classes, sorted as `data.class_names.in_order` does.
      labels: name of the set -> labels of its N images.

    Returns:
      name of the set -> [N] integers.

    Raises:
      ValueError: two of the known labels are one class, or labels that are none of the known.
    """
    present = in_order(known)
    names = [_class_name(label) for label in present]
    _check_distinct(names, present, "spell each class in one way")
    place = {name: index for index, name in enumerate(names)}
    found = {}
    for where, given in labels.items():
        if unknown := [label for label in in_order(given) if _class_name(label) not in place]:
            raise ValueError(
                f"{where}: classes without a training image: {_listed(unknown)}; training has "
                f"{_listed(present)}"
            )
        found[where] = np.array([place[_class_name(label)] for label in given])
    return found


def _class_name(label: str) -> str:
    value = number(label)
    return words(label) if value is None else str(value)


def _own_names(present: list[str], label_words: bool) -> list[str]:
    if not label_words:
        return present
    if all(number(label) is not None for label in present):
        raise ValueError(
            f"the labels {_listed(present)} are numbers, which say nothing in a prompt: give the "
            "names of the classes in the order of the numbers, class_names=('forest', ...), or "
            "label_words=False for the numbers"
        )
    names = [words(label) for label in present]
    _check_distinct(names, present)
    return names


def _pairs(present: list[str], given: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    pairs = [name.split("=", 1) for name in given]
    place = {label.strip(): index for index, (label, _) in enumerate(pairs)}
    unknown = [label for label in present if label not in place]
    if unknown or len(place) < len(pairs):
        raise ValueError(
            f"class_names={tuple(given)}: expected LABEL=WORDS once for each of "
            f"{_listed(present)}" + (f"; none for {', '.join(unknown)}" if unknown else "")
        )
    names = [name.strip() for _, name in pairs]
    _check_distinct(names, names)
    return names, place


def _places(present: list[str], names: list[str]) -> dict[str, int]:
    """Return the place in `names` of each label."""
    _check_distinct([words(name) for name in names], names)
    numbers = [value for label in present if (value := number(label)) is not None]
    for spelling in (words,) if numbers else (words, class_lists.key):  # the key of "1.0" is "10"
        position = {spelling(name): index for index, name in enumerate(names)}
        spelled = {label: spelling(label) for label in present}
        distinct = len(position) == len(names) and all(position)
        if distinct and all(spelled[label] in position for label in present):
            return {label: position[spelled[label]] for label in present}
    if len(numbers) == len(present):
        return _by_number(present, numbers, names)
    position = {words(name): index for index, name in enumerate(names)}
    # By place, but not where some names say otherwise: a single misspelt one must not shift others.
    elsewhere = [x for i, x in enumerate(present) if position.get(words(x), i) != i]
    if len(names) != len(present) or elsewhere:
        unknown = [label for label in present if words(label) not in position]
        raise ValueError(
            f"class_names has {len(names)} names for {len(present)} labels, and none for "
            f"{', '.join(unknown)}; give one for each of {', '.join(present)}, in this order"
        )
    if (other := other_order(present)) != present:
        raise ValueError(
            f"class_names has no names that are labels, and the labels have two orders, "
            f"{_listed(present)} or {_listed(other)}: say which name is whose, "
            f"class_names=('{present[0]}={names[0]}', ...)"
        )
    return {label: index for index, label in enumerate(present)}


def _by_number(present: list[str], numbers: list[int], names: list[str]) -> dict[str, int]:
    first, last = min(numbers), max(numbers)
    if len(set(numbers)) == len(present):
        if first == 0 and last < len(names):
            return dict(zip(present, numbers, strict=True))
        if first > 0 and last == len(names):
            return {label: value - 1 for label, value in zip(present, numbers, strict=True)}
        if len(names) == len(present):
            return {label: index for index, label in enumerate(present)}
    raise ValueError(
        f"class_names has {len(names)} names for {len(present)} labels, the numbers "
        f"{_listed(present)}: which is whose is not certain; say it, "
        f"class_names=('{present[0]}={names[0]}', ...)"
    )


def _check_distinct(
    names: Sequence[str],
    written: Sequence[str],
    mend: str = "give each its own, class_names=('LABEL=WORDS', ...)",
) -> None:
    seen: dict[str, str] = {}
    for name, own in zip(names, written, strict=True):
        if name in seen:
            raise ValueError(
                f"two classes have the same name, {name!r}: {seen[name]!r} and {own!r}; {mend}"
            )
        seen[name] = own


def _listed(labels: Sequence[str], most: int = 12) -> str:
    more = f", ... ({len(labels)} in all)" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more
