"""The data that sweeps and benchmarks are run on, made of other data: what is written."""

import re

import cv2
import numpy as np
import pytest

from benchmarks import naip, rsicd_halves, rsicd_long, translation
from rsclip_jax.data.text import make_tokenizer


def test_naip_captions_say_what_was_counted_and_measured(tmp_path):
    (tmp_path / "nir").mkdir()
    columns = np.tile(np.array([0, 0, 255, 255], np.uint8), (64, 16))  # edges everywhere
    flat = np.full((64, 64), 120, np.uint8)
    for name, image in (("a", columns), ("b", flat), ("c", flat)):
        cv2.imwrite(str(tmp_path / f"nir/{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    table = tmp_path / "metadata.csv"
    table.write_text(
        "id,city,year,n_trees,mean_ndvi\n"
        "a,riverside,2020,96,0.2\nb,claremont,2020,3,-0.3\nc,long_beach,2020,44,0.01\n"
    )
    a, b, c = naip.manifest(tmp_path)
    assert [row["split"] for row in (a, b, c)] == ["test", "val", "train"]
    assert (a["image"], a["ir"], a["source"]) == ("rgb/a.jpg", "nir/a.jpg", "riverside")
    assert "trees almost everywhere and dense vegetation" in a["captions"][0]
    assert a["captions"][1].startswith("about 100 trees and dense vegetation")
    assert b["captions"][1].startswith("fewer than ten trees and almost no vegetation")
    assert "quite a few trees and moderate vegetation" in c["captions"][0]
    # Half of the columns are white, half black; b is grey and flat.
    assert "medium bright overall, very high contrast, dense outlines" in a["ir_captions"][0]
    assert "very large bright areas and very large dark areas" in a["ir_captions"][1]
    assert "medium bright overall, very low contrast, smooth areas" in b["ir_captions"][0]
    assert "no bright areas and no dark areas" in b["ir_captions"][1]

    table.write_text("id,city\na,riverside\n")
    with pytest.raises(ValueError, match="no column mean_ndvi, n_trees"):
        naip.manifest(tmp_path)


def test_rsicd_is_halved_by_every_second_class():
    rows = [{"filename": f"{k}.jpg", "label": label} for k, label in enumerate("dacbd")]
    a, b = rsicd_halves.split(iter(rows))
    assert [row["filename"] for row in a] == ["1.jpg", "2.jpg"]  # a, c
    assert [row["filename"] for row in b] == ["0.jpg", "3.jpg", "4.jpg"]  # d, b, d
    with pytest.raises(ValueError, match=r"1 rows have no label, the first: .*x\.jpg"):
        rsicd_halves.split([*rows, {"filename": "x.jpg", "label": ""}])


def test_long_captions_go_on_behind_77_tokens():
    captions = ["a beach .", "waves on a beach . ", "a beach .", "sand and sea ."]
    rows = [
        {"filename": "a.jpg", "split": "train", "captions": captions},
        {"filename": "b.jpg", "split": "train", "captions": ["a pond .", "a pond ."]},
        {"filename": "c.jpg", "split": "val", "captions": captions},
    ]
    a, c = rsicd_long.lengthened(rows)
    assert (a["filename"], c["filename"]) == ("a.jpg", "c.jpg")  # b has but one caption
    assert a["captions"] == captions
    assert len(set(a["long_captions"])) == 4 and len(c["long_captions"]) == 1
    assert c["long_captions"] == next(rsicd_long.lengthened(rows[2:]))["long_captions"]
    for text in a["long_captions"] + c["long_captions"]:
        first, passage, others = re.split(r" (this picture .* degrees\.) ", text)
        parts = [first, *(part.strip() + " ." for part in others.split(" .") if part)]
        assert sorted(parts) == ["a beach .", "sand and sea .", "waves on a beach ."]
        # Its first and last token are the marks of a text's begin and end.
        assert make_tokenizer("clip", 248).lengths([passage])[0] - 2 >= 77


def test_the_affine_view_is_what_infrared_was_made_of():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    ir = 0.501 * rgb[..., 0] - 0.2503 * rgb[..., 1] + 0.1207 * rgb[..., 2] + 70.01003
    weights = translation.fit_affine([(rgb[:2], ir[:2]), (rgb[2:], ir[2:])])
    np.testing.assert_allclose(weights, [0.501, -0.2503, 0.1207, 70.01003], atol=1e-9)
    np.testing.assert_array_equal(translation.affine(weights, rgb), np.rint(ir).astype(np.uint8))
