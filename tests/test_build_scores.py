"""Scores of images, the detector, and what is dropped by quantiles."""

import fractions
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from PIL import Image
from scipy.stats import norm, qmc
from tiny_clip import write_tiny_clip

import rsclip_jax
from configs.build import rs5m as rs5m_config
from rsclip_jax import loading
from rsclip_jax.build import models, rs5m, train_detector
from rsclip_jax.build.detector import Detector
from rsclip_jax.build.quantiles import QuantileFilter, cutoff, kept_by_quantiles
from rsclip_jax.build.rows import new_row
from rsclip_jax.build.scores import PROMPTS, ScoreImages, Scorer, prompt_feature, score_stages
from rsclip_jax.build.stages import DROPPED
from rsclip_jax.data.records import write_dataset
from rsclip_jax.embeddings import params_digest


def pixels_of(seed):
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return (path of a model, the model)."""
    path = write_tiny_clip(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return path, models.shared_clip(path)


@pytest.fixture(scope="module")
def detector(tiny, tmp_path_factory):
    weights = np.random.default_rng(5).normal(size=24)
    found = Detector(weights.tolist(), -0.25, tiny[0], params_digest(tiny[1].params))
    path = tmp_path_factory.mktemp("detector") / "detector.json"
    found.write(str(path))
    return str(path), weights


@pytest.fixture
def rows(tmp_path):
    """Three images of the web, one that is none, one of a set that is not scored."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png(pixels_of(number)))
    (tmp_path / "3.png").write_bytes(b"no image")
    sources = ["web", "web", "web", "web", "fmow"]
    return [
        new_row(id=f"r{n}", source=source, image=str(tmp_path / f"{n}.png"))
        for n, source in enumerate(sources)
    ]


def unit(z):
    z = np.asarray(z, np.float64)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def test_prompts_are_the_papers_33():
    assert len(set(PROMPTS)) == 33
    for noun in ("remote sensing image", "aerial image", "satellite image"):
        assert sum(prompt.endswith(noun) for prompt in PROMPTS) == 11
    for prompt in (
        *("an aerial image", "a satellite image", "a low resolution aerial image"),
        *("a black and white remote sensing image", "a close-up satellite image"),
    ):
        assert prompt in PROMPTS


def test_rows_are_scored_by_the_mean_of_prompts_and_by_the_detector(tiny, detector, rows):
    path, clip = tiny
    raw = clip.encode_text(PROMPTS, normalize=False).astype(np.float64)
    direction = unit(sum(raw) / 33)
    # Normalised first, the mean points elsewhere: by more than the tolerance below.
    assert np.abs(unit(unit(raw).mean(axis=0)) - direction).max() > 1e-4
    z = unit(clip.encode_image([pixels_of(n) for n in range(3)]))
    expected_clip = z @ direction
    expected_detector = 1 / (1 + np.exp(-(z @ detector[1] - 0.25)))

    def check(found):
        found = {row["id"]: row for row in found}
        assert set(found) == {"r0", "r1", "r2", "r4"}
        for field, expected in (
            ("clip_score", expected_clip),
            ("detector_score", expected_detector),
        ):
            assert field not in found["r4"]
            scores = [found[f"r{n}"][field] for n in range(3)]
            np.testing.assert_allclose(scores, expected, atol=2e-6)

    def check_dropped(found):
        ((name, source, reason),) = found
        assert (name, source) == ("r3", "web") and reason.startswith("not decoded: ")

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        result = pipeline | beam.Create(rows) | ScoreImages(path, detector[0], "", ["web"], 3)
        assert_that(result["rows"], check, "rows")
        assert_that(result[DROPPED], check_dropped, "dropped")


def test_a_detector_may_look_through_another_model(tiny, detector, rows, tmp_path):
    other = write_tiny_clip(tmp_path / "other.safetensors", seed=1)
    clip = rsclip_jax.load(other)
    (found,) = Scorer(other, detector[0], tiny[0])(rows[:1])
    z = unit(clip.encode_image([pixels_of(0)]))
    assert found["clip_score"] == pytest.approx(float(z[0] @ prompt_feature(clip)), abs=2e-6)
    z = unit(tiny[1].encode_image([pixels_of(0)]))
    expected = 1 / (1 + np.exp(-(z[0] @ detector[1] - 0.25)))
    assert found["detector_score"] == pytest.approx(expected, abs=2e-6)
    with pytest.raises(ValueError, match=r"tiny\.safetensors, and .*other\.safetensors has other"):
        Detector.read(detector[0]).check(clip.params, other)


