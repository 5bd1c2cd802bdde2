import json
import sys

import pytest
from PIL import Image

from rsclip_jax.errors import told
from rsclip_jax.training.plot_curves import plot_curves


def test_losses_and_recalls_are_drawn(tmp_path):
    lines = [{"step": i, "loss_img_txt": 5 - i, "val/t2i_R@10": 10 * i} for i in range(1, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    plot_curves(tmp_path, tmp_path / "curves.png")
    picture = Image.open(tmp_path / "curves.png").convert("RGB")
    left, right = (
        picture.crop((x, 0, x + picture.width // 2, picture.height))
        for x in (0, picture.width // 2)
    )
    for half in (left, right):
        blue = [c for c in half.getcolors(1 << 20) if c[1] == (31, 119, 180)]
        assert blue and blue[0][0] > 50  # a line in matplotlib's first colour


def test_without_matplotlib_a_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib, pip install .*report") as error:
        plot_curves(tmp_path, tmp_path / "curves.png")
    assert told(error.value)


def test_a_run_without_metrics_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.jsonl"):
        plot_curves(tmp_path, tmp_path / "curves.png")
