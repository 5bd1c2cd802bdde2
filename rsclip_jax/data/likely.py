"""What columns hold that no role uses: captions, images and splits are told by their values.

Names tell more (`columns.check_unused`); this finds what is called as nobody expects. It rather
misses a column than takes ids, URLs, dates, licences, addresses, tags or class names for captions.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from rsclip_jax.data.cells import texts_of
from rsclip_jax.data.columns import LIST_ROLES
from rsclip_jax.data.sources import InputError, Sample, is_image_name
from rsclip_jax.data.splits import is_split, usual_name

MIN_ROWS = 3  # fewer tell nothing
_WORD = re.compile(r"[^\W\d_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")  # Chinese and Japanese have no spaces


def check_values(
    rows: Sequence[Mapping[str, Any]],
    unused: Iterable[str],
    ignore: Collection[str],
    where: str,
    samples: Sequence[Sample],
    is_new_image: Callable[[int, str], bool] | None = None,
) -> None:
    """Refuse columns whose values look like captions, or are images or splits, and are not used.

    Args:
      rows: some, such as the first ones.
      unused: the columns that no role uses.
      ignore: those of them that are left out on purpose.
      where: the input, for the error.
      samples: what is used of each row: a copy of its captions is none.
      is_new_image: tells of the number of a row and a path whether it is an image of that row that
        is not used.

    Raises:
      InputError: there is such a column.
    """
    for name in unused:
        if name in ignore:
            continue
        texts = [_texts(row.get(name), name) for row in rows]
        given = [number for number, of in enumerate(texts) if of]
        if len(given) < MIN_ROWS:
            continue
        if is_new_image is not None:
            new = [is_image_name(texts[n][0]) and is_new_image(n, texts[n][0]) for n in given]
            if _most(new):
                raise InputError(
                    f"{where}: column {name!r} holds paths of images and is not used; use it with "
                    f"--ir_column={name} or --image_column={name}, or leave it out with "
                    f"--ignore={name}"
                )
        splits = {texts[n][0] for n in given if is_split(texts[n][0])}
        if _most([texts[n][0] in splits for n in given]) and any(
            usual_name(texts[n][0]) != usual_name(samples[n].split) for n in given
        ):
            raise InputError(
                f"{where}: column {name!r} holds splits ({', '.join(sorted(splits))}) and is not "
                f"used; use it with --split_column={name}, or leave it out with --ignore={name}"
            )
        sentences = _most([all(map(is_sentence, texts[n])) for n in given])
        new = [not set(texts[n]) <= set(_used(samples[n])) for n in given]
        distinct = len({tuple(texts[n]) for n in given})
        images = len({samples[n].image for n in given})  # there may be a row for each caption
        if sentences and distinct >= images / 2 and distinct > 1 and _most(new):
            raise InputError(
                f"{where}: column {name!r} looks like captions ({texts[given[0]][0]!r:.60}) and is "
                f"not used; use it with --caption_columns or --long_caption_columns, or leave it "
                f"out with --ignore={name}"
            )


def is_sentence(text: str) -> bool:
    """Tell whether a text looks like one written for an image.

    It has four words at least (or six Chinese or Japanese characters), few of them with digits,
    capitals or commas.
    """
    if "://" in text or text.startswith(("{", "[", "<")):
        return False
    if len(_UNSPACED.findall(text)) >= 6:
        return True
    words = text.split()
    plain = [word for word in words if _WORD.fullmatch(word.rstrip(".,;:!?")) and word[0].islower()]
    commas = sum(word.endswith((",", ";", "|")) for word in words)
    return len(words) >= 4 and len(plain) >= 0.6 * len(words) and commas < 0.4 * len(words)


def _used(sample: Sample) -> list[str]:
    return [text for role in LIST_ROLES for text in getattr(sample, role)]


def _texts(cell: Any, name: str) -> list[str]:
    try:
        return texts_of(cell, name)
    except ValueError:
        return []


def _most(values: Sequence[bool]) -> bool:
    return sum(values) >= 0.8 * len(values)
