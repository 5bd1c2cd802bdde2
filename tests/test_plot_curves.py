import json
import sys

import pytest
from matplotlib.figure import Figure

from rsclip_jax.errors import told
from rsclip_jax.training import plot_curves
from rsclip_jax.training.plot_curves import panels

RECALLS = [f"{way}_R@{k}" for k in (1, 5, 10) for way in ("i2t", "t2i")]


def drawn(directory, monkeypatch, lines):
    """Draw a run; return its panels with something in them by title, and what was left out."""
    (directory / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))
    left_out = plot_curves.plot_curves(directory, directory / "curves.png")
    assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    return {axes.get_title(): axes for axes in figures[0].axes if axes.lines}, left_out


def test_each_kind_of_metric_and_each_evaluator_has_a_panel(tmp_path, monkeypatch):
    training = {"training_loss": 3.0, "loss_img_txt": 3.0, "acc_img_txt": 0.1, "acc_txt_img": 0.2}
    training |= {"lr": 1e-3, "samples_per_s": 9.0, "mfu": 0.1}
    names = [f"{more}{name}" for more in ("", "long_") for name in (*RECALLS, "mean_recall")]
    found = {f"val/{name}": 50.0 for name in names} | {"val/worst_i2t_R@1": 40.0, "types/top1": 7.0}
    lines = [{"step": 1, **training}, {"step": 2, **training, "lr": None}, {"step": 2, **found}]
    axes, left_out = drawn(tmp_path, monkeypatch, lines)
    kinds = ["training loss", "share of a batch that finds its partner", "learning rate"]
    assert list(axes) == [*kinds, "samples a second", "val", "types"]
    assert left_out == ["mfu", "val/worst_i2t_R@1"]
    val = axes["val"].lines
    assert [line.get_label() for line in val] == names
    assert len({(line.get_color(), line.get_marker()) for line in val}) == len(names)
    (rate,) = axes["learning rate"].lines
    assert list(rate.get_xdata()) == [1, 2] and not rate.get_ydata()[1] > 0  # NaN: a gap
    for of in axes.values():
        assert all(line.get_marker() not in ("", "None") for line in of.lines)  # seen if alone
        assert of.get_xlim()[0] == 0 and of.get_xlim()[1] > 2  # the whole run


def test_long_runs_are_drawn_without_markers(tmp_path, monkeypatch):
    lines = [{"step": k, "lr": 1.0} for k in range(1, 200)]
    axes, _ = drawn(tmp_path, monkeypatch, lines)
    assert axes["learning rate"].lines[0].get_marker() == ""


def test_the_terms_of_a_translator_are_losses():
    terms = ["training_loss", "l1", "generator", "discriminator"]
    assert panels([*terms, "l2_grads"]) == {"training loss": {name: name for name in terms}}


def test_without_matplotlib_a_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib, pip install .*report") as error:
        plot_curves.plot_curves(tmp_path, tmp_path / "curves.png")
    assert told(error.value)


def test_a_run_without_metrics_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.jsonl"):
        plot_curves.plot_curves(tmp_path, tmp_path / "curves.png")
