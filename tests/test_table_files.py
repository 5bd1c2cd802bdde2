import json

import pytest

from rsclip_jax.data.tables import open_table


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_tables_called_like_splits_are_those_where_a_row_names_none(tmp_path, form):
    for name in ("train", "valid"):
        rows = [{"image": f"{name}.jpg", "caption": "x"}]
        rows += [{"image": "a.jpg", "caption": name, "split": "dev"}] * (name == "train")
        lines = {
            "csv": f"image,caption,split\n{name}.jpg,x,\n",
            "jsonl": "\n".join(map(json.dumps, rows)),
            "json": json.dumps(rows),
        }
        (tmp_path / f"{name}.{form}").write_text(lines[form], encoding="utf-8")
        (tmp_path / f"{name}.jpg").touch()
    source = open_table(form, str(tmp_path), ignore=())
    found = {s.id: s.split for s in source}
    assert (found.pop("train.jpg"), found.pop("valid.jpg")) == ("train", "valid")
    assert found in ({}, {"a.jpg": "dev"})
    assert source.notes[0].endswith("of its file's name: train, valid")