def test_a_process_loads_a_model_once(monkeypatch):
    loaded = []
    gate = threading.Barrier(4)

    def load(path):
        loaded.append(path)
        time.sleep(0.1)  # in which the others come
        return object()

    def fetch(_):
        gate.wait()
        return models.shared_clip("somewhere")

    monkeypatch.setattr(loading, "load", load)
    models._load.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch, range(4)))) == 1
    assert loaded == ["somewhere"]
    models._load.cache_clear()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.55, 0.9, 1.0])
@pytest.mark.parametrize("levels", [7, 10**9])  # many ties, none
def test_the_best_share_is_counted_exactly(share, levels):
    values = np.random.default_rng(0).integers(0, levels, 100) / levels
    least = -(-fractions.Fraction(str(share)) * 100 // 1)  # 55 of 0.55, where floats make it 56
    kept = [value for value in values if (values > value).sum() < least]
    assert cutoff(values, share) == min(kept)
    np.testing.assert_array_equal(
        kept_by_quantiles({"x": values}, {"x": share}), np.isin(values, kept)
    )
    if levels > 100:
        assert len(kept) == least


# Figure 13 of arXiv 2306.11300: of 4,019,225 rows, how many are among the best by both scores.
FIGURE_13 = {
    (0.95, 0.95): 3_678_859,
    (0.9, 0.9): 3_348_317,
    (0.9, 0.8): 3_007_809,
    (0.8, 0.8): 2_718_164,
    (0.6, 0.6): 1_614_490,
}


def test_counts_behave_as_the_papers_where_scores_depend_at_the_low_end():
    """A Clayton copula with a parameter of 0.39 gives all five counts, to 0.3 % of the rows.

    No Gaussian copula does: the best, of correlation 0.33, misses by 1 %, for the correlation that
    gives the first count is 0.59, the last 0.27. Independent scores miss each by 1.2 to 4.2 %.
    """
    theta = 0.39
    u, t = qmc.Sobol(2, seed=0).random_base2(16).T
    v = (u**-theta * (t ** (-theta / (1 + theta)) - 1) + 1) ** (-1 / theta)
    x, y = norm.ppf(u), norm.ppf(t)
    missed = {}
    for name, other in (
        ("clayton", v),
        ("gauss", 0.33 * x + np.sqrt(1 - 0.33**2) * y),
        ("independent", t),
    ):
        # Any increasing functions of them: quantiles see ranks only.
        scores = {"clip_score": 0.1 + 0.2 * u, "detector_score": 1 / (1 + np.exp(-4 * other))}
        missed[name] = [
            kept_by_quantiles(scores, dict(zip(scores, shares, strict=True))).mean()
            - count / 4_019_225
            for shares, count in FIGURE_13.items()
        ]
    assert np.abs(missed["clayton"]).max() < 0.0035
    assert 0.009 < np.abs(missed["gauss"]).max() < 0.011
    assert max(missed["independent"]) < -0.012


def scored(count=50):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 20, (count, 2)) / 20
    return [
        new_row(id=f"r{n}", source="web", clip_score=one, detector_score=other)
        for n, (one, other) in enumerate(values.tolist())
    ]


def test_rows_below_either_quantile_go():
    rows = scored()
    shares = {"clip_score": 0.9, "detector_score": 0.8}
    others = [new_row(id="fmow", source="fmow")]
    columns = {name: sorted((row[name] for row in rows), reverse=True) for name in shares}
    # 45 and 40 rows stay by one alone: those that reach the 45th and the 40th.
    least = {
        "clip_score": columns["clip_score"][44],
        "detector_score": columns["detector_score"][39],
    }
    expected = {}
    for row in rows:
        if low := [name for name in shares if row[name] < least[name]]:
            expected[row["id"]] = f"low {' and '.join(low)}"
    assert len({why for why in expected.values()}) == 3

    def check(found):
        assert {name: update[DROPPED].split(":")[0] for name, update in found} == expected

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(
            pipeline | beam.Create([*rows, *others]) | QuantileFilter(shares, ["web"]), check
        )


def test_rows_without_scores_are_refused():
    for row in (new_row(id="bare", source="web"), scored(1)[0] | {"clip_score": float("nan")}):
        with pytest.raises(Exception, match=f"row '{row['id']}' has no clip_score"):
            with beam.Pipeline(runner="FnApiRunner") as pipeline:
                _ = pipeline | beam.Create([row]) | QuantileFilter({"clip_score": 0.9}, ["web"])
    with pytest.raises(ValueError, match="share 90 of clip_score"):
        QuantileFilter({"clip_score": 90}, ["web"])


