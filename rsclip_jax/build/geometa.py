"""Sentences from the metadata of fMoW, BigEarthNet and YFCC, before the captions (RS5M, III-B).

The fields are the paper's, the sentences our own, and these rules differ:

  season     as it is where the image was taken: the paper has the northern one everywhere. Between
             the tropics there is none of the four, and the month stands in its place.
  place      "City, Country" of the nearest place of GeoNames (`gazetteer`), by the great circle;
             the coordinates where none is within 100 km.
  gsd        that of the image. The paper takes the multispectral bands', which is four times that
             of fMoW's pan-sharpened images.

As in the paper the time is "8 o'clock, January 12, 2016", the hour begun, in UTC (of YFCC by the
camera's clock), and the relative location are the two of nine blocks that the box covers most of.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from rsclip_jax.build import files
from rsclip_jax.build.gazetteer import shared_gazetteer
from rsclip_jax.build.geometa_templates import TEMPLATES
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, Stage, each_row

TROPIC = 23.44  # degrees of latitude
_SEASONS = ("winter", "spring", "summer", "autumn")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_BLOCKS = (
    *("top left", "top", "top right", "left", "center", "right"),
    *("bottom left", "bottom", "bottom right"),
)
_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees from 80 S; X has 12
_POINT = re.compile(r"\(\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s+(-?\d+(?:\.\d+)?(?:e-?\d+)?)")
_ZONE = re.compile(r"UTM zone (\d{1,2})([NS])")
_METRES_PER_DEGREE = 111_090.0  # of northing; to half a degree of latitude


class Unusable(ValueError):
    """Metadata that lack a field, or hold nonsense in it."""


def season(month: int, latitude: float) -> str:
    """Return the meteorological season, between the tropics the month's name.

    Args:
      month: 1 to 12.
      latitude: in degrees.
    """
    if abs(latitude) < TROPIC:
        return _MONTHS[month - 1]
    return _SEASONS[(month % 12 // 3 + (2 if latitude < 0 else 0)) % 4]


def time_words(when: datetime.datetime) -> str:
    """Write a time as the paper does: the hour begun, and the day."""
    return f"{when.hour} o'clock, {_MONTHS[when.month - 1]} {when.day}, {when.year}"


def utm_zone(latitude: float, longitude: float) -> str:
    """Return the number and the latitude band of a UTM zone, such as "32V".

    Southern Norway and Svalbard have zones of their own widths.

    Raises:
      Unusable: nearer to a pole than 80 S or 84 N, where UTM has no zones.
    """
    if not -80 <= latitude <= 84:
        raise Unusable(f"no UTM zone at latitude {latitude:g}")
    longitude = (longitude + 180) % 360 - 180
    number = int((longitude + 180) // 6) + 1
    band = _BANDS[min(int((latitude + 80) // 8), len(_BANDS) - 1)]
    if band == "V" and 3 <= longitude < 12:
        number = 32
    if band == "X" and 0 <= longitude < 42:
        number = 31 + 2 * int((longitude + 3) // 12)
    return f"{number}{band}"


def relative_location(box: Sequence[float], width: float, height: float) -> str:
    """Return the two of 3 x 3 blocks of an image that a box covers most of, in words.

    Args:
      box: left, top, width, height in pixels.
      width, height: of the image.

    Raises:
      Unusable: the box has no part in the image.
    """
    left, top, *size = box

    def overlaps(start: float, length: float, side: float) -> list[float]:
        cuts = [side * n / 3 for n in range(4)]
        return [max(0.0, min(start + length, cuts[n + 1]) - max(start, cuts[n])) for n in range(3)]

    across, down = overlaps(left, size[0], width), overlaps(top, size[1], height)
    areas = [y * x for y in down for x in across]
    # Of equals the first: sorted is stable.
    order = sorted(range(9), key=lambda n: -areas[n])
    found = [_BLOCKS[n] for n in order[:2] if areas[n] > 0]
    if not found:
        raise Unusable(f"box {list(box)} lies outside of the image of {width:g} x {height:g}")
    return f"{' and '.join(found)} block{'s' if len(found) > 1 else ''}"


def fmow_facts(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return what the sentences tell of an image of fMoW, from its JSON.

    The class and the box are those of the second bounding box, the first being the whole image;
    the place is the first vertex of the latter.

    Raises:
      Unusable: a field is missing or malformed.
    """
    with_box = _get(meta, "bounding_boxes")
    if not with_box:
        raise Unusable("bounding_boxes is empty")
    thing = with_box[min(1, len(with_box) - 1)]
    outline = with_box[0].get("raw_location") or _get(meta, "raw_location")
    point = _POINT.search(outline)
    if not point:
        raise Unusable(f"raw_location {outline!r:.80}: expected POLYGON ((longitude latitude, ...")
    longitude, latitude = float(point[1]), float(point[2])
    when = _time(_get(meta, "timestamp"))
    label = _get(thing, "category").lower().replace("_", " ")
    gsd = meta.get("gsd") or _get(meta, "multi_resolution_dbl")
    box = _get(thing, "box")
    facts = {
        **_where(latitude, longitude),
        "season": season(when.month, latitude),
        "time": time_words(when),
        "label": label,
        "where": relative_location(box, _get(meta, "img_width"), _get(meta, "img_height")),
        "gsd": f"{float(gsd):.2f}",
        "utm": meta.get("utm") or utm_zone(latitude, longitude),
    }
    for name, key, form in (
        ("cloud", "cloud_cover", "{}"),
        ("scan", "scan_direction", "{}"),
        ("azimuth", "target_azimuth_dbl", "{:.2f}"),
        ("off_nadir", "off_nadir_angle_dbl", "{:.2f}"),
    ):
        if meta.get(key) is not None:
            facts[name] = form.format(meta[key]).lower()
    return facts


