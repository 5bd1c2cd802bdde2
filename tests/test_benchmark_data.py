"""The data that sweeps and benchmarks are run on, made of other data: what is written."""

import cv2
import numpy as np
import pytest

from benchmarks import naip


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
