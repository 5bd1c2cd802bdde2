"""Words that name a direction in the image: found, and turned together with it.

A flip or a turn makes "the harbor on the left" wrong. Texts follow flips and turns by right angles;
for other angles there are no words. A text is turned only where the result is surely true and can
be turned back: "a bridge above a river" may tell of height, and "top side" has no counterpart that
"upper side" has not taken. Then `turned` returns None, and the image has to stay as it is.
"""

import re
from collections.abc import Callable, Iterator

Vector = tuple[int, int]  # (x, y): to the right and down are positive

_LEFT, _UP, _RIGHT, _DOWN = (-1, 0), (0, -1), (1, 0), (0, 1)

# What a rule writes for left, up, right, down; "-": there is no such form, so only flips turn it.
# No form stands in two rows of a rule, hence what was turned can be turned back.
_FORMS = {
    "on": ["on the left|towards the top|on the right|towards the bottom"],
    "pair": [
        "left and right|top and bottom|right and left|bottom and top",
        "left to right|-|right to left|-",
        "west and east|north and south|east and west|south and north",
        "west to east|north to south|east to west|south to north",
        "west-east|north-south|east-west|south-north",
    ],
    "image": ["left|top|right|bottom"],
    "part": ["left|upper|right|lower"],
    "most": ["leftmost|topmost|rightmost|bottommost", "-|uppermost|-|lowermost"],
    "compass": ["west|north|east|south"],
    "flip": ["left|-|right|-", "-|top|-|bottom"],
    "line": ["horizontal|vertical|horizontal|vertical"],
    "slope": ["horizontal|-|horizontal|-", "-|vertical|-|vertical"],
}
_TABLE: dict[tuple[str, str], tuple[Vector, dict[Vector, str]]] = {}
for _rule, _rows in _FORMS.items():
    for _row in _rows:
        _forms = dict(zip((_LEFT, _UP, _RIGHT, _DOWN), _row.split("|"), strict=True))
        _TABLE |= {(_rule, _form): (_way, _forms) for _way, _form in _forms.items()}

