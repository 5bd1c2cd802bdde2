"""The same objects from four forms of annotations, up to the captions of the pipeline."""

import json
import math
import os

import numpy as np
import pytest
from PIL import Image
from test_build_ingest import encoded

from configs.build import lrs2m as lrs2m_config
from rsclip_jax.build import annotations, lrs2m
from rsclip_jax.build.runners import Runner
from rsclip_jax.data.images import dimensions
from rsclip_jax.data.records import open_source

VOC = """<annotation><size><width>{}</width><height>{}</height></size>
<object><name>storage_tank</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def folder(tmp_path):
    """Two images, each with one tank, annotated in all forms; and annotations of no use."""
    for name in ("images/a", "voc/a", "yolo/a", "mask/a"):
        (tmp_path / name).mkdir(parents=True)
    coco = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "storage-tank"}]}
    for number in range(2):
        image = encoded(number)
        height, width = dimensions(image)
        box = (2 + number, 4, 10, 12 + number)  # left, top, right, bottom
        left, top, right, bottom = box
        (tmp_path / f"images/a/{number}.jpg").write_bytes(image)
        text = VOC.format(width, height, left + 1, top + 1, right, bottom)
        (tmp_path / f"voc/a/{number}.xml").write_text(text)
        x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
        text = f"1 {x} {y} {(right - left) / width} {(bottom - top) / height}"
        (tmp_path / f"yolo/a/{number}.txt").write_text(text)
        mask = Image.new("P", (width, height))
        mask.putpalette([0, 0, 0, 200, 10, 10])
        mask.paste(1, box)
        mask.save(tmp_path / f"mask/a/{number}.png")
        name = f"a/{number}.jpg"
        coco["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        bbox = [left, top, right - left, bottom - top]
        coco["annotations"].append({"image_id": number, "category_id": 7, "bbox": bbox})
    (tmp_path / "voc/a/broken.xml").write_text("<annotation>")
    (tmp_path / "yolo/a/lost.txt").write_text("1 0.5 0.5 0.1 0.1")
    Image.new("RGB", (4, 4)).save(tmp_path / "mask/a/colours.png")
    (tmp_path / "images/a/broken.jpg").write_bytes(encoded(5))
    (tmp_path / "images/a/colours.png").write_bytes(encoded(6, "PNG"))
    coco["images"].append({"id": 9, "file_name": "lost.jpg", "width": 8, "height": 8})
    (tmp_path / "coco").write_text(json.dumps(coco))
    return tmp_path


@pytest.mark.parametrize("form", annotations.FORMATS)
def test_objects_of_any_form_become_boxes(form, folder, capsys):
    names = {"yolo": ["--names=ship,storage_tank"], "mask": ["--names=,storage tank"]}
    output = folder / f"{form}.jsonl"
    annotations.main(
        [f"--format={form}", f"--input={folder / form}", f"--images={folder / 'images'}",
         f"--output={output}", *names.get(form, [])]
    )  # fmt: skip
    told = capsys.readouterr()
    assert told.out == f"{output}: 2 images, 2 boxes, 1 images left out\n"
    assert any(word in told.err for word in ("broken", "lost", "colours"))
    for number, row in enumerate(map(json.loads, output.read_text().splitlines())):
        height, width = dimensions((folder / "images" / row["image"]).read_bytes())
        assert row["image"] == f"a/{number}.jpg" and row["captions"] == []
        ((label, *corners),) = row["boxes"]
        assert label == "storage tank"
        expected = np.array([2 + number, 4, 10, 12 + number]) / [width, height, width, height]
        np.testing.assert_allclose(corners, expected, atol=1e-9)


def test_lrs2m_captions_what_was_annotated(folder):
    told = annotations.write_table(
        "coco", str(folder / "coco"), str(folder / "images"), [], str(folder / "det10.jsonl")
    )
    assert told.startswith("2 images")
    config = lrs2m_config.get_config()
    config.sources.det10.update(path=str(folder / "det10.jsonl"), images=str(folder / "images"))
    config.validation = 0.5
    lrs2m.build(config, str(folder / "w"), Runner(workers=1))
    captions = [
        caption
        for split in ("train", "val")
        for record in open_source(folder / "w/data", "lrs2m", split)
        for caption in record["captions"]
    ]
    assert captions and all("storage tank" in caption for caption in captions)


def test_what_cannot_be_read_is_told(folder):
    given = (str(folder / "yolo"), str(folder / "images"))
    with pytest.raises(ValueError, match="--names"):
        annotations.write_table("yolo", *given, [], str(folder / "x"))
    with pytest.raises(FileNotFoundError, match="--images=nowhere"):
        annotations.write_table("voc", str(folder / "voc"), "nowhere", [], str(folder / "x"))
    with pytest.raises(ValueError, match="no annotation can be used, of 3"):
        annotations.write_table("yolo", *given, ["ship"], str(folder / "x"))
    (folder / "coco").write_text("[]")
    with pytest.raises(ValueError, match="expected COCO's images"):
        annotations.write_table("coco", str(folder / "coco"), given[1], [], str(folder / "x"))
    assert not (folder / "x").exists()


BROKEN = {
    "coco": (
        {"width": 0},
        {"file_name": None},
        {"bbox": [math.nan, 4, 8, 8]},
        {"bbox": [2, 4, math.inf, 8]},
        {"bbox": None},
        {"category_id": 3},  # a class without a name
    ),
    "yolo": ("-1 0.5 0.5 0.1 0.1", "2 0.5 0.5 0.1 0.1", "1 nan 0.5 0.1 0.1", "inf 0 0 1 1"),
    "voc": (VOC.format(8, 0, 1, 1, 4, 4), VOC.format(8, 8, "nan", 1, 4, 4)),
}


@pytest.mark.parametrize(
    ("form", "broken"), [(form, what) for form, kinds in BROKEN.items() for what in kinds]
)
def test_one_broken_annotation_costs_its_image_alone(form, broken, folder, capsys):
    if form == "coco":
        document = json.loads((folder / "coco").read_text())
        document["categories"].append({"id": 3, "name": None})
        for items in (document["images"], document["annotations"]):
            items[0].update({name: broken[name] for name in broken if name in items[0]})
        (folder / "coco").write_text(json.dumps(document))
    else:
        suffix = {"yolo": "txt", "voc": "xml"}[form]
        (folder / f"{form}/a/0.{suffix}").write_text(broken)
    names = ["ship", "storage_tank"] if form == "yolo" else []
    output = folder / "out.jsonl"
    said = annotations.write_table(
        form, str(folder / form), str(folder / "images"), names, str(output)
    )
    assert said == "1 images, 1 boxes, 2 images left out"
    name = "None" if broken == {"file_name": None} else "a/0.jpg"
    assert f"\n{name}: " in f"\n{capsys.readouterr().err}"
    assert json.loads(output.read_text())["image"] == "a/1.jpg"


def test_nothing_outside_the_folders_is_read_and_a_pipe_does_not_hang(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("1 0.5 0.5 0.1 0.1")
    (outside / "secret.jpg").write_bytes(encoded(7))
    (folder / "yolo/a/0.txt").unlink()
    (folder / "yolo/a/0.txt").symlink_to(outside / "secret.txt")
    (folder / "images/a/1.jpg").unlink()
    (folder / "images/a/1.jpg").symlink_to(outside / "secret.jpg")
    os.mkfifo(folder / "yolo/a/broken.txt")
    with pytest.raises(ValueError, match="no annotation can be used, of 4"):
        annotations.write_table(
            *("yolo", str(folder / "yolo"), str(folder / "images"), ["ship", "storage_tank"]),
            str(folder / "out.jsonl"),
        )
    said = annotations.write_table(
        *("yolo", str(folder / "yolo"), str(folder / "images"), ["ship", "storage_tank"]),
        *(str(folder / "out.jsonl"), True),
    )
    assert said.startswith("2 images, 2 boxes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "coco is damaged, no JSON"),
        (b'{"images": "\xff"}', "coco is damaged, no JSON in UTF-8"),
        (None, "coco is a pipe"),
        (
            b'{"images": [{"id": 5}, {"id": 5}], "annotations": [], "categories": []}',
            r"coco: 1 ids are those of several images \(5 first\)",
        ),
    ],
)
def test_a_file_of_coco_that_cannot_be_used_is_named(folder, content, message):
    path = folder / "coco"
    path.unlink()
    os.mkfifo(path) if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        annotations.write_table("coco", str(path), str(folder / "images"), [], str(folder / "x"))


def test_a_directory_as_output_is_refused_and_stays_clean(folder):
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="is a directory: give the name"):
        annotations.write_table(
            "coco", str(folder / "coco"), str(folder / "images"), [], str(folder)
        )
    assert sorted(folder.iterdir()) == before


def test_annotations_of_no_image_are_counted(folder, capsys):
    document = json.loads((folder / "coco").read_text())
    document["annotations"].append({"image_id": 77, "category_id": 7, "bbox": [1, 1, 2, 2]})
    (folder / "coco").write_text(json.dumps(document))
    annotations.write_table(
        "coco", str(folder / "coco"), str(folder / "images"), [], str(folder / "out.jsonl")
    )
    assert "1 annotations are of no image" in capsys.readouterr().err
