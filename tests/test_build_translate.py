"""The command that writes infrared views of a list of images."""

import json

import numpy as np
import pytest
from PIL import Image

from rsclip_jax.build import translate
from rsclip_jax.build.infrared import find_view


@pytest.fixture
def listed(tmp_path):
    """Return (list, {id: pixels}) of two images and a damaged file."""
    rng = np.random.default_rng(0)
    images = {"a": rng.integers(0, 256, (12, 17, 3), np.uint8)}
    images["deep/b"] = rng.integers(0, 256, (9, 5, 3), np.uint8)
    lines = []
    for number, (name, pixels) in enumerate(images.items()):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append({"id": name, "image": str(tmp_path / f"{number}.png"), "ir": f"{name}.png"})
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines.append({"id": "bad", "image": str(tmp_path / "bad.png"), "ir": "bad.png"})
    path = tmp_path / "translate.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path), images


def test_views_are_written_where_the_pipeline_looks_for_them(listed, tmp_path, capsys):
    path, images = listed
    output = str(tmp_path / "ir")
    translate.main(["--model=inverted", f"--list={path}", f"--output={output}"])
    told = capsys.readouterr()
    assert "2 written, 1 not decoded" in told.out and "bad: not decoded" in told.err
    for name, pixels in images.items():
        found = Image.open(find_view(output, name))
        luma = np.asarray(Image.fromarray(pixels).convert("L")).astype(int)
        assert found.mode == "L" and abs(np.asarray(found) - (255 - luma)).max() <= 1
    assert find_view(output, "bad") == ""


def test_a_second_run_writes_what_is_missing_by_the_same_translator(listed, tmp_path):
    path, _ = listed
    output = tmp_path / "ir"
    translate.write_views("grayscale", path, str(output))
    (output / "a.png").unlink()
    kept = (output / "deep" / "b.png").stat().st_mtime_ns
    counts = translate.write_views("grayscale", path, str(output))
    assert counts["there"] == 1 and counts["written"] == 1
    assert (output / "deep" / "b.png").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="another translator"):
        translate.write_views("vegetation", path, str(output))


def test_a_long_list_is_not_held_in_memory(listed, tmp_path, monkeypatch):
    path, _ = listed
    line = json.loads(open(path, encoding="utf-8").readline())
    lines = [json.dumps(line | {"ir": f"{number:03d}.png"}) for number in range(40)]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    read, made = [], []

    def read_pixels(image):
        read.append(image)
        return np.full((4, 4, 3), len(read), np.uint8)

    def view(image):
        made.append(image)
        assert len(read) <= len(made) + 9
        return image[..., 0]

    monkeypatch.setattr(translate, "read_pixels", read_pixels)
    monkeypatch.setitem(translate.FREE, "grayscale", view)
    output = tmp_path / "ir"
    assert translate.write_views("grayscale", str(tmp_path / "long.jsonl"), str(output)) == {
        "written": 40,
        "there": 0,
    }
    values = [np.asarray(Image.open(file))[0, 0] for file in sorted(output.glob("*.png"))]
    assert sorted(values) == list(range(1, 41))


def test_wrong_input_is_told_before_any_work(listed, tmp_path):
    path, _ = listed
    with pytest.raises(FileNotFoundError, match="none of grayscale, inverted, vegetation"):
        translate.write_views("greyscale", path, str(tmp_path / "ir"))
    for text, message in (
        ('{"id": "a"}', "line 1.*expected"),
        ("no JSON", "line 1.*expected"),
        ('{"id": "a", "image": "x", "ir": "../a.png"}', "out of --output"),
    ):
        (tmp_path / "wrong.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            translate.write_views("grayscale", str(tmp_path / "wrong.jsonl"), str(tmp_path / "ir"))
    assert not (tmp_path / "ir").exists()