# The two words of a corner, or of a block such as "top-center": sign, and the words of both signs.
_SIGNS = {
    word: (sign, {-1: words[0], 1: words[1]})
    for words in (
        *(("top", "bottom"), ("upper", "lower"), ("north", "south"), ("n", "s")),
        *(("left", "right"), ("west", "east"), ("w", "e")),
    )
    for sign, word in zip((-1, 1), words, strict=True)
}
_COLUMNS = ("left", "right", "east", "west", "e", "w")
_TWO = re.compile(
    r"(top|bottom|upper|lower|left|right|center|centre|middle|north|south|n|s)([ -]?)"
    r"(top|bottom|upper|lower|left|right|center|centre|middle|east|west|e|w)",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\ba(n?) $", re.IGNORECASE)


def _after(words: str) -> str:
    return "(?:" + "|".join(rf"(?<=\b{word} )" for word in words.split()) + ")"


_PART = (
    r"(?:side|part|half|corner|edge|portion|section|quarter|third|quadrant|area|region|block|center"
    r"|centre|middle|margin|border|end)s?\b"
)
_LAND = rf"(?:{_PART}|(?:tip|wall|land|slope|direction)s?\b)"  # not shore, coast: names
_CAPITAL_PART = r"(?:Side|Part|Half|Corner|Edge|Portion|Section|Area|Region)s?\b"
_PICTURE = (
    r"(?:the|this|that|an?|each) (?:(?:satellite|aerial|overhead|google|whole) )?"
    r"(?:image|picture|photo|photograph|frame|scene|view|map|shot)\b"
)
_THE = r"(?:the|an?|this|that|these|those|its|each|it)\b"
# A noun such as "the left" ends here; before other words it is an adjective, or part of a name.
_ENDS = (
    r"(?=\s*(?:$|[.,;:!?)]|(?:and|or|to|in|on|at|is|are|was|were|has|have|there|with|while|which"
    r"|that|from|by|near|next|beside|below|above|along|through|across|behind)\b))"
)
_HIGH = (  # things whose top and bottom are matters of height
    r"(?=(?: side| part)? of (?:(?:the|an?|some|several|its|one) )?(?:(?!of)\w+ )?(?:mountain|hill"
    r"|ridge|cliff|rock|building|house|roof|tower|tree|plant|counter|table|resort|tank|viaduct"
    r"|bridge|airplane|sea|ocean|river|lake|pond|pool|water|valley)s?\b)"
)
_MIDDLE = r"(?:center|centre|middle)"
_SIDE = r"(?:left|right)"
_ENDWISE = r"(?:top|bottom)"
_POINT = r"(?:north|south|east|west)"
_DIAGONAL = r"(?:north|south)[ -]?(?:east|west)"
_TAIL = r"(?:ern(?:most)?|erly|wards?)?\b"
_BEFORE_SIDE = _after("the its their far on to at in from")
_BEFORE_POINT = _after("the to from of in at facing looking toward towards and or due")
_ROW = r"(?:top|bottom|upper|lower)"
_CORNER = rf"(?:{_ROW}[ -]?{_SIDE}|{_SIDE}[ -]{_ROW})"
_LETTERS = r"(?-i:[NSEW]{1,3})"
# After these, "left" and "right" are no verb and no idiom: "points left the whole way".
_VERB = (
    r"(?:fac|point|curv|bend|bent|turn|tak|go|lead|mov|head|look|swerv|veer|lean|tilt|branch|fork|run"
    r"|keep|park|fly|sail|driv|travel)\w*"
)
_IN_IMAGE = rf"{_TAIL}(?:(?=[ -]{_LAND})|(?= of {_THE} (?-i:[a-z])))"

# What is read at a word, the first that fits: (rule, what lies before, the words, what follows).
# "none" is no direction; "doubt" may be one, and nothing says what a turn makes of it.
_READING = [
    # Names (South Africa; Manly West, Australia), but not the North Side, or North Of The Road.
    ("none", "", rf"(?:{_DIAGONAL}|{_POINT}|(?-i:[NS][EW])){_TAIL}",
     rf" (?!{_CAPITAL_PART}|(?:of|and|or|to|in|on|at|is|are|with|from|by|near)\b)(?-i:[A-Z][a-z])"),
    ("none", r"(?<!\bthe )", rf"(?:{_DIAGONAL}|{_POINT}|(?-i:[NS][EW])){_TAIL}",
     r", (?-i:[A-Z][a-z])"),
    ("none", "", r"(?:middle|far) east", r"\b"),
    ("pair", "", rf"{_SIDE} (?:and|to) {_SIDE}|top and bottom|bottom and top"
     rf"|{_POINT} (?:and|to) {_POINT}|{_POINT}-{_POINT}", r"\b"),
    ("doubt", "", rf"{_LETTERS}(?:[-/–]| to ){_LETTERS}", r"\b"),
    ("doubt", _after("the"), _LETTERS, rf"{_ENDS}"),
    ("doubt", "", r"(?-i:[NSEW])", rf"(?=[ -]{_LAND}| of {_THE})"),
    # Corners and blocks. "The bottom left and right corners" share a word.
    ("doubt", "", rf"{_CORNER}(?:, ?| ?[/&] ?| and | or )(?:{_SIDE}|{_ROW})",
     rf"\b(?![ -](?:{_SIDE}|{_ROW}))"),
    ("doubt", "", rf"(?:{_DIAGONAL}|(?-i:[NS][EW]))(?:ern)?(?:, ?| ?[/&] ?| and | or ){_POINT}",
     r"(?:ern)?\b(?![ -](?:east|west))"),
    ("corner", "", rf"{_CORNER}|{_ENDWISE}-{_MIDDLE}|{_MIDDLE}-{_SIDE}", r"\b"),
    ("corner", "", rf"{_DIAGONAL}|(?-i:[NS][EW])", _IN_IMAGE),
    ("corner", _BEFORE_POINT, rf"{_DIAGONAL}|(?-i:[NS][EW])", rf"{_TAIL}{_ENDS}"),
    # "In the south" is a place in the image; "in south spain" is a name.
    ("compass", "", _POINT, _IN_IMAGE),
    ("compass", _BEFORE_POINT, _POINT, rf"{_TAIL}{_ENDS}"),
    ("none", "", rf"(?:{_DIAGONAL}|{_POINT})(?:ern)?",
     r" (?:africa|america|asia|carolina|europe|indian|ireland|korea|style)\w*"),
    ("doubt", "", rf"(?:{_DIAGONAL}|{_POINT})"
     r"(?:ern(?:most)?|most|bound|(?:er)?ly|-?wards?(?:ly)?)?", r"\b"),
    # Left and right: nouns, adjectives of a part, then all others but verbs and idioms.
    ("on", "", rf"on the {_SIDE}|towards the {_ENDWISE}",
     rf"(?! (?:and|or) (?:{_SIDE}|{_ENDWISE})| in\b){_ENDS}"),
    ("image", _after("the"), rf"{_SIDE}|{_ENDWISE}", rf"(?= of {_PICTURE})"),
    ("most", "", rf"(?:{_SIDE}|{_ENDWISE}|upper|lower)most", r"\b"),
    ("part", "", rf"{_SIDE}|upper|lower", rf"(?=[ -]{_PART})"),
    ("flip", "", _SIDE, r"(?=[ -]?hand(?:ed)?\b)"),
    ("flip", rf"(?:^|{_BEFORE_SIDE})", _SIDE, rf"(?= of {_THE})"),
    ("flip", _BEFORE_SIDE, _SIDE, _ENDS),
    ("none", "", "right", r"[ -](?:of[ -]way|angle|triangle)"),
    ("doubt", "", rf"{_VERB} (?:\w+ly )?{_SIDE}", r"\b"),
    ("doubt", _BEFORE_SIDE, _SIDE, r"\b"),
    ("none", "", "right", r" (?:next|beside|now|away)\b"),
    ("none", _after("all"), "right", r"\b"),
    ("none", r"(?<=[a-z] )", "left", r" (?:the|an?|behind)\b"),
    ("none", _after("was were been being"), "left", r" by\b"),
    ("doubt", "", rf"{_SIDE}(?:side|-?wards?)?", r"\b"),
    # Up and down: most tell of height or of nothing.
    ("none", rf"(?:{_after('made make makes making lined lied dried picked set close')}|(?<=close-)"
     "|(?<=close - ))", "up", r"\b"),
    ("none", _after("looking look looks gazing peering"), "down", r" (?:on|at|from|over)\b"),
    ("doubt", "", rf"(?:up|down)(?:[ -]?{_SIDE}|-?wards?)?", r"\b"),
    ("doubt", "", r"(?:(?:anti|counter)[ -]?)?clockwise", r"\b"),
    ("doubt", "", "upper|lower", r"[ -](?!class|reaches|level|floor|density|income|than)"),
    # Top and bottom, above and below: most tell of height.
    ("none", "", r"top[ -]?(?:down|views?|floors?)", r"\b"),
    ("none", _after("roof tree hill mountain table counter"), "top", r"\b"),
    ("none", "", _ENDWISE, _HIGH),
    ("none", _after("on"), "top", rf" of (?!{_PICTURE})"),
    ("flip", "", _ENDWISE, rf"(?=[ -]{_PART})"),
    ("doubt", "", _ENDWISE, r"\b"),
    ("doubt", "", "upper|lower", _ENDS),
    ("none", _after("from high orbiting hovering flying captured"), "above", r"\b"),
    ("none", _after("image picture photo"), "above|below", r"\b(?! (?:the|an?)\b)"),
    ("none", _after("the"), "above", r"\b"),
    ("none", "", "above|below", r" (?:(?-i:[A-Z][a-z])|(?:the )?(?:sea|ground|average|all)\b)"),
    ("doubt", "", "above|below|beneath|underneath", r"\b"),
    # Roads that "cross vertically" are at right angles to each other.
    ("none", "", "vertical", r" (?:view|photo|image|shot)\w*"),
    ("line", r"(?<!\btwo )", "horizontal|vertical", r"(?= (?:stripe|line|row|band|strip)s?\b)"),
    ("line", _after("run runs running arranged aligned lie lies lying extend extends"),
     "horizontal|vertical", r"(?=ly\s*(?:$|[.,;]))"),
    ("slope", "", "horizontal|vertical", r"(?:ly)?\b"),
]  # fmt: skip
# How the words of all rows begin: 55 rows tried at each word take 20 times as long.
_BEGINS = (
    r"on the|towards the|left|right|top|bottom|up|lower|cent|middle|far|north|south|east|west"
    rf"|[nsew]{{1,3}}\b|above|below|beneath|under|down|anti|counter|clock|horizontal|vertical"
    rf"|{_VERB} (?:\w+ly )?{_SIDE}"
)
_FOUND = re.compile(
    rf"\b(?={_BEGINS})(?:"
    + "|".join(
        before + (f"(?:{words})" if rule == "none" else f"(?P<{rule}_{i}>{words})") + behind
        for i, (rule, before, words, behind) in enumerate(_READING)
    )
    + ")",
    re.IGNORECASE,
)
# Beside a direction, another one that no row reads: "a lake on the left, houses right".
_LOOSE = re.compile(r"\b(?:left|right|upper|lower)\b", re.IGNORECASE)


def has_direction(text: str) -> bool:
    """Tell whether a text names, or may name, a direction in its image, such as "left" or "north".

    Where words can be read either way ("above", "at the top") they count as a direction.
    """
    return any(True for _ in _directions(text))


def turned(text: str, move: Callable[[Vector], Vector]) -> str | None:
    """Turn the directions in a text as its image is turned.

    Words become their opposites (left, right; upper, lower; north, south) or, where the axes change
    places, the others (on the left, towards the top; left side, upper side; horizontal,
    vertical). The opposite move gives the text back.

    Args:
      move: where flips and turns by right angles take a direction (`views.Geometry.move`).

    Returns:
      The text; None if the words cannot be turned so for sure: the image has to stay as it is.
    """
    if move(_RIGHT) == _RIGHT and move(_DOWN) == _DOWN:
        return text
    parts: list[str] = []
    end = 0
    for rule, start, stop in _directions(text):
        old = text[start:stop]
        new = _turned_words(rule, old, move)
        before = None if new is None else _with_article(text[end:start], old, new)
        if new is None or before is None or _LOOSE.search(before):
            return None
        parts += [before, new]
        end = stop
    if parts and _LOOSE.search(text, end):
        return None
    return "".join([*parts, text[end:]])


def _directions(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the rule and the place of all words that are, or may be, directions."""
    for match in _FOUND.finditer(text):
        if group := match.lastgroup:
            yield group.split("_")[0], *match.span(group)


def _turned_words(rule: str, old: str, move: Callable[[Vector], Vector]) -> str | None:
    if not old.isascii():  # "ſ" passes for "s" where case is ignored
        return None
    if rule == "corner" and (two := _TWO.fullmatch(old)):
        return _turned_corner(two[1], two[2], two[3], move)
    way, forms = _TABLE.get((rule, old.lower()), (_UP, {}))
    new = forms.get(move(way), "-")
    # What two directions share, such as "horizontal", is the same whichever of them is turned.
    return None if new == "-" else _cased(old, new)


def _turned_corner(one: str, gap: str, two: str, move: Callable[[Vector], Vector]) -> str | None:
    swapped = one.lower() in _COLUMNS  # "left upper"
    row, column = (two, one) if swapped else (one, two)
    # A middle of "top-center" and "center-left" goes where the other word does not.
    y, rows = _SIGNS.get(row.lower(), (0, {-1: "top", 0: row, 1: "bottom"}))
    x, columns = _SIGNS.get(column.lower(), (0, {-1: "left", 0: column, 1: "right"}))
    x, y = move((x, y))
    new_row = _cased(row, rows.get(y, column.lower()))
    new_column = _cased(column, columns.get(x, row.lower()))
    if new_row is None or new_column is None:
        return None
    return f"{new_column}{gap}{new_row}" if swapped else f"{new_row}{gap}{new_column}"


def _with_article(before: str, old: str, new: str) -> str | None:
    """Mend an article at the end: a left side, an upper side. None: it was not that of `old`."""
    if not (article := _ARTICLE.search(before)):
        return before
    of_old, of_new = (
        ("N" if word.isupper() else "n") if word[0] in "aeiouAEIOU" else "" for word in (old, new)
    )
    return f"{before[: article.start(1)]}{of_new} " if article[1] == of_old else None


def _cased(old: str, new: str) -> str | None:
    """Write new words as the old ones are: small, with a capital, or in capitals."""
    for style in (str.lower, str.upper, str.capitalize):
        if style(old) == old:
            return style(new)
    return None
