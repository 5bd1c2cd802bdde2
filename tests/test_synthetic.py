"""The synthetic scenes: drawn from (seed, index) alone, and captioned truthfully.

What a caption says is checked against the pixels: counts by connected components, colours against
what the words mean, places and directions by where the pixels lie.
"""

import dataclasses
import re

import cv2
import instant_clip_tokenizer
import numpy as np
import pytest
import simplejpeg

from rsclip_jax.data import records, synthetic
from rsclip_jax.data.scenes import palette
from rsclip_jax.data.scenes.canvas import develop
from rsclip_jax.data.scenes.description import KINDS
from rsclip_jax.data.scenes.drawing import paint

SEED = 5
SCENES = [synthetic.describe(SEED, index) for index in range(200)]
CANVASES = [paint(scene) for scene in SCENES]
IN_ROWS = ("dense residential", "parking lot")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
# Meanings of the colour words, as any paint chart has them.
CHART = {
    "white": (250, 250, 250),
    "red": (200, 40, 40),
    "blue": (40, 80, 190),
    "yellow": (240, 210, 60),
    "orange": (235, 130, 40),
    "green": (50, 130, 60),
    "grey": (128, 128, 128),
    "brown": (110, 72, 48),
    "black": (20, 20, 20),
    "purple": (135, 90, 165),
    "beige": (225, 205, 165),
}
THINGS = {"pond": "pond", "grove": "tree", "bare patch": "bare patch", "islet": "islet"}


def _pixels(canvas, material: str) -> np.ndarray:
    """Return the (x, y) of the pixels of a material, 0 to 1."""
    ys, xs = np.nonzero(canvas.material == palette.IDS[material])
    return np.stack([xs, ys], -1) / len(canvas.material)


def _objects(canvas) -> np.ndarray:
    """Return the (x, y) of the centre of each connected area of the main material."""
    main = (canvas.material == palette.IDS[palette.MAIN]).astype(np.uint8)
    _, _, _, centres = cv2.connectedComponentsWithStats(main, connectivity=4)
    return centres[1:] / len(main)


def _seen(rgb) -> np.ndarray:
    """Return CIE Lab with half the weight on lightness: light and shade do not change a name."""
    lab = cv2.cvtColor(np.float32(rgb).reshape(1, 1, 3) / 255, cv2.COLOR_RGB2Lab)[0, 0]
    return lab * (0.5, 1, 1)


def _of_kind(*kinds: str):
    return [(s, c) for s, c in zip(SCENES, CANVASES, strict=True) if s.kind in kinds]


def _stripes_run(scene, canvas) -> str:
    """Tell from the strongest gradients of the light along which axis stripes run."""
    light = canvas.light.astype(np.float64)
    # Two thirds of the way in, edge strips are out of the way.
    light = light[80:-80, 80:-80]
    along_x, along_y = (np.abs(np.diff(light, axis=axis)).sum() for axis in (1, 0))
    return "horizontal" if along_y > along_x else "vertical"


def test_a_scene_depends_on_seed_and_index_only():
    alone = synthetic.example(3, 7)
    later = [synthetic.example(3, index) for index in (9, 8, 7)][-1]
    assert alone == later
    others = [dataclasses.replace(synthetic.describe(6, i), seed=SEED) for i in range(20)]
    assert all(one != other for one, other in zip(SCENES, others, strict=False))
    assert alone["image"] != synthetic.example(4, 7)["image"]
    assert alone["image"] != synthetic.example(3, 8)["image"]


def test_every_type_occurs():
    assert {scene.kind for scene in SCENES} == set(synthetic.LABELS)
    assert 12 <= len(synthetic.LABELS) <= 16


def test_the_picture_holds_as_many_main_objects_as_the_caption_says():
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        said = NUMBERS[
            re.search(r"\b(one|two|three|four|five|six)\b", synthetic.captions(scene)[0].lower())[0]
        ]
        centres = _objects(canvas)
        if scene.kind in IN_ROWS:
            across = np.sort(centres[:, 1 if scene.layout == "horizontal" else 0])
            # Houses of a row differ by the slight tilt only, rows are a street apart.
            assert said == 1 + (np.diff(across) > 0.1).sum(), scene
        else:
            assert said == len(centres), scene


def test_main_objects_have_the_colour_the_captions_name():
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        image, _ = develop(canvas, scene, len(canvas.material))
        inside = cv2.erode(
            (canvas.material == palette.IDS[palette.MAIN]).astype(np.uint8), np.ones((3, 3))
        )
        seen = _seen(np.median(image[inside > 0], axis=0))
        nearest = min(
            KINDS[scene.kind].colours,
            key=lambda word: np.linalg.norm(_seen(CHART[word]) - seen),
        )
        for caption in [*synthetic.captions(scene), synthetic.long_caption(scene)]:
            assert scene.colour in caption
        assert nearest == scene.colour, (scene, seen)


