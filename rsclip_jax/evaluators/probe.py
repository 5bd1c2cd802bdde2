"""Classification on frozen image embeddings: linear probe, few-shot, nearest neighbours."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from rsclip_jax.encoder import SILENT_S, Encoder
from rsclip_jax.evaluators.class_index import shared_index
from rsclip_jax.evaluators.examples import LabelledExamples

# Inverse strengths of the L2 penalty that validation chooses from, as scikit-learn's C.
STRENGTHS = tuple(float(10.0**power) for power in range(-2, 7))
HELD_OUT = 0.2  # share of the training images that chooses the strength, where no split is given
NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's weighted vote
BLOCK = 1024
MOST_ITERATIONS = 1000
TELL_S = 5  # seconds between two words on a fit


def logistic_regression(
    z: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    tell: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Fit a multinomial logistic regression with L2 penalty, as scikit-learn's.

    Minimises `strength * sum of cross-entropies + |weights|^2 / 2` by L-BFGS, biases unpenalised,
    in one thread of the BLAS: more of them would spend their time waiting for each other.

    Args:
      z: [N, D]; labels: [N] integers in [0, classes).
      strength: inverse of the penalty, > 0.
      tell: is told now and then which iteration this is.

    Returns:
      float64 [D + 1, classes], the last row the biases: logits are `z @ w[:-1] + w[-1]`.
    """
    x = np.concatenate([z, np.ones((len(z), 1))], axis=1, dtype=np.float64)
    target = np.eye(classes)[labels]
    penalised = np.ones((x.shape[1], 1))
    penalised[-1] = 0

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(-1, classes)
        log_p = log_softmax(x @ w, axis=1)
        # Divided by the strength: the scale of a mean, whatever the strength.
        loss = -np.sum(target * log_p) + np.sum((penalised * w) ** 2) / (2 * strength)
        gradient = x.T @ (np.exp(log_p) - target) + penalised * w / strength
        return loss / len(x), gradient.ravel() / len(x)

    iterations, due = itertools.count(1), time.monotonic() + TELL_S

    def told(_: np.ndarray) -> None:
        nonlocal due
        iteration = next(iterations)
        if tell and time.monotonic() > due:
            tell(f"iteration {iteration} of at most {MOST_ITERATIONS:,}")
            due += TELL_S

    start = np.zeros(x.shape[1] * classes)
    options = {"maxiter": MOST_ITERATIONS, "gtol": 1e-6, "ftol": 1e-12}
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", options=options, callback=told
        )
    return found.x.reshape(-1, classes)


