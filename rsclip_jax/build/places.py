"""Names of places in captions, by a list of names.

RS5M finds them with spaCy's named entities (GPE), a model that would have to be downloaded. Here
they are countries, the states of the USA, and cities of 100,000 people or more, by their names in
`gazetteer` and some more. What this cannot do: tell a city from a person or a team called like it,
find cities by another name than GeoNames' ("Cologne" is its Köln), villages, islands, rivers, or
the adjectives ("Dutch").

Names are compared word by word, without accents, the longest first ("South Sudan" is not Sudan).
Countries and states are found in any case, where they are no English word besides; all other names
only where they have their capitals. A city called like an English word (Nice, Reading, Mobile)
counts only before a comma and another place: "Nice, France".
"""

import dataclasses
import functools
import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam

from rsclip_jax.build.gazetteer import countries, shared_gazetteer
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Stage, each_row

MIN_POPULATION = 100_000
_MIN_LETTERS = 4  # of a city; of shorter ones every second is a word of some language
_WORD = re.compile(r"[^\W\d_]+")
_INSIDE = re.compile(r"[\s\-'’.]{1,2}")  # between the words of one name
_BEFORE_COUNTRY = re.compile(r"\s*,\s*")
# Other names of countries, with their capitals.
_ALIASES = {
    **{"USA": "United States", "US": "United States", "U.S.": "United States"},
    **{"U.S.A.": "United States", "United States of America": "United States"},
    **{"UK": "United Kingdom", "U.K.": "United Kingdom", "Great Britain": "United Kingdom"},
    **{"England": "England", "Scotland": "Scotland", "Wales": "Wales"},
    **{"Northern Ireland": "Northern Ireland", "UAE": "United Arab Emirates"},
    **{"Russian Federation": "Russia", "Czechia": "Czech Republic", "Burma": "Myanmar"},
    **{"Ivory Coast": "Cote d'Ivoire", "Türkiye": "Turkey", "Swaziland": "Eswatini"},
    **{"Holland": "Netherlands", "Macau": "Macao", "Brunei Darussalam": "Brunei"},
    **{"Republic of Korea": "South Korea", "DR Congo": "Democratic Republic of the Congo"},
    **{"East Timor": "Timor-Leste", "Bosnia": "Bosnia and Herzegovina"},
    **{"Washington DC": "Washington, D.C.", "Washington D.C.": "Washington, D.C."},
    **{"Viet Nam": "Vietnam", "New York": "New York"},
}
# Countries and states that are English words, or names of people, when written small.
_CAPITALS = frozenset(
    "chad china congo georgia greenland guinea jersey jordan reunion turkey virginia wales".split()
)
# Cities that are English words, or first names at the start of many a caption.
_WORDS = frozenset(
    """alexandra aurora bath boulder brandon bush cary chinatown concord cork corona delta
    elizabeth enterprise garland gilbert independence jackson kent koreatown lincoln madison
    male mary mesa metro mobile natal nice norman oral orange paradise perm providence queens
    reading reno riverside saga savannah split springs surprise tours tyler victoria vista
    warren""".split()
)


class _Name(NamedTuple):
    name: str  # as it is told
    written: tuple[str, ...]  # its words
    any_case: bool
    needs_country: bool


class PlaceNames:
    """Finds places in texts."""

    def __init__(self):
        self._names: dict[tuple[str, ...], _Name] = {}
        gazetteer = shared_gazetteer()
        for place in gazetteer.places:
            if place.population < MIN_POPULATION or len(place.city) < _MIN_LETTERS:
                continue
            if not re.search(r"\d", place.city):  # "Lyon 03" is a part of Lyon
                self._add(place.city, place.city, city=True)
        for state in {p.state for p in gazetteer.places if p.country == "United States"} - {""}:
            self._add(state, state)
        for name in countries().values():
            self._add(name, name)
        for alias, name in _ALIASES.items():
            self._add(alias, name)
        self._longest: dict[str, int] = {}  # first word -> words of the longest name
        for key in self._names:
            self._longest[key[0]] = max(self._longest.get(key[0], 0), len(key))

    def _add(self, written: str, name: str, city: bool = False) -> None:
        words = tuple(_WORD.findall(written))
        if words:
            key = tuple(_fold(word) for word in words)
            plain = len(key) > 1 or key[0] not in (_WORDS if city else _CAPITALS)
            self._names[key] = _Name(name, words, plain and not city, city and not plain)

    def find(self, text: str) -> list[str]:
        """Return the names of places in a text, each once, in their order."""
        words = _Words(text)
        found: dict[str, None] = {}
        start = 0
        while start < len(words.folded):
            name = self._at(words, start)
            length = len(name.written) if name else 1
            if name and (not name.needs_country or self._place_follows(words, start + length)):
                found[name.name] = None
            start += length
        return list(found)

    def _at(self, words: "_Words", start: int) -> _Name | None:
        """Return the longest name that begins with a word."""
        for length in range(self._longest.get(words.folded[start], 0), 0, -1):
            name = self._names.get(tuple(words.folded[start : start + length]))
            if name and words.fit(name, start):
                return name
        return None

    def _place_follows(self, words: "_Words", start: int) -> bool:
        comma = _BEFORE_COUNTRY.fullmatch(words.gap(start)) if start < len(words.folded) else None
        return bool(comma) and self._at(words, start) is not None


class _Words:
    """The words of a text."""

    def __init__(self, text: str):
        self._text, self._found = text, list(_WORD.finditer(text))
        self.folded = [_fold(word[0]) for word in self._found]

    def gap(self, number: int) -> str:
        """Return what stands before a word, which is not the first."""
        return self._text[self._found[number - 1].end() : self._found[number].start()]

    def fit(self, name: _Name, start: int) -> bool:
        """Tell whether the words from `start` on, which are those of a name, are written so."""
        stop = start + len(name.written)
        if not all(_INSIDE.fullmatch(self.gap(number)) for number in range(start + 1, stop)):
            return False
        here = [word[0] for word in self._found[start:stop]]
        return name.any_case or all(map(_has_capitals, here, name.written))


def _fold(word: str) -> str:
    """Return a word in small letters without accents."""
    parts = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in parts if not unicodedata.combining(letter)).casefold()


def _has_capitals(word: str, written: str) -> bool:
    if len(written) > 1 and written.isupper():
        return word.isupper()
    return word[0].isupper() or not written[0].isupper()


_lock = threading.Lock()


@functools.lru_cache(maxsize=1)
def _place_names() -> PlaceNames:
    return PlaceNames()


def find_places(texts: Iterable[str]) -> list[str]:
    """Return the names of places in texts, each once, in their order."""
    with _lock:
        names = _place_names()
    return list(dict.fromkeys(name for text in texts for name in names.find(text)))


def with_places(row: Row) -> Row:
    """Return the row with `places`, the names in its captions; without the field if it has none."""
    places = find_places([*row["captions"], *row["long_captions"]])
    return row | {"places": places} if places else row


@dataclasses.dataclass
class FindPlaces(beam.PTransform):
    """Give rows the names of the places in their captions; see `with_places`."""

    def expand(self, rows):
        return rows | each_row(with_places)


def places_stage() -> Stage:
    """Return the stage that finds places."""
    told = [MIN_POPULATION, sorted(_ALIASES), sorted(_CAPITALS), sorted(_WORDS)]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return Stage("places", FindPlaces(), settings={"names": digest})