def ben_facts(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return what the sentences tell of a patch of BigEarthNet, from its JSON.

    Raises:
      Unusable: a field is missing or malformed.
    """
    zone = _ZONE.search(_get(meta, "projection"))
    if not zone:
        raise Unusable('projection: expected a WKT with "UTM zone 29N" or the like')
    northing = float(_get(_get(meta, "coordinates"), "uly"))
    latitude = (northing - (1e7 if zone[2] == "S" else 0)) / _METRES_PER_DEGREE
    when = _time(_get(meta, "acquisition_date"))
    if not (labels := _get(meta, "labels")):
        raise Unusable("labels is empty")
    return {
        "season": season(when.month, latitude),
        "time": time_words(when),
        "labels": ", ".join(labels).lower(),
        "utm": zone[1] + zone[2],
    }


def yfcc_facts(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return what the sentences tell of a photo of YFCC: place, time, or both; {} if it has none.

    Time without a place has no season.
    """
    facts: dict[str, str] = {}
    latitude, longitude = _number(meta.get("latitude")), _number(meta.get("longitude"))
    try:
        when = _time(meta.get("date_taken"))
        facts["time"] = time_words(when)
    except Unusable:
        when = None
    # At 0, 0 lie the photos of those who know no place.
    if latitude is not None and longitude is not None and (latitude or longitude):
        if abs(latitude) <= 90 and abs(longitude) <= 180:
            facts |= _where(latitude, longitude)
            if when:
                facts["season"] = season(when.month, latitude)
    return facts


def _where(latitude: float, longitude: float) -> dict[str, str]:
    place = shared_gazetteer().nearest(latitude, longitude)
    if place is None or not place.country:
        north, east = "NS"[latitude < 0], "EW"[longitude < 0]
        return {"place": f"{abs(latitude):.1f}° {north}, {abs(longitude):.1f}° {east}"}
    name = f"{place.city}, {place.country}"
    return {"place": name, "named": name}


def _get(meta: Mapping[str, Any], key: str) -> Any:
    if not isinstance(meta, Mapping) or meta.get(key) is None:
        raise Unusable(f"no {key}")
    return meta[key]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _time(text: Any) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Unusable(f"time {text!r}: expected one such as 2016-01-12T08:55:12Z") from None


# Form -> what it tells, and where its JSON lies if not in `meta`: what replaces the suffix of the
# image's path; "": nowhere.
FORMS: dict[str, tuple[Callable[[Mapping[str, Any]], dict[str, str]], str]] = {
    "fmow": (fmow_facts, ".json"),
    "ben": (ben_facts, "_labels_metadata.json"),
    "yfcc": (yfcc_facts, ""),
}


def template_set(form: str, facts: Mapping[str, str], full: bool = False) -> str:
    """Return the name of the set of templates for these facts, "" if they tell nothing."""
    if form == "yfcc":
        told = [name for name in ("place", "time") if name in facts]
        return "_".join(["yfcc", *told]) if told else ""
    return "fmow_full" if form == "fmow" and full else form


def sentence(row_id: str, name: str, facts: Mapping[str, str]) -> tuple[str, str]:
    """Return a sentence of a set of templates, and which it is ("fmow/3"), drawn by the id's hash.

    Raises:
      Unusable: a fact that the sentence needs is missing.
    """
    digest = hashlib.sha256(f"{name} {row_id}".encode(errors="surrogatepass")).digest()
    number = int.from_bytes(digest[:8], "big") % len(TEMPLATES[name])
    words = dict(facts)
    for key in ("label", "scan"):
        if key in facts:
            article = "an" if facts[key][0] in "aeio" else "a"
            words[f"a_{key}"] = f"{article} {facts[key]}"
    for key in ("a_label", "labels", "season"):
        if key in words:
            words[f"{key}_first"] = words[key][0].upper() + words[key][1:]
    try:
        return TEMPLATES[name][number].format_map(words), f"{name}/{number}"
    except KeyError as error:
        raise Unusable(f"nothing for {error} of the sentence") from error


def with_geometa(row: Row, forms: Mapping[str, str], full: bool = False) -> Row:
    """Return the row with its sentence before each caption, or as the only one.

    Its `place` is set, and the template noted in `provenance`. The metadata are those in `meta`, or
    in the JSON file beside the image.

    Args:
      forms: source -> one of FORMS; rows of others stay as they are, and those of YFCC that tell
        neither place nor time.
      full: of fMoW also clouds, scan direction and angles: sentences of some 90 CLIP tokens.

    Raises:
      Drop: no metadata of fMoW or BigEarthNet, or unusable ones.
    """
    form = forms.get(row["source"])
    if form is None:
        return row
    read, suffix = FORMS[form]
    try:
        facts = read(_metadata(row, suffix))
        name = template_set(form, facts, full)
        if not name:
            return row
        text, drawn = sentence(row["id"], name, facts)
    except (ValueError, TypeError, IndexError, AttributeError) as error:  # others' files
        raise Drop(f"{form} metadata: {error}") from error
    entry = {"field": "captions", "template": drawn}
    history = [*json.loads(row.get("provenance") or "[]"), entry]
    row = row | {"provenance": json.dumps(history, ensure_ascii=False)}
    if "named" in facts:
        row |= {"place": facts["named"]}
    return row | {"captions": [f"{text} {caption}" for caption in row["captions"]] or [text]}


def _metadata(row: Row, suffix: str) -> dict[str, Any]:
    meta = json.loads(row["meta"])
    if not suffix or meta.keys() & {"bounding_boxes", "projection"}:
        return meta
    path = os.path.splitext(row["image"])[0] + suffix
    try:
        found = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"not in meta, and not in {path} ({error})") from error
    if not isinstance(found, dict):
        raise Unusable(f"{path} holds no object")
    return found


@dataclasses.dataclass
class GeoMeta(beam.PTransform):
    """Put a sentence of the metadata before the captions; see `with_geometa`."""

    forms: dict[str, str]
    full: bool = False

    def __post_init__(self):
        if unknown := sorted(set(self.forms.values()) - set(FORMS)):
            raise ValueError(f"metadata of {unknown}: expected {', '.join(FORMS)}")

    def expand(self, rows):
        return rows | each_row(functools.partial(with_geometa, forms=self.forms, full=self.full))


def geometa_stage(forms: Mapping[str, str], full: bool = False) -> Stage:
    """Return the stage that puts the sentences before the captions; see `with_geometa`."""
    digest = hashlib.sha256(json.dumps(TEMPLATES, sort_keys=True).encode()).hexdigest()[:16]
    return Stage("geometa", GeoMeta(dict(forms), full), settings={"templates": digest})
