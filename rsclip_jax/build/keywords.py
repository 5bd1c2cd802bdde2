"""The keyword filter of RS5M (section III-A, appendix B2): two groups of words, one is enough."""

import dataclasses
import functools
import re

import apache_beam as beam

from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, each_row

# Beginnings of phrases: "aerial imag" finds image, images and imagery.
_SEEN_FROM_ABOVE = {
    "remote": ("sensing",),
    "earth": ("observ",),
    "aerial": ("imag", "photo", "map", "pic", "view", "scan", "satellite"),
    "satellite": ("imag", "photo", "map", "pic", "view", "scan", "data", "surveillance"),
    "space": ("photo", "imag", "view", "surveillance"),
    "spaceborne": ("photo", "imag", "view"),
    "space-borne": ("photo", "imag", "view"),
}
GROUP_1 = tuple(f"{first} {second}" for first, of in _SEEN_FROM_ABOVE.items() for second in of)
# Names of satellites, programmes, data bases and tools.
GROUP_2 = (
    *("Google Earth", "Freesound", "Sentinel-1", "Sentinel-2", "Gaofen", "USGS", "NAIP", "MODIS"),
    *("EOSDIS", "WorldView", "Planet Dove", "ArcGIS", "Maxar", "Landsat"),
    "Geographic Information System",
)


def _pattern(keyword: str, whole: bool) -> str:
    words = re.split("[ -]", keyword)
    # "space-borne image" and "sentinel 1" are as good as the keyword's own spelling.
    text = r"[\s_-]+".join(map(re.escape, words))
    end = ""
    if whole:  # "Landsat8" is one, "modish" and "Sentinel-10" are none
        end = r"(?!\d)" if keyword[-1].isdigit() else r"(?![^\W\d_])"
    return rf"(?<![^\W_]){text}{end}"


# What nearly all texts lack can be told in a hundredth of the time.
_FIRST_WORDS = sorted({re.split("[ -]", keyword)[0].casefold() for keyword in GROUP_1 + GROUP_2})
_KEYWORD = re.compile(
    "|".join([_pattern(k, False) for k in GROUP_1] + [_pattern(k, True) for k in GROUP_2]),
    re.IGNORECASE,
)


def find_keyword(text: str) -> str:
    """Return the first keyword in a text as it stands there, "" if there is none.

    The paper tells the words, not how they are matched. Here: in either case, at the beginning of
    a word, parted by white space, hyphens or underscores; names of group 2 as whole words, which a
    number may follow.
    """
    folded = text.casefold().replace("ı", "i")  # as re.IGNORECASE sees it
    places = [place for word in _FIRST_WORDS if (place := folded.find(word)) >= 0]
    if not places:
        return ""
    match = _KEYWORD.search(text, min(places) if len(folded) == len(text) else 0)
    return match[0] if match else ""


def check_keywords(row: Row) -> Row:
    """Return the row if one of its captions has a keyword.

    Raises:
      Drop: none has.
    """
    if not any(find_keyword(text) for text in row["captions"] + row["long_captions"]):
        raise Drop("no keyword")
    return row


@dataclasses.dataclass
class Keywords(beam.PTransform):
    """Keep rows with a keyword, of `sources`; rows of others stay as they are."""

    sources: list[str]

    def expand(self, rows):
        return rows | each_row(functools.partial(_check, sources=self.sources))


def _check(row: Row, sources: list[str]) -> Row:
    return check_keywords(row) if row["source"] in sources else row
