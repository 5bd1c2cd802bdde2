"""Plot a run: `python -m rsclip_jax.training.plot_curves --workdir=WORKDIR --output=curves.png`.

Needs the `report` extra (matplotlib).
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from rsclip_jax import errors
from rsclip_jax.training.metrics import read_metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
_OUTPUT = flags.DEFINE_string("output", "curves.png", "PNG file to write.")


def plot_curves(workdir: str | Path, output: str | Path) -> None:
    """Draw the losses, and every recall and accuracy that was evaluated, by step.

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
    if not lines:
        raise ValueError(f"{workdir}: no metrics.jsonl with a line in it")

    def series(name: str) -> tuple[list, list]:
        rows = [line for line in lines if line.get(name) is not None]
        return [row["step"] for row in rows], [row[name] for row in rows]

    names = list(dict.fromkeys(name for line in lines for name in line))
    losses = [n for n in names if n.startswith("loss_")]
    recalls = [n for n in names if n.endswith(("t2i_R@10", "i2t_R@10", "mean_recall", "top1"))]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    right.set_prop_cycle(color=plt.get_cmap("tab20").colors)  # type: ignore[attr-defined]
    for name in losses:
        left.plot(*series(name), label=name.removeprefix("loss_").replace("_", " - ", 1))
    for name in recalls:
        right.plot(*series(name), marker="o", markersize=3, label=name)
    left.set(title="training loss of each pair", xlabel="step", ylabel="nats")
    right.set(title="evaluation", xlabel="step", ylabel="percent", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(output, dpi=110)
    plt.close(figure)


def main(_: Sequence[str]) -> None:
    with errors.one_line("plot_curves"):
        plot_curves(_WORKDIR.value, _OUTPUT.value)
        print(_OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
