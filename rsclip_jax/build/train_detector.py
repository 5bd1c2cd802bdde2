"""Fit a detector of remote-sensing images on embeddings of a CLIP model.

    python -m rsclip_jax.build.train_detector --model=WORKDIR --positive=millionaid,rsicd:val \\
        --negative=imagenet --output=detector.json

NAME or NAME:SPLIT is a prepared data set, without SPLIT its `train`. As in RS5M (section III-A) at
most 5,000 images of either kind, drawn at random, are split 7:1:2 into what is fitted, what chooses
the penalty, and what is tested. RS5M fine-tuned a ViTAE, 99.20 % on validation and 97.55 % on test;
here the image tower is frozen, and a logistic regression is fitted as by the evaluator `probe`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsclip_jax import errors, sharding, startup
from rsclip_jax.build.detector import Detector
from rsclip_jax.data import pipeline, records
from rsclip_jax.embeddings import params_digest
from rsclip_jax.encoder import Encoder
from rsclip_jax.evaluators.probe import choose_strength, logistic_regression, predict
from rsclip_jax.models import clip
from rsclip_jax.training.checkpoint import load_for_inference

LIMIT = 5000  # images of either kind
PARTS = {"train": 0.7, "val": 0.1, "test": 0.2}
_FEWEST = 10  # of either kind: one for validation


class Drawn:
    """Some records of several sources, in the order drawn; read like a `records.RecordSource`."""

    def __init__(self, sources: Sequence[Any], limit: int, rng: np.random.Generator):
        places = [(source, index) for source in sources for index in range(len(source))]
        self._places = [places[number] for number in rng.permutation(len(places))[:limit]]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        source, index = self._places[number]
        return source[index]


def split_parts(count: int) -> dict[str, slice]:
    """Cut `count` images, in random order already, into the parts of PARTS, rounded down."""
    val, test = int(PARTS["val"] * count), int(PARTS["test"] * count)
    train = count - val - test
    return {
        "train": slice(0, train),
        "val": slice(train, train + val),
        "test": slice(train + val, count),
    }


def fit(z: Mapping[int, np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit the regression to embeddings in random order.

    Args:
      z: label (1 remote sensing, 0 not) -> float [N, D], rows of length 1.

    Returns:
      (float64 [D + 1, 2] as `logistic_regression`, {"strength", "images": part -> number,
      "accuracy": part -> percent, "recall" of remote sensing and "specificity" on the test part}).
    """
    parts = {label: split_parts(len(rows)) for label, rows in z.items()}
    x = {part: np.concatenate([z[n][parts[n][part]] for n in (0, 1)]) for part in PARTS}
    y = {
        part: np.concatenate([np.full(len(z[n][parts[n][part]]), n) for n in (0, 1)])
        for part in PARTS
    }
    strength = choose_strength(x["train"], y["train"], x["val"], y["val"], 2)
    w = logistic_regression(x["train"], y["train"], 2, strength)
    found = {part: predict(w, x[part]) == y[part] for part in PARTS}

    def percent(right: np.ndarray) -> float:
        return round(100 * float(np.mean(right)), 2)

    return w, {
        "strength": strength,
        "images": {part: len(y[part]) for part in PARTS},
        "accuracy": {part: percent(found[part]) for part in PARTS},
        "recall": percent(found["test"][y["test"] == 1]),
        "specificity": percent(found["test"][y["test"] == 0]),
    }


def train_detector(
    model: str, data_dir: str, positive: Sequence[str], negative: Sequence[str], seed: int = 0
) -> Detector:
    """Fit a detector; see above for the names of data sets.

    Args:
      model: what `rsclip_jax.load` reads.
      data_dir: where the data sets lie; "": where the model's own lay.

    Raises:
      FileNotFoundError, ValueError: no such model, data set or split; fewer than ten images of
        either kind.
    """
    mesh = sharding.make_mesh()
    config, params, step = load_for_inference(model, mesh=mesh, clip_for="a detector")
    encoder = Encoder(clip.build(config.model), mesh)
    rng = np.random.default_rng(seed)
    z = {}
    for label, names in ((1, positive), (0, negative)):
        sources = [_open(data_dir or config.input.data_dir, name) for name in names]
        drawn = Drawn(sources, LIMIT, rng)
        if len(drawn) < _FEWEST:
            raise ValueError(f"{', '.join(names)}: {len(drawn)} images, expected {_FEWEST} or more")
        batches = pipeline.eval_batches(
            drawn,  # type: ignore[arg-type]
            image_size=encoder.image_size,
            batch_size=encoder.batch_size,
        )
        pixels = (batch["image"] for batch in batches)
        z[label] = np.concatenate(list(encoder.image_stream(params, pixels)))
    w, told = fit(z)
    logit = w[:, 1] - w[:, 0]  # two classes: their softmax is the sigmoid of the difference
    told = {"positive": list(positive), "negative": list(negative), "seed": seed} | told
    return Detector(
        logit[:-1].tolist(),
        float(logit[-1]),
        str(Path(model).absolute()),
        params_digest(params),
        told | {"step": step},
    )


def _open(data_dir: str, name: str) -> records.RecordSource:
    dataset, _, split = name.partition(":")
    return records.open_source(data_dir, dataset, split or "train")


def main(argv: Sequence[str]) -> None:
    """Run the command with its arguments (without the program's name)."""
    parser = argparse.ArgumentParser(
        "python -m rsclip_jax.build.train_detector",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="workdir of a run, or weights")
    for kind, what in (("positive", "remote sensing"), ("negative", "anything else")):
        parser.add_argument(
            f"--{kind}", required=True, help=f"comma-separated data sets of {what}: NAME[:SPLIT]"
        )
    parser.add_argument("--data_dir", default="", help="where they lie (default: as in training)")
    parser.add_argument("--output", required=True, help="file for the detector")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    args = parser.parse_args(argv)
    with startup.started():
        detector = train_detector(
            args.model, args.data_dir, _names(args.positive), _names(args.negative), args.seed
        )
    detector.write(args.output)
    told = detector.told
    for part in PARTS:
        print(f"{part}: {told['accuracy'][part]:.2f} % of {told['images'][part]:,} images")
    print(
        f"test: {told['recall']:.2f} % of remote sensing, {told['specificity']:.2f} % of the others"
    )
    print(f"{args.output}: detector on the embeddings of {args.model}")


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


if __name__ == "__main__":
    with errors.one_line("train_detector", "begins again"):
        main(sys.argv[1:])