def predict(w: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the classes [N] that `logistic_regression`'s weights give to embeddings [N, D]."""
    return np.argmax(z @ w[:-1] + w[-1], axis=1)


def nearest_neighbours(
    z_train: np.ndarray, labels: np.ndarray, z: np.ndarray, neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """Classify embeddings by their nearest training embeddings, weighted by exp(cosine / 0.07).

    Args:
      z_train: [N, D]; labels: [N] integers; z: [M, D]; all rows of length 1.

    Returns:
      [M] classes.
    """
    neighbours = min(neighbours, len(z_train))
    target = np.eye(labels.max() + 1)[labels]
    found = []
    blocks = tqdm(
        range(0, len(z), BLOCK),
        desc="neighbours",
        unit="block",
        delay=SILENT_S,
        leave=False,
        disable=jax.process_index() != 0,
    )
    for start in blocks:
        similarity = z[start : start + BLOCK] @ z_train.T
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        votes = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / TEMPERATURE)
        found.append(np.einsum("mk,mkc->mc", votes, target[nearest]).argmax(axis=1))
    return np.concatenate(found)


def choose_strength(
    z: np.ndarray,
    labels: np.ndarray,
    z_val: np.ndarray,
    val_labels: np.ndarray,
    classes: int,
    fit: Callable[..., np.ndarray] = logistic_regression,
) -> float:
    """Return the strength that is best on validation images, of equals the weakest fit."""
    return max(
        STRENGTHS,
        key=lambda s: np.mean(predict(fit(z, labels, classes, s), z_val) == val_labels),
    )


def draw_shots(labels: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `shots` indices of each class at random.

    Raises:
      ValueError: a class has fewer.
    """
    count = np.bincount(labels)
    if count.min() < shots:
        raise ValueError(f"shots={shots}: the rarest class has {count.min()} training images")
    shuffled = rng.permutation(len(labels))
    return np.concatenate([shuffled[labels[shuffled] == c][:shots] for c in range(len(count))])


class Probe:
    """Evaluator `{"type": "probe", "data": ..., "split": ..., "train_split": ...}`.

    Metrics, top-1 accuracy in percent on `split`: `linear`, `knn`, and for each number of shots
    `linear_Kshot`, the mean of `seeds` draws, with `linear_Kshot_std`. The classes are those of
    `train_split`; other splits may spell them otherwise (`class_index.shared_index`).

    Args:
      config, encoder: see `evaluators.build`.
      data, split: a labelled data set.
      train_split: what is fitted.
      val_split: what chooses the strength of the penalty; "none" holds out a fifth (at least one)
        of each class of `train_split`, and the chosen strength is then fitted on all of it.
        Few-shot fits use the strength of the full fit: so few images could not choose.
      shots: images per class of few-shot fits.
      seeds: how many draws of them.
      modality: "image", or "ir": the infrared images of the records are classified.
      limit: only the first so many records of each split; 0 for all.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        *,
        data: str,
        split: str,
        train_split: str = "train",
        val_split: str = "none",
        shots: Sequence[int] = (),
        seeds: int = 3,
        modality: str = "image",
        limit: int = 0,
    ):
        self.protocol = f"fitted on {train_split}"
        self._shots, self._seeds = tuple(shots), seeds
        self.metrics = ("linear", "knn", *(f"linear_{n}shot" for n in shots))
        self._encoder = encoder
        self._about: list[str] = []
        names = {"test": split, "train": train_split, "val": val_split}
        if len(set(names.values())) < 3:
            raise ValueError(
                f"split={split!r}, train_split={train_split!r}, val_split={val_split!r}: expected "
                "three different names"
            )
        if val_split == "none":
            del names["val"]
        self._examples = {
            role: LabelledExamples(config, encoder, data, name, modality=modality, limit=limit)
            for role, name in names.items()
        }

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the metrics.

        Raises:
          ValueError: see `class_index.shared_index`.
        """
        z: dict[str, np.ndarray] = {}
        spelled: dict[str, list[str]] = {}
        for role, examples in self._examples.items():
            z[role], spelled[role] = examples.embeddings(params)
        names = {role: examples.name for role, examples in self._examples.items()}
        found = shared_index(spelled["train"], {names[role]: spelled[role] for role in z})
        labels = {role: found[names[role]] for role in z}
        classes = int(labels["train"].max()) + 1
        train, test = (z["train"], labels["train"]), (z["test"], labels["test"])
        if "val" in z:
            fitted, held = train, (z["val"], labels["val"])
        else:
            keep = _held_out(labels["train"])
            fitted, held = (train[0][~keep], train[1][~keep]), (train[0][keep], train[1][keep])
        fits = len(STRENGTHS) + 1 + len(self._shots) * self._seeds

        def accuracy(found: np.ndarray) -> float:
            return 100 * float(np.mean(found == test[1]))

        if self._shots:  # else it would be told after the other fits
            draw_shots(train[1], max(self._shots), np.random.default_rng(0))
        silent = jax.process_index() != 0
        with tqdm(total=fits, desc="probe", unit="fit", delay=1, disable=silent) as progress:

            def fit(z: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> np.ndarray:
                self._encoder.before_batch()  # a fit takes as long as many of them
                tell = progress.set_postfix_str
                w = logistic_regression(z, labels, classes, strength, tell)
                progress.update()
                return w

            strength = choose_strength(*fitted, *held, classes, fit)
            chosen_on = names["val"] if "val" in z else "a fifth of each class of it"
            self._about = [
                f"{names['test']}: {len(test[1]):,} {self._examples['test'].kind}, {classes} "
                f"classes; {self.protocol}: {len(train[1]):,}",
                f"linear: logistic regression, C = {strength:g} of {len(STRENGTHS)}, chosen on "
                f"{chosen_on}; knn: {NEIGHBOURS} neighbours, weighted by exp(cosine / "
                f"{TEMPERATURE})",
            ]
            if self._shots:
                self._about.append(f"few-shot: mean and deviation of {self._seeds} random draws")
            yield "linear", accuracy(predict(fit(*train, classes, strength), test[0]))
            yield "knn", accuracy(nearest_neighbours(*train, test[0]))
            for shots in self._shots:
                scores = []
                for seed in range(self._seeds):
                    some = draw_shots(train[1], shots, np.random.default_rng(seed))
                    w = fit(train[0][some], train[1][some], classes, strength)
                    scores.append(accuracy(predict(w, test[0])))
                yield f"linear_{shots}shot", float(np.mean(scores))
                yield f"linear_{shots}shot_std", float(np.std(scores))

    def about(self) -> list[str]:
        """Say what the numbers of the latest run are of, and how they came about."""
        return self._about


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Choose a fifth of each class at random, rounded down, but one where there are two or more.

    Returns:
      booleans [N].

    Raises:
      ValueError: no class has two.
    """
    keep = np.zeros(len(labels), bool)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    for number in range(labels.max() + 1):
        own = shuffled[labels[shuffled] == number]
        keep[own[: max(int(HELD_OUT * len(own)), int(len(own) > 1))]] = True
    if not keep.any():
        raise ValueError(
            f"{len(labels)} training images, one of each class: none can be held out to choose the "
            "penalty; give val_split"
        )
    return keep