def test_corner_elements_lie_where_the_captions_put_them():
    checked = 0
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        for thing, place in scene.corners:
            if thing not in THINGS or (thing == "grove" and (scene.trees or scene.edge)):
                continue
            x, y = np.median(_pixels(canvas, THINGS[thing]), axis=0)
            assert place == f"{'upper' if y < 0.5 else 'lower'} {'left' if x < 0.5 else 'right'}"
            assert max(abs(x - 0.5), abs(y - 0.5)) > 0.2
            assert f"{place} corner" in synthetic.long_caption(scene)
            checked += 1
    assert checked > 80


@pytest.mark.parametrize(
    ("thing", "material"), [("canal", "canal"), ("dirt track", "dirt"), ("quay", "concrete")]
)
def test_edge_strips_lie_along_the_side_the_captions_name(thing, material):
    scenes = [
        (s, c)
        for s, c in zip(SCENES, CANVASES, strict=True)
        if s.edge and s.edge[0] == thing and s.kind != "bridge"
    ]
    assert len(scenes) > 8
    for scene, canvas in scenes:
        x, y = np.median(_pixels(canvas, material), axis=0) - 0.5
        side = ("left" if x < 0 else "right") if abs(x) > abs(y) else ("top" if y < 0 else "bottom")
        assert side == scene.edge[1]
        assert f"the {side} edge" in synthetic.long_caption(scene)


def test_scattered_objects_lie_where_the_long_caption_puts_them():
    checked = 0
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        if not scene.cells:
            continue
        listed = re.search(r"lies? in ([^.]*) of the picture", synthetic.long_caption(scene))[1]
        said = [text.replace("the ", "") for text in re.split(r", | and ", listed)]
        left, right, top, bottom = 0.0, 1.0, 0.0, 1.0
        if scene.edge:  # the strip along an edge narrows what "left" or "upper" refers to
            left += 0.17 * (scene.edge[1] == "left")
            right -= 0.17 * (scene.edge[1] == "right")
            top += 0.17 * (scene.edge[1] == "top")
            bottom -= 0.17 * (scene.edge[1] == "bottom")
        found = []
        for x, y in _objects(canvas):
            column = ("left", "middle", "right")[int(3 * (x - left) / (right - left))]
            row = ("upper", "middle", "lower")[int(3 * (y - top) / (bottom - top))]
            found.append("centre" if column == row == "middle" else f"{row} {column}")
        assert sorted(found) == sorted(said), scene
        checked += 1
    assert checked > 40


def test_rows_and_columns_of_objects_run_as_said():
    checked = 0
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        if scene.layout in ("row", "column"):
            spread = np.ptp(_objects(canvas), axis=0)
            assert (spread[0] > 2 * spread[1]) == (scene.layout == "row"), scene
            checked += 1
    assert checked > 20


def test_rivers_lakes_runways_and_tracks_lie_as_said():
    pairs = [("bridge", palette.WATER), ("lake", palette.WATER), ("stadium", palette.MAIN)]
    for kind, material in pairs:
        for scene, canvas in _of_kind(kind):
            if scene.layout in ("horizontal", "vertical"):
                spread = np.ptp(_pixels(canvas, material), axis=0)
                assert (spread[0] > spread[1]) == (scene.layout == "horizontal"), scene
    for scene, canvas in _of_kind("airport"):
        planes = _objects(canvas)
        marking = _pixels(canvas, "marking")
        marking = marking[np.abs(marking - planes.mean(0)).max(1) < 0.3]
        spread = marking.std(0)
        assert (spread[0] > spread[1]) == (scene.layout == "horizontal"), scene


def test_crop_rows_and_dunes_run_as_said():
    for scene, canvas in _of_kind("farmland"):
        assert _stripes_run(scene, canvas) == scene.layout, scene
    for scene, canvas in _of_kind("desert"):
        sand = cv2.GaussianBlur(canvas.light.astype(np.float64), (0, 0), 4)
        sand[cv2.dilate((canvas.material > 0).astype(np.uint8), np.ones((41, 41))) > 0] = np.nan
        down, right = np.gradient(sand)
        down, right = down[~np.isnan(down + right)], right[~np.isnan(down + right)]
        if scene.layout == "diagonal":
            # Ridges from the lower left to the upper right: brightness changes along (1, 1).
            assert (down * right).sum() > 0, scene
        else:
            assert ((down**2).sum() > (right**2).sum()) == (scene.layout == "horizontal"), scene