def test_stages_depend_on_what_the_models_files_hold(tiny, detector, tmp_path):
    def fingerprint(model, path):
        return score_stages(model, ["web"], path)[0].fingerprint("above")

    first = fingerprint(tiny[0], detector[0])
    assert first == fingerprint(tiny[0], detector[0])
    changed = tmp_path / "detector.json"
    told = json.loads(open(detector[0], encoding="utf-8").read())
    changed.write_text(json.dumps(told))
    same_name = fingerprint(tiny[0], str(changed))
    changed.write_text(json.dumps(told | {"bias": 1.0}))
    assert fingerprint(tiny[0], str(changed)) != same_name
    model = write_tiny_clip(tmp_path / "tiny.safetensors")
    before = fingerprint(model, detector[0])
    write_tiny_clip(tmp_path / "tiny.safetensors", seed=2)
    assert fingerprint(model, detector[0]) != before
    with pytest.raises(FileNotFoundError, match="no model: nowhere"):
        score_stages("nowhere", ["web"])
    changed.write_text("[]")
    with pytest.raises(ValueError, match="is no detector"):
        score_stages(model, ["web"], str(changed))


def test_a_detector_is_fitted_on_seven_tenths_and_tested_on_two():
    rng = np.random.default_rng(0)
    z = {label: unit(rng.normal(0, 1, (100, 6)) + 1.2 * label) for label in (0, 1)}
    w, told = train_detector.fit(z)
    assert told["images"] == {"train": 140, "val": 20, "test": 40}
    test = np.concatenate([z[0][80:], z[1][80:]])
    logit = test @ (w[:-1, 1] - w[:-1, 0]) + w[-1, 1] - w[-1, 0]
    found = logit > 0
    assert told["specificity"] == 100 * np.mean(~found[:20])
    assert told["recall"] == 100 * np.mean(found[20:])
    assert told["accuracy"]["test"] == (told["recall"] + told["specificity"]) / 2
    assert 75 < told["accuracy"]["test"] < 100
    # What is tested was not fitted: other images there change nothing of the weights.
    swapped = {label: np.concatenate([rows[:80], rows[:79:-1]]) for label, rows in z.items()}
    np.testing.assert_array_equal(train_detector.fit(swapped)[0], w)


def test_the_command_writes_a_detector_of_prepared_data_sets(tiny, tmp_path, capsys):
    rng = np.random.default_rng(0)

    def record(name, colour, number):
        pixels = rng.integers(0, 120, (32, 32, 3), np.uint8)
        pixels[..., colour] += 120
        return {"id": f"{name}{number}", "image": png(pixels)}

    for name, colour, split in (("fields", 1, "train"), ("lakes", 2, "val"), ("faces", 0, "train")):
        records = [record(name, colour, number) for number in range(20)]
        write_dataset(str(tmp_path), name, {split: records})
    output = tmp_path / "detector.json"
    arguments = [f"--model={tiny[0]}", f"--data_dir={tmp_path}", "--negative=faces"]
    train_detector.main([*arguments, "--positive=fields, lakes:val", f"--output={output}"])
    printed = capsys.readouterr().out
    assert "test: 100.00 % of 12 images" in printed
    found = Detector.read(str(output))
    found.check(tiny[1].params, tiny[0])
    assert found.told["positive"] == ["fields", "lakes:val"]
    images = [np.full((32, 32, 3), 60, np.uint8) for _ in range(2)]
    images[0][..., 1], images[1][..., 0] = 180, 180
    green, red = found.probability(tiny[1].encode_image(images))
    assert green > 0.5 > red
    write_dataset(str(tmp_path), "few", {"train": [record("few", 1, n) for n in range(9)]})
    with pytest.raises(ValueError, match="few: 9 images, expected 10"):
        train_detector.main([*arguments, "--positive=few", f"--output={output}"])


def test_rs5m_scores_ranks_and_describes_before_it_splits(tiny, detector, tmp_path):
    model, path = tiny[0], detector[0]
    config = rs5m_config.get_config()
    (tmp_path / "airport").mkdir()
    (tmp_path / "airport" / "a.png").write_bytes(png(pixels_of(0)))
    config.sources.fmow.path = str(tmp_path)
    config.scores.model, config.scores.detector = model, str(path)
    config.captions.first = config.captions.second = model
    config.geometa = {"fmow": "fmow"}
    config.places = True
    names = [stage.name for stage in rs5m.stages_of(config)]
    assert names[-6:] == ["scores", "quantiles", "caption_rank", "geometa", "places", "split"]
    filtered = next(s for s in rs5m.stages_of(config) if s.name == "quantiles")
    assert filtered.column == "VLM+detector removed"
    for full in (False, True):
        config.geometa_full = full
        (geometa,) = (s for s in rs5m.stages_of(config) if s.name == "geometa")
        assert geometa.transform.full is full
