from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rsclip_jax import evaluators
from rsclip_jax.data.records import write_dataset
from rsclip_jax.evaluators import probe
from rsclip_jax.evaluators.class_index import shared_index


def clusters(count=60, classes=3, width=8, noise=0.6):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    z = np.eye(classes, width)[labels] + noise * rng.normal(size=(count, width))
    return z / np.linalg.norm(z, axis=1, keepdims=True), labels


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_fit_is_where_the_penalised_gradient_vanishes(strength):
    z, labels = clusters()
    w = probe.logistic_regression(z, labels, 3, strength)

    def loss(w):
        log_p = jax.nn.log_softmax(z @ w[:-1] + w[-1])
        return -strength * log_p[jnp.arange(len(z)), labels].sum() + (w[:-1] ** 2).sum() / 2

    with jax.enable_x64():
        gradient = jax.grad(loss)(jnp.asarray(w, jnp.float64))
    assert np.abs(gradient).max() < 1e-3 * max(1.0, strength)


def test_fits_run_in_one_thread_of_the_blas(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    seen = []

    def minimize(*given, **options):
        seen.extend(
            pool["num_threads"]
            for pool in threadpoolctl.threadpool_info()
            if pool["user_api"] == "blas"
        )
        return SimpleNamespace(x=np.zeros(9 * 3))

    monkeypatch.setattr(probe, "minimize", minimize)
    probe.logistic_regression(*clusters(), 3, 1.0)
    assert set(seen) == {1}


def test_neighbours_are_those_of_a_full_sort():
    z_train, labels = clusters(200)
    z, _ = clusters(40, noise=0.9)
    expected = []
    for row in z:
        similarity = z_train @ row
        nearest = np.argsort(-similarity)[:20]
        votes = np.bincount(labels[nearest], np.exp(similarity[nearest] / 0.07), minlength=3)
        expected.append(votes.argmax())
    np.testing.assert_array_equal(probe.nearest_neighbours(z_train, labels, z), expected)


def test_shots_are_as_many_of_each_class_and_differ_by_seed():
    labels = np.array([0, 1, 2] * 10)
    draws = [probe.draw_shots(labels, 4, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for draw in draws:
        assert np.bincount(labels[draw]).tolist() == [4, 4, 4]
        assert len(set(draw)) == 12
    np.testing.assert_array_equal(draws[0], draws[1])
    assert set(draws[0]) != set(draws[2])
    with pytest.raises(ValueError, match="shots=11: the rarest class has 10"):
        probe.draw_shots(labels, 11, np.random.default_rng(0))


def test_a_fifth_of_each_class_is_held_out():
    labels = np.repeat([0, 1], [10, 25])
    assert np.bincount(labels[probe._held_out(labels)]).tolist() == [2, 5]
    assert probe._held_out(np.array([0, 1, 1, 0, 1, 2])).sum() == 2  # else nothing would choose
    with pytest.raises(ValueError, match="one of each class: none can be held out"):
        probe._held_out(np.arange(3))


class Pixels:
    """Stands for an encoder: an image is the mean of its colours."""

    batch_size, image_size = 16, 8

    def before_batch(self):
        """Nobody stops it."""

    def image_stream(self, params, batches, field="image"):
        for batch in batches:
            z = batch.reshape(len(batch), -1, 3).mean(axis=1) - 127.0
            yield (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Return the directory of a data set of red, green and blue images, a few of them wrong."""
    from io import BytesIO

    from PIL import Image

    rng = np.random.default_rng(0)

    def record(split, number):
        label = number % 3
        pixels = rng.integers(0, 160, (16, 16, 3), np.uint8)
        pixels[..., label] += 60

        def png(array):
            file = BytesIO()
            Image.fromarray(array).save(file, "PNG")
            return file.getvalue()

        # In infrared every class of the test images looks like another one of training's.
        return {
            "id": f"{split}{number}",
            "image": png(pixels),
            "ir": png(np.roll(pixels, {"train": 1, "test": 2}[split], axis=2)),
            "label": ("red", "green", "blue")[label],
        }

    directory = tmp_path_factory.mktemp("probe")
    write_dataset(
        str(directory),
        "colours",
        {s: [record(s, i) for i in range(n)] for s, n in (("train", 60), ("test", 30))},
    )
    return str(directory)


def build(directory, **fields):
    evals = {"probe": {"type": "probe", "data": "colours", "split": "test", **fields}}
    config = ConfigDict({"input": {"data_dir": directory}, "evals": evals})
    return evaluators.build(config, Pixels())["probe"]


def test_colours_are_told_apart(colours):
    found = dict(build(colours, shots=(2, 8)).run(SimpleNamespace()))
    assert list(found) == [
        "linear",
        "knn",
        "linear_2shot",
        "linear_2shot_std",
        "linear_8shot",
        "linear_8shot_std",
    ]
    assert found["linear"] == 100 and found["knn"] == 100
    assert found["linear_8shot"] > 90


def test_equal_splits_are_refused(colours):
    with pytest.raises(ValueError, match="three different"):
        build(colours, train_split="test")


def test_infrared_images_are_probed_where_asked(colours):
    found = dict(build(colours, modality="ir").run(SimpleNamespace()))
    assert found["linear"] == found["knn"] == 0


def test_classes_are_matched_as_names_are_in_zero_shot():
    known = ["10", "2", "1", "2"]
    found = shared_index(known, {"train": known, "test": ["2.0", "10", "1"]})
    assert found["train"].tolist() == [2, 1, 0, 1]  # by number, not as text
    assert found["test"].tolist() == [1, 2, 0]
    known = ["SeaLake", "AnnualCrop"]
    assert shared_index(known, {"d/test": ["annual_crop", "sea lake"]})["d/test"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="d/test: classes without a training image: Forest"):
        shared_index(known, {"d/test": ["SeaLake", "Forest"]})
    with pytest.raises(ValueError, match="'annual crop': 'AnnualCrop' and 'annual_crop'"):
        shared_index([*known, "annual_crop"], {})


def test_a_long_fit_tells_how_far_it_is(monkeypatch):
    monkeypatch.setattr(probe, "TELL_S", -1)
    said = []
    probe.logistic_regression(*clusters(), 3, 1.0, said.append)
    assert said[:2] == [f"iteration {k} of at most 1,000" for k in (1, 2)]