def test_the_sea_lies_on_the_side_the_captions_name():
    for scene, canvas in _of_kind("beach"):
        x, y = np.median(_pixels(canvas, palette.WATER), axis=0) - 0.5
        side = ("left" if x < 0 else "right") if abs(x) > abs(y) else ("top" if y < 0 else "bottom")
        assert side == scene.layout


def test_single_trees_stand_exactly_where_captions_tell_of_them():
    for scene in SCENES[:120]:
        bare = paint(dataclasses.replace(scene, trees=False)).material
        extra = (paint(scene).material != bare).astype(np.uint8)
        number = cv2.connectedComponents(extra)[0] - 1
        told = "single trees" in synthetic.long_caption(scene)
        assert number >= 3 if told else number == 0


def test_infrared_and_colour_images_are_aligned():
    for scene in SCENES[:24]:
        colour = cv2.cvtColor(synthetic.render(scene), cv2.COLOR_RGB2GRAY)
        edges = [
            np.hypot(cv2.Sobel(image, cv2.CV_64F, 1, 0), cv2.Sobel(image, cv2.CV_64F, 0, 1))
            for image in (colour, synthetic.render_ir(scene))
        ]
        shifts = [(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3)]
        likeness = [
            np.corrcoef(edges[0].ravel(), np.roll(edges[1], shift, (1, 0)).ravel())[0, 1]
            for shift in shifts
        ]
        assert shifts[int(np.argmax(likeness))] == (0, 0), scene


def test_infrared_shows_water_dark_vegetation_bright_and_is_not_the_grey_image():
    for scene, canvas in zip(SCENES[:80], CANVASES, strict=False):
        material = canvas.material
        colour, infrared = develop(canvas, scene, len(material))
        if scene.water:
            assert np.median(infrared[material == palette.IDS[palette.WATER]]) < 40
        if scene.tone == "green" and scene.kind not in ("harbour", "farmland"):
            ground = material == palette.IDS[palette.GROUND]
            grey = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
            assert np.median(infrared[ground]) > np.median(grey[ground]) + 40


def test_infrared_captions_tell_brightness_and_neither_colour_nor_heat():
    banned = (
        r"red|green|blue|yellow|orange|brown|purple|beige|white|black|gr[ae]y|golden|pale|"
        r"reddish|yellowish|snow\w*|colou?r\w*|heat\w*|hot\w*|warm\w*|cold\w*|cool\w*|"
        r"therm\w*|temperatur\w*|emi\w+"
    )
    limits = {"dark": (0, 92), "mid-tone": (70, 158), "bright": (128, 256)}
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        caption = synthetic.ir_caption(scene)
        assert not re.search(rf"\b({banned})\b", caption.lower()), caption
        word = re.search(r": .*?\b(dark|mid-tone|bright)\b", caption)[1]
        _, infrared = develop(canvas, scene, len(canvas.material))
        seen = np.median(infrared[canvas.material == palette.IDS[palette.MAIN]])
        assert limits[word][0] <= seen < limits[word][1], (caption, seen)


def test_held_out_captions_are_nearly_all_unique_and_of_the_length_the_papers_have():
    scenes = [synthetic.describe(0, synthetic.VAL_START + index) for index in range(256)]
    longs = [synthetic.long_caption(scene) for scene in scenes]
    shorts = [synthetic.captions(scene) for scene in scenes]
    assert len(set(longs)) >= 0.95 * 256
    for wording in zip(*shorts, strict=True):
        assert len(set(wording)) >= 0.9 * 256
    assert all(len(set(three)) == 3 for three in shorts)
    assert len({synthetic.ir_caption(scene) for scene in scenes}) >= 0.9 * 256
    tokenizer = instant_clip_tokenizer.Tokenizer()
    lengths = np.array([len(tokenizer.encode(text)) + 2 for text in longs])
    assert 80 <= lengths.mean() <= 140 and lengths.max() < 248
    assert 0.3 < (lengths > 77).mean() < 1
    assert all(len(tokenizer.encode(text)) + 2 <= 77 for three in shorts for text in three)


def test_captions_read_as_sentences_without_leftover_placeholders():
    for scene in SCENES:
        texts = [
            *synthetic.captions(scene),
            synthetic.long_caption(scene),
            synthetic.ir_caption(scene),
        ]
        for text in texts:
            assert re.fullmatch(r"[A-Z][a-zA-Z ,;:.-]+\.", text), text
            assert "  " not in text and " ," not in text and " ." not in text


