"""Published RGB-infrared pairs: small copies of their layouts, whose pixels tell the scenes apart.

Scene n is dark up to a column and bright from there on; the column tells n.
"""

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsclip_jax.data import records
from rsclip_jax.data.captions import TextChoice
from rsclip_jax.data.images import decode
from rsclip_jax.data.rgb_ir_sets import SETS
from rsclip_jax.data.sources import InputError
from rsclip_jax.evaluators import suites
from rsclip_jax.prepare import Options, prepare

VEDAI = Path(__file__).parents[2] / "shared/data/vedai_sample_rgb_nir"


def bright(scene, width, height):
    return np.tile(np.arange(width) >= (scene + 1) * width // 16, (height, 1))


def encoded(pixels, form):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()


def rgb(scene, form="JPEG", width=64, height=48):
    """Return an encoded colour image: dark, then orange."""
    return encoded(bright(scene, width, height)[..., None] * np.uint8([220, 150, 40]), form)


def grey(scene, form="PNG", width=64, height=48):
    """Return an 8-bit image of one channel."""
    return encoded(bright(scene, width, height) * np.uint8(180) + np.uint8(20), form)


def grey3(scene):
    """Return a grey JPEG of three channels."""
    return encoded(np.repeat(bright(scene, 64, 48)[..., None] * np.uint8(180), 3, 2), "JPEG")


def grey16(scene, form="PNG"):
    """Return a 16-bit image that fills 14 bits, as a sensor does."""
    return encoded(bright(scene, 64, 48) * np.uint16(6000) + np.uint16(7000), form)


def bordered(scene, ir, border=100):
    """Return a DroneVehicle image: at most 150 of 255 inside, a white border around."""
    inside = np.where(bright(scene, 640, 512), 150, 30).astype(np.uint8)
    inside = np.stack([inside] * 3 if ir else [inside, inside // 2, inside // 4], axis=2)
    frame = ((border, border), (border, border), (0, 0))
    return encoded(np.pad(inside, frame, constant_values=255), "JPEG")


def scene_of(data, colour):
    """Read the scene from an image, after a look at whether it is one of colour."""
    pixels = decode(data).astype(int)
    spread = np.ptp(pixels, axis=2).max()
    assert spread > 80 if colour else spread <= 3
    line = pixels.max(axis=2)[len(pixels) // 2]
    return round(np.argmax(line > (line.min() + line.max()) / 2) * 16 / len(line)) - 1


@dataclasses.dataclass
class Copy:
    """A small copy of a data set, and split -> {id: scene} of what it should become."""

    files: dict[str, bytes]
    records: dict[str, dict[str, int]]
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def write(self, root):
        for path, content in (self.files | {k: v.encode() for k, v in self.texts.items()}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return str(root)


# The numbers of a pair's files differ here, to show that the mask is what joins them.
CART = Copy(
    files={
        **{f"labeled_rgbt_pairs/color/duck_eo-0{n}.jpg": rgb(n) for n in range(6)},
        **{f"labeled_rgbt_pairs/thermal8/duck_thermal-1{n}.jpg": grey(n, "JPEG") for n in range(6)},
        "labeled_rgbt_pairs/thermal16/duck_thermal-10.tiff": grey16(7, "TIFF"),
        "labeled_rgbt_pairs/annotations/duck_mask-00.png": grey(8),
        "labeled_thermal_singles/duck/1/color/duck_eo-00.jpg": rgb(9),
        "labeled_thermal_singles/duck/1/thermal8/duck_thermal-10.jpg": grey(9, "JPEG"),
    },
    texts={
        f"splits/rgbt_splits/{side}_{split}.txt": "\n".join(
            f"{folder}-{first}{n}.jpg,annotations/duck_mask-{n}.png" for n in numbers
        )
        for side, folder, first in (
            ("rgb", "color/duck_eo", 0),
            ("thermal8", "thermal8/duck_thermal", 1),
        )
        for split, numbers in (("train", (3, 0)), ("val", (2,)), ("test", (1, 4)))
    },
    records={
        "train": {"train/duck_eo-00": 0, "train/duck_eo-03": 3},
        "val": {"val/duck_eo-02": 2},
        "test": {"test/duck_eo-01": 1, "test/duck_eo-04": 4},
    },
    skipped=("in no split list", "in no split list"),  # scene 5, twice: nothing joins its files
)

COPIES = {
    "cart": CART,
    "dronevehicle": Copy(
        files={
            f"{split}/{split}img{r}/0000{n}.jpg": bordered(n, bool(r), 0 if n == 2 else 100)
            for split, numbers in (("train", (1, 2)), ("val", (1,)), ("test", (3,)))
            for n in numbers
            for r in ("", "r")
        }
        | {"test/testlabel/00003.xml": b"<annotation/>"},
        records={
            "train": {"train/00001": 1, "train/00002": 2},
            "val": {"val/00001": 1},
            "test": {"test/00003": 3},
        },
    ),
    "aviid": Copy(
        files={
            "AVIID-1/trainA/1.png": rgb(1, "PNG"),
            "AVIID-1/trainB/1.png": grey3(1),
            "AVIID-1/testA/2.png": rgb(2, "PNG"),
            "AVIID-1/testB/2.png": grey3(2),
            "AVIID-2/trainA/1.jpg": rgb(3),
            "AVIID-2/trainB/1.jpg": grey3(3),
            "AVIID-3/train/visible/1.jpg": rgb(4),
            "AVIID-3/train/infrared/1.jpg": grey3(4),
        },
        records={
            "train": {"AVIID-1/train/1": 1, "AVIID-2/train/1": 3, "AVIID-3/train/1": 4},
            "test": {"AVIID-1/test/2": 2},
        },
    ),
    "vedai": Copy(
        files={
            f"Vehicules512/0000000{n}_{kind}.png": make(n, "PNG")
            for n in range(4)
            for kind, make in (("co", rgb), ("ir", grey))
        },
        texts={
            "Annotations512/fold01.txt": "00000002\n00000000\n",
            "Annotations512/fold01test.txt": "00000001\n",
            "Annotations512/fold02.txt": "00000001\n",
            "Annotations512/fold02test.txt": "00000000\n",
            "Annotations512/00000000.txt": "1 2 3 4\n",
        },
        records={
            "train": {"train/00000000": 0, "train/00000002": 2},
            "test": {"test/00000001": 1},
        },
        skipped=("in no split list",),
    ),
    "llvip": Copy(
        files={
            f"LLVIP/{side}/{split}/{n:06}.jpg": make(n)
            for side, make in (("visible", rgb), ("infrared", grey3))
            for split, n in (("train", 1), ("train", 2), ("test", 3))
        },
        records={"train": {"train/000001": 1, "train/000002": 2}, "test": {"test/000003": 3}},
    ),
    "m3fd": Copy(
        files={
            f"M3FD_Detection/{side}/0000{n}.png": make(n, "PNG")
            for side, make in (("Vis", rgb), ("Ir", grey16))
            for n in (1, 2, 3)
        },
        texts={
            "M3FD_Detection/meta/train.txt": "00001.png\n00003.png\n",
            "M3FD_Detection/meta/val.txt": "00002.png\n",
            "M3FD_Detection/meta/pred.txt": "00002.png\n",
            "M3FD_Detection/Annotation/00001.xml": "<annotation/>",
        },
        records={"train": {"train/00001": 1, "train/00003": 3}, "val": {"val/00002": 2}},
    ),
    "kust4k": Copy(
        files={
            f"{side}/0000{n}{'DN'[n % 2]}.png": make(n, "PNG")
            for side, make in (("RGB", rgb), ("TIR", grey), ("Seg_annos", grey))
            for n in range(1, 7)
        },
        texts={
            "train.txt": "00001N\n00002D\n00004D\n",
            "val.txt": "00003N\n",
            "test.txt": "00005N.png\n00006D.png\n",
            "broke_RGB.txt": "00002D\n",
            "infos/broken_in_test_day_1.txt": "00006D.png\n",
        },
        records={
            "train": {"train/00001N": 1, "train/00004D": 4},
            "val": {"val/00003N": 3},
            "test": {"test/00005N": 5},
        },
        skipped=("listed as corrupted: broke_RGB.txt",)
        + ("listed as corrupted: infos/broken_in_test_day_1.txt",),
    ),
}


def options(root, form, output, **changes):
    return Options(form, root, str(output / "data"), **{"name": form, "workers": 1} | changes)


def prepared(output, name):
    """Return split -> {id: record}."""
    splits = json.loads((output / f"data/{name}/1.0.0/summary.json").read_text())["records"]
    return {
        split: {
            record["id"]: record for record in records.open_source(output / "data", name, split)
        }
        for split in splits
    }


def reasons(output, name):
    text = (output / f"data/{name}/1.0.0/skipped.jsonl").read_text()
    return [json.loads(line)["reason"] for line in text.splitlines()]


@pytest.mark.parametrize("name", COPIES)
def test_pairs_and_splits_are_those_of_the_data_set(tmp_path, name):
    copy = COPIES[name]
    prepare(options(copy.write(tmp_path / "root"), name, tmp_path, name="pairs"))
    found = prepared(tmp_path, "pairs")
    assert {
        split: {id_: scene_of(record["image"], True) for id_, record in rows.items()}
        for split, rows in found.items()
    } == copy.records
    for split, rows in found.items():
        for id_, record in rows.items():
            assert scene_of(record["ir"], False) == copy.records[split][id_]
            assert record["source"] == name
            assert not record["captions"] and not record["label"]
    assert sorted(reasons(tmp_path, "pairs")) == sorted(copy.skipped)


def test_every_set_is_tried_and_tells_what_is_known_of_it_and_where_to_get_it():
    assert COPIES.keys() | {"hit_uav"} == SETS.keys()
    where = json.loads(Path(suites.__file__).with_name("datasets.json").read_text("utf-8"))
    for name, known in SETS.items():
        assert known.verified
        assert where[name]["get"].startswith(known.title)
        assert where[name]["prepare"].startswith(f"--format={name} ")


@pytest.mark.parametrize("above", ["normal_json", "hit-uav/images"])
def test_thermal_images_without_rgb_stand_for_both(tmp_path, above):
    files = {
        f"{above}/train/0_100_30_0_1.jpg": grey3(1),
        f"{above}/val/0_100_30_0_2.jpg": grey3(2),
        f"{above}/test/0_100_30_0_3.jpg": grey3(3),
        "normal_xml/JPEGImages/0_100_30_0_1.jpg": grey3(1),
        "rotate_json/train/0_100_30_0_1.jpg": grey3(1),
    }
    root = Copy(files, {}).write(tmp_path / "root")
    prepare(options(root, "hit_uav", tmp_path))
    found = prepared(tmp_path, "hit_uav")
    assert found.keys() == {"train", "val", "test"}
    for scene, split in enumerate(("train", "val", "test"), start=1):
        (record,) = found[split].values()
        assert record["id"] == f"{split}/0_100_30_0_{scene}"
        assert record["image"] == record["ir"] == files[f"{above}/{split}/0_100_30_0_{scene}.jpg"]


def test_the_border_is_cut_off_both_images_and_only_where_it_is(tmp_path):
    copy = COPIES["dronevehicle"]
    root = copy.write(tmp_path / "root")
    Copy({f"train/trainimg{r}/00009.jpg": bordered(9, bool(r), 50) for r in ("", "r")}, {}).write(
        tmp_path / "root"
    )
    prepare(options(root, "dronevehicle", tmp_path, max_skipped=0.5))
    (reason,) = reasons(tmp_path, "dronevehicle")
    assert reason.startswith("neither with nor without DroneVehicle's border: 740 x 612 pixels")
    rows = prepared(tmp_path, "dronevehicle")["train"]
    for field, r in (("image", ""), ("ir", "r")):
        cut = decode(rows["train/00001"][field])
        assert cut.shape == (512, 640, 3)
        assert cut.max() < 180  # a row or column of the border would be white
        kept = rows["train/00002"][field]  # had no border
        assert kept == copy.files[f"train/trainimg{r}/00002.jpg"]


def test_images_of_16_bits_keep_their_bytes(tmp_path):
    prepare(options(COPIES["m3fd"].write(tmp_path / "root"), "m3fd", tmp_path))
    record = prepared(tmp_path, "m3fd")["val"]["val/00002"]
    assert record["ir"] == grey16(2)
    assert decode(record["ir"]).max() == 255


def test_half_a_pair_is_skipped_and_counted(tmp_path):
    copy = COPIES["llvip"]
    files = copy.files | {
        "LLVIP/visible/train/000007.jpg": rgb(7),
        "LLVIP/infrared/test/000008.jpg": grey3(8),
        "LLVIP/infrared/test/000003.png": grey(3),
    }
    root = Copy(files, {}).write(tmp_path / "root")
    with pytest.raises(InputError, match=r"3 of 5 samples .60.00%"):
        prepare(options(root, "llvip", tmp_path))
    prepare(options(root, "llvip", tmp_path, max_skipped=0.7))
    assert sorted(reasons(tmp_path, "llvip")) == [
        "no RGB image: 'LLVIP/infrared/test/000008.jpg'",
        "no infrared image: 'LLVIP/visible/train/000007.jpg'",
        "several files of one name: LLVIP/infrared/test/000003.jpg, LLVIP/infrared/test/000003.png",
    ]
    assert prepared(tmp_path, "llvip").keys() == {"train"}


def test_what_a_list_names_and_nobody_has_is_skipped_and_counted(tmp_path):
    copy = COPIES["kust4k"]
    texts = copy.texts | {"test.txt": "00005N\n00006D\n00009N\n"}
    texts["broke_TIR.txt"] = "00004D\n"
    files = {path: data for path, data in copy.files.items() if "00002D" not in path}
    root = Copy(files, {}, texts).write(tmp_path / "root")  # without a pair corrupted anyway
    with pytest.raises(InputError, match=r"1 of 4 samples .25.00%"):  # corrupted ones aside
        prepare(options(root, "kust4k", tmp_path))
    prepare(options(root, "kust4k", tmp_path, max_skipped=0.25))
    assert reasons(tmp_path, "kust4k")[-1] == "no images: '00009n'"


def test_odd_unpackings_are_read_all_the_same(tmp_path):
    # Archives of one modality, each with a folder of its own; suffixes and folders in capitals.
    files = {
        "visible_1/Visible/TRAIN/1.JPG": rgb(1),
        "infrared_2/Infrared/TRAIN/1.png": grey(1),
        "__MACOSX/visible/train/._1.jpg": b"resource fork",
        "visible_1/Visible/.DS_Store": b"",
    }
    prepare(options(Copy(files, {}).write(tmp_path / "root"), "llvip", tmp_path))
    (record,) = prepared(tmp_path, "llvip")["train"].values()
    assert scene_of(record["image"], True) == scene_of(record["ir"], False) == 1
    assert record["id"] == "train/1"


def test_the_input_may_be_the_innermost_folder(tmp_path):
    files = {"normal_json/train/1.jpg": grey3(1)}
    Copy(files, {}).write(tmp_path)
    prepare(options(str(tmp_path / "normal_json"), "hit_uav", tmp_path))
    assert prepared(tmp_path, "hit_uav").keys() == {"train"}


def test_a_pipe_in_place_of_a_list_is_named_and_not_waited_for(tmp_path):
    root = Path(CART.write(tmp_path / "root"))
    path = root / "splits/rgbt_splits/rgb_val.txt"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"rgb_val\.txt is a pipe, a device or a directory"):
        prepare(options(root, "cart", tmp_path))


def test_sets_that_may_lack_splits_take_the_flag(tmp_path, capsys):
    copy = COPIES["m3fd"]
    root = Copy(copy.files, {}).write(tmp_path / "root")
    prepare(options(root, "m3fd", tmp_path, split="test"))
    assert list(prepared(tmp_path, "m3fd")["test"]) == ["00001", "00002", "00003"]
    assert "M3FD: no lists of splits" in capsys.readouterr().err
    with pytest.raises(InputError, match="--split means nothing for --format=llvip"):
        prepare(options(root, "llvip", tmp_path, split="test"))


@pytest.mark.parametrize(
    "name, files, texts, message",
    [
        ("llvip", {"photos/1.jpg": b""}, {}, r"no RGB images of LLVIP. Expected: visible/.*photos"),
        ("llvip", {"visible/train/1.jpg": b""}, {}, "no infrared images of LLVIP.*There: visible"),
        ("hit_uav", {"train/1.jpg": b""}, {}, "no thermal images of HIT-UAV"),
        (
            "vedai",
            {f"Vehicules{s}/00000001_{k}.png": b"" for s in (512, 1024) for k in ("co", "ir")},
            {},
            "more than once, in Vehicules1024, Vehicules512",
        ),
        (
            "hit_uav",
            {"normal_json/train/1.jpg": b"", "hit-uav/images/train/1.jpg": b""},
            {},
            "more than once",
        ),
        ("cart", CART.files, {}, "lacks lists of the splits.*rgb,thermal8"),
        (
            "cart",
            CART.files,
            {k: v for k, v in CART.texts.items() if not k.endswith("thermal8_test.txt")},
            "lacks lists of the splits",
        ),
        (
            "kust4k",
            COPIES["kust4k"].files,
            {k: v for k, v in COPIES["kust4k"].texts.items() if "brok" not in k},
            "lacks the lists of the corrupted pairs of Kust4K",
        ),
        (
            "kust4k",
            COPIES["kust4k"].files,
            COPIES["kust4k"].texts | {"val.txt": "00001N\n"},
            "'00001n' stands in train.txt and otherwise in val.txt",
        ),
    ],
)
def test_a_wrong_root_is_told_what_is_missing(tmp_path, name, files, texts, message):
    root = Copy(files, {}, texts).write(tmp_path / "root")
    with pytest.raises(InputError, match=message):
        prepare(options(root, name, tmp_path))
    assert not (tmp_path / "data").exists()


def test_pairs_without_text_tell_training_what_they_lack(tmp_path):
    prepare(options(COPIES["llvip"].write(tmp_path / "root"), "llvip", tmp_path))
    (record,) = prepared(tmp_path, "llvip")["test"].values()
    with pytest.raises(ValueError, match="neither captions nor a label"):
        TextChoice().choose(record, "text", (0.5, 0.5, 0.5))


@pytest.mark.skipif(not VEDAI.exists(), reason=f"needs {VEDAI}, which is not here")
def test_real_vedai_pairs_show_the_same_place(tmp_path):
    prepare(options(str(VEDAI), "vedai", tmp_path))
    rows = prepared(tmp_path, "vedai")["train"]
    assert rows.keys() == {"00000000", "00000057", "00000096"}
    views = {
        id_: [np.ravel(decode(row[field]).mean(axis=2)) for field in ("image", "ir")]
        for id_, row in rows.items()
    }
    for id_, (image, _) in views.items():
        assert rows[id_]["image"] == (VEDAI / f"{id_}_co.png").read_bytes()
        # Edges of the scene are in both; of the three infrared images its own is the nearest.
        likeness = {other: np.corrcoef(image, ir)[0, 1] for other, (_, ir) in views.items()}
        assert max(likeness, key=likeness.get) == id_
