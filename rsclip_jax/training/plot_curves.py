"""Plot a run: `python -m rsclip_jax.training.plot_curves --workdir=WORKDIR --output=curves.png`.

Needs the `report` extra (matplotlib).
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from rsclip_jax import atomic, errors
from rsclip_jax.training.metrics import read_metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
_OUTPUT = flags.DEFINE_string("output", "curves.png", "PNG file to write.")

# The panels of the training itself, and the metrics of each.
PANELS = (
    ("training loss", r"training_loss|loss_\w+|l1|generator|discriminator"),
    ("share of a batch that finds its partner", r"acc_\w+"),
    ("learning rate", r"lr"),
    ("samples a second", r"samples_per_s"),
)
WORST = r"\w*worst_[^/]*"  # of an evaluator, the bound where texts are equal
COLUMNS = 3
FEW = 30  # points of a line that are marked


def plot_curves(workdir: str | Path, output: str | Path) -> list[str]:
    """Draw the curves of a run by step: a panel for each kind of metric and for each evaluator.

    Returns:
      The names of the metrics that no panel has.

    Raises:
      ValueError: the run has written no metrics yet. ImportError: matplotlib is not there.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"plots need matplotlib, pip install -e '.[report]' ({error})") from error

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    lines = read_metrics(Path(workdir))
    names = list(dict.fromkeys(name for line in lines for name in line if name != "step"))
    drawn = panels(names)
    if not drawn:
        raise ValueError(f"{workdir}: no metrics.jsonl with a line in it")
    columns = min(COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.6 * columns, 3.2 * rows), layout="constrained", squeeze=False
    )
    for axes, (title, members) in zip(grid.flat, drawn.items(), strict=False):
        axes.set_title(title, fontsize=11)
        style(axes, lines[-1]["step"])
        for name, label in members.items():
            found = {line["step"]: line[name] for line in lines if name in line}
            draw(axes, found, label)
        if len(members) > 1:
            axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_axis_off()
    with atomic.replacing(Path(output)) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    plt.close(figure)
    return [name for name in names if not any(name in members for members in drawn.values())]


def panels(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Put metrics into panels: title -> name -> label; those that have no panel are left out."""
    found: dict[str, dict[str, str]] = {}
    for title, pattern in PANELS:
        members = [name for name in names if re.fullmatch(pattern, name)]
        found[title] = {name: name.removeprefix("loss_").removeprefix("acc_") for name in members}
    for name in names:
        evaluator, slash, metric = name.partition("/")
        if slash and not re.fullmatch(WORST, metric):
            found.setdefault(evaluator, {})[name] = metric
    return {title: members for title, members in found.items() if members}


def style(axes: Any, last: int) -> None:
    """Set a panel up: steps up to the last; ten colours, then again with other lines, markers."""
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib.ticker import MaxNLocator

    colours = cycler(color=plt.get_cmap("tab10").colors)  # type: ignore[attr-defined]
    others = cycler(linestyle=["-", "--", ":", "-."], marker=["o", "s", "^", "D"])
    axes.set_prop_cycle(others * colours)
    axes.set_xlabel("step")
    axes.set_xlim(0, max(1, last) * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(axes: Any, by_step: Mapping[int, float | None], label: str) -> None:
    """Draw a line, its points marked where they are few; None (a value not finite) is a gap."""
    values = [math.nan if value is None else value for value in by_step.values()]
    look: dict[str, Any] = {"markersize": 4} if len(values) <= FEW else {"marker": ""}
    if label == "training_loss":  # where it is the sum of one, that one lies upon it
        look |= {"color": "lightgrey", "linewidth": 5, "zorder": 0, "markersize": 9}
    axes.plot(list(by_step), values, label=label, **look)


def main(_: Sequence[str]) -> None:
    with errors.one_line("plot_curves"):
        left_out = plot_curves(_WORKDIR.value, _OUTPUT.value)
        also = f" (not drawn: {', '.join(left_out)})" if left_out else ""
        print(f"{_OUTPUT.value}{also}")


if __name__ == "__main__":
    app.run(main)