def test_scene_types_can_be_told_apart_on_tiny_thumbnails():
    def thumbnails(scenes):
        images = [
            cv2.resize(synthetic.render(scene, 32), (8, 8), interpolation=cv2.INTER_AREA)
            for scene in scenes
        ]
        return np.stack(images).reshape(len(images), -1).astype(np.float64)

    known, asked = thumbnails(SCENES), [synthetic.describe(1, index) for index in range(64)]
    distances = ((thumbnails(asked)[:, None] - known[None]) ** 2).sum(-1)
    hits = [
        scene.kind == SCENES[near].kind
        for scene, near in zip(asked, distances.argmin(1), strict=True)
    ]
    assert np.mean(hits) > 4 / len(synthetic.LABELS)


@pytest.mark.parametrize("size", [64, 128])
def test_images_have_the_size_asked_for(size):
    scene = SCENES[0]
    assert synthetic.render(scene, size).shape == (size, size, 3)
    assert synthetic.render_ir(scene, size).shape == (size, size)
    assert synthetic.render(scene, size).dtype == synthetic.render_ir(scene, size).dtype == np.uint8


def test_impossible_sizes_and_counts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--size"):
        synthetic.render(SCENES[0], 4096)
    with pytest.raises(ValueError, match="--train"):
        synthetic.write_scenes(tmp_path, train=0, val=4)
    assert not list(tmp_path.iterdir())


def test_thermal_scenes_have_the_same_colour_images_and_tell_of_warmth(tmp_path):
    for scene in SCENES[:60]:
        assert re.search(r"\b(cool|mild|warm)\b", synthetic.ir_caption(scene, "thermal"))
        assert not re.search(r"\b(dark|bright|mid-tone)\b", synthetic.ir_caption(scene, "thermal"))
    near, thermal = synthetic.example(2, 5), synthetic.example(2, 5, infrared="thermal")
    changed = {field for field in near if near[field] != thermal[field]}
    assert changed == {"ir", "ir_captions"}
    synthetic.write_scenes(tmp_path, "warm", train=1, val=1, size=32, infrared="thermal")
    synthetic.check_infrared(tmp_path, "warm", "thermal")
    with pytest.raises(ValueError, match=r"scenes.infrared='near', but .*warm.* thermal"):
        synthetic.check_infrared(tmp_path, "warm", "near")
    with pytest.raises(ValueError, match="infrared='x': expected one of near, thermal"):
        synthetic.write_scenes(tmp_path, "other", train=1, val=1, infrared="x")


def test_warm_and_cool_are_as_the_thermal_captions_say():
    limits = {"cool": (0, 92), "mild": (70, 158), "warm": (128, 256)}
    for scene, canvas in zip(SCENES, CANVASES, strict=True):
        word = re.search(r": .*?\b(cool|mild|warm)\b", synthetic.ir_caption(scene, "thermal"))[1]
        _, infrared = develop(canvas, scene, len(canvas.material), "thermal")
        seen = np.median(infrared[canvas.material == palette.IDS[palette.MAIN]])
        assert limits[word][0] <= seen < limits[word][1], (scene, seen)


def test_the_written_data_set_opens_with_disjoint_splits_that_do_not_depend_on_each_other(tmp_path):
    synthetic.write_scenes(tmp_path, "few", train=3, val=2, seed=1, size=64)
    synthetic.write_scenes(tmp_path, "more", train=5, val=4, seed=1, size=64)
    few, more = (
        {split: list(records.open_source(str(tmp_path), name, split)) for split in ("train", "val")}
        for name in ("few", "more")
    )
    assert few["train"] == more["train"][:3] and few["val"] == more["val"][:2]
    ids = [record["id"] for split in ("train", "val") for record in more[split]]
    assert len(set(ids)) == 9 and ids[0] == "scene_000000"
    record = few["train"][2]
    scene = synthetic.describe(1, 2)
    assert record["label"] == scene.kind and record["source"] == "synthetic"
    assert record["captions"] == synthetic.captions(scene)
    assert record["long_captions"] == [synthetic.long_caption(scene)]
    assert record["ir_captions"] == [synthetic.ir_caption(scene)]
    decoded = simplejpeg.decode_jpeg(record["image"])
    assert np.abs(decoded.astype(int) - synthetic.render(scene, 64)).mean() < 6
    infrared = simplejpeg.decode_jpeg(record["ir"], "GRAY")[..., 0]
    assert np.abs(infrared.astype(int) - synthetic.render_ir(scene, 64)).mean() < 6
