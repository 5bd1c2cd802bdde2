"""Words that name a direction in the image: found, and turned together with it.

A flip or a turn makes "the harbor on the left" wrong. Texts follow flips and turns by right angles;
for other angles there are no words.
"""

import re
from collections.abc import Callable

Vector = tuple[int, int]  # (x, y): to the right and down are positive

_SIDES = {(-1, 0): "left", (1, 0): "right", (0, -1): "top", (0, 1): "bottom"}
_UPPER = {**_SIDES, (0, -1): "upper", (0, 1): "lower"}
_COMPASS = {(-1, 0): "west", (1, 0): "east", (0, -1): "north", (0, 1): "south"}
_RELATIONS = {
    (-1, 0): "to the left of",
    (1, 0): "to the right of",
    (0, -1): "above",
    (0, 1): "below",
}
_LINES = {(1, 0): "horizontal", (-1, 0): "horizontal", (0, 1): "vertical", (0, -1): "vertical"}
# Each word, its direction, and the words that its opposite and its neighbours have.
_WORDS = {
    word: (vector, words)
    for words in (_LINES, _RELATIONS, _COMPASS, _UPPER, _SIDES)
    for vector, word in words.items()
}

# They look like directions and are none: names, and turns of speech.
_IDIOMS = (
    r"right[- ]angle\w*|right (?:beside|next|in|at|behind|above|below|along)|all right|rightly"
    r"|(?:is|are|was|were|been|be|have|has) left (?!of\b|side|part|corner|half)"
    r"|left (?:over|behind)"
    r"|on top of|top[- ](?:down|view)\w*|(?:roof|tree) tops?|from above"
    r"|(?-i:(?:North|South|East|West)(?:ern)? [A-Z]\w*|Middle East)"
    r"|(?:north|south|east|west)(?:ern)? (?:africa|america|asia|australia|carolina|dakota|europe"
    r"|ireland|korea|sudan|virginia)"
)
_CORNER = r"(?P<one>upper|lower|top|bottom|north|south)(?P<gap>[ -]?)(?P<two>left|right|east|west)"
_TAIL = r"(?P<tail>most|ern|ernmost|erly|wards?|bound|ly|[ -]hand)?"
_FOUND = re.compile(
    rf"\b(?:(?P<idiom>{_IDIOMS})|(?:{_CORNER}|(?P<word>{'|'.join(_WORDS)})){_TAIL})\b",
    re.IGNORECASE,
)


def has_direction(text: str) -> bool:
    """Tell whether a text names a direction in its image, such as "left", "upper" or "north"."""
    return any(not match["idiom"] for match in _FOUND.finditer(text))


def turned(text: str, move: Callable[[Vector], Vector]) -> str:
    """Turn the directions in a text as its image is turned.

    Words become their opposites (left, right; upper, lower; north, south; above, below) or, where
    the axes change places, the others (left, top; above, to the left of; horizontal, vertical).

    Args:
      move: where flips and turns by right angles take a direction (`images.Geometry.move`).
    """

    def word(match: re.Match) -> str:
        if match["idiom"]:
            return match[0]
        if match["two"]:
            (_, y), vertical = _WORDS[match["one"].lower()]
            (x, _), horizontal = _WORDS[match["two"].lower()]
            x, y = move((x, y))
            new = vertical[0, y] + match["gap"] + horizontal[x, 0]
        else:
            vector, words = _WORDS[match["word"].lower()]
            new = words[move(vector)]
        tail = match["tail"] or ""
        if "hand" in tail and not new.endswith(("left", "right")):
            tail = ""
        new = new.capitalize() if match[0][0].isupper() else new
        return (new.upper() if match[0].isupper() else new) + tail

    return _FOUND.sub(word, text)
