"""Which column of a row is what: names given by flags, or the field's usual ones."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsclip_jax.data.cells import has_content, holds_text, items_of, text_of
from rsclip_jax.data.sources import InputError

# Role -> the flag that names its columns, and the names taken without the flag, best first.
ROLES = {
    "id": ("id_column", ()),
    "image": (
        "image_column",
        (
            *("filename", "file_name", "image", "image_path", "img", "img_path", "img_name"),
            *("image_name", "rgb_path"),
            *("filepath", "file_path", "path", "file", "name"),
        ),
    ),
    "captions": (
        "caption_columns",
        ("captions", "caption", "text", "texts", "title", "sentences", "sentence", "raw"),
    ),
    "long_captions": (
        "long_caption_columns",
        ("long_captions", "long_caption", "captions_long", "caption_long"),
    ),
    "ir": (
        "ir_column",
        (
            *("ir", "ir_path", "ir_image", "infrared", "infrared_path", "infrared_image"),
            *("nir", "nir_path", "nir_image", "thermal", "thermal_path", "thermal_image"),
        ),
    ),
    "ir_captions": (
        "ir_caption_columns",
        ("ir_captions", "ir_caption", "captions_ir", "caption_ir"),
    ),
    "label": (
        "label_column",
        ("label", "class", "category", "class_name", "classname", "label_name", "class_label"),
    ),
    "split": ("split_column", ("split", "subset")),
    "source": ("source_column", ("source",)),
}
LIST_ROLES = ("captions", "long_captions", "ir_captions")
TEXT_ROLES = (*LIST_ROLES, "label")  # one of them makes an image a sample
Columns = Mapping[str, tuple[str, ...]]

# Names that look like a role's: lost without a word, they cost captions, images or splits.
_LOOKS_LIKE = {
    "captions": re.compile(r".*(caption|sentence|description).*|(.*_)?(texts?|title|raw)_?\d*"),
    "ir": re.compile(r"(.*_)?(ir|nir|infrared|thermal)(_(path|image|file|filename))?_?\d*"),
    "split": re.compile(r"(.*_)?(split|subset)_?\d*|is_?(train|val|validation|test)(ing)?"),
    "image": re.compile(r"(image|img|rgb)(_?(path|file|name))?_?\d*|filepath|file_path|filename"),
}
_OTHER_TEXTS = " (--long_caption_columns or --ir_caption_columns, if that is what it holds)"
EMPTY_ITEM = "captions in lists were empty, None or NaN: left out"


def resolve(
    present: Iterable[str], given: Columns, where: str, rows: Sequence[Mapping[str, Any]] = ()
) -> dict[str, tuple[str, ...]]:
    """Map each role to its columns.

    A role of several texts whose column is not named by the user has that column's numbered
    siblings too, whether or not there is one without a number: `caption`, `caption_1`, `caption2`.
    A column of class names goes before one of their numbers.

    Args:
      present: the columns that the first rows have.
      given: role -> columns named by the user.
      where: the input, for the error.
      rows: some, which tell names of classes from numbers.

    Raises:
      InputError: a column named by the user does not exist; the nearest one is suggested.
    """
    present = list(present)
    by_lower_case = {name.lower(): name for name in reversed(present)}
    claimed = {name for names in given.values() for name in names}
    columns = {}
    for role, (flag, aliases) in ROLES.items():
        names = given.get(role, ())
        for name in names:
            if name not in present:
                raise InputError(_no_column(flag, name, present, where))
        if role == "label":  # sorting keeps the order of those that are alike
            cells = {of: [row.get(by_lower_case.get(of, "")) for row in rows] for of in aliases}
            aliases = tuple(sorted(aliases, key=lambda of: not any(map(holds_text, cells[of]))))
        if not names:
            for alias in aliases:
                name = by_lower_case.get(alias, "")
                names = (name,) if name and name not in claimed else ()
                if role in LIST_ROLES:
                    # NWPU-Captions has raw, raw_1, ..., raw_4: one of five is not enough.
                    more = re.compile(re.escape(alias) + r"_?\d+", re.IGNORECASE)
                    names += tuple(n for n in present if more.fullmatch(n) and n not in claimed)
                if names:
                    break
        if names:
            columns[role] = names
    return columns


def label_notes(present: Iterable[str], given: Columns, columns: Columns) -> list[str]:
    """Tell that the labels were taken from another column, because the usual one holds numbers."""
    usual = resolve(present, given, "").get("label", ("",))[0]
    chosen = columns.get("label", ("",))[0]
    if usual == chosen:
        return []
    return [
        f"labels are those of {chosen!r}: {usual!r} holds no names (--label_column={usual} takes "
        "it all the same)"
    ]


def check_unused(
    present: Iterable[str],
    columns: Columns,
    ignore: Iterable[str],
    where: str,
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return the columns that no role uses.

    Args:
      present, columns, where: see `resolve`.
      ignore: columns that are left out on purpose.
      rows: some. Where a column holds nothing, or no more than numbers, it has no captions and no
        images, whatever its name; a split may be a number.

    Raises:
      InputError: one of them looks like captions, an image, an infrared image or a split.
    """
    used = {name for names in columns.values() for name in names}
    unused = [name for name in present if name not in used]
    for name in unused:
        if name in ignore:
            continue
        for role, pattern in _LOOKS_LIKE.items():
            holds = has_content if role == "split" else holds_text
            if pattern.fullmatch(name.lower()) and any(holds(row.get(name)) for row in rows):
                flag = ROLES[role][0]
                named = ",".join((*columns.get(role, ()), name)) if role in LIST_ROLES else name
                raise InputError(
                    f"{where}: column {name!r} looks like {role} and is not used; "
                    f"use it with --{flag}={named}{_OTHER_TEXTS if role == 'captions' else ''}, or "
                    f"leave it out with --ignore={name}"
                )
    return unused


def _no_column(flag: str, name: str, present: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(name.lower(), [other.lower() for other in present], n=1)
    suggestion = ""
    if near:
        nearest = next(other for other in present if other.lower() == near[0])
        suggestion = f" (did you mean --{flag}={nearest}?)"
    return (
        f"--{flag}={name}: {where} has no column {name!r}{suggestion}; "
        f"it has {', '.join(present) or 'none'}"
    )


def read_row(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Take the fields of one row by role: lists of strings for the captions, else strings.

    The field `mended` has an item for each caption of a list that is empty and left out.

    Raises:
      ValueError: a cell holds something that is no text; the message is the reason to skip it.
    """
    fields: dict[str, Any] = {"mended": []}
    for role, names in columns.items():
        if role in LIST_ROLES:
            fields[role] = []
            for name in names:
                items = items_of(row.get(name), name)
                texts = [text for text in items if text]
                fields[role] += texts
                if has_content(row.get(name)):  # captions in numbered columns may end early
                    fields["mended"] += [EMPTY_ITEM] * (len(items) - len(texts))
        else:
            fields[role] = text_of(row.get(names[0]), names[0])
    return fields


def without_roles(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Leave of a row what `read_row` does not read."""
    read = {name for names in columns.values() for name in names}
    return {name: cell for name, cell in row.items() if name not in read}
