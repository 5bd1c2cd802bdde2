"""Prompts, classifier weights and accuracies against the published list and plain arithmetic."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rsclip_jax import evaluators
from rsclip_jax.data.records import write_dataset
from rsclip_jax.evaluators import prompts
from rsclip_jax.evaluators.zero_shot import (
    accuracies,
    classifier_weights,
    confusion,
    wilson,
)

SHARED = Path(__file__).parents[2] / "shared"


def test_georsclip_prompts_follow_the_papers_rule():
    texts = prompts.templates("georsclip")
    assert len(texts) == len(set(texts)) == 105
    assert texts[0] == "a remote sensing image of many {}."
    assert texts[4] == "a remote sensing image of a hard to see {}."
    assert texts[35] == "an aerial image of many {}."
    assert texts[40] == "a low resolution aerial image of the {}."
    assert texts[69] == "an aerial image of a cool {}."
    assert texts[-1] == "a satellite image of a cool {}."


def test_georsclip_prompts_equal_the_published_list():
    path = SHARED / "data" / "class_names.json"
    if not path.exists():
        pytest.skip(f"{path} with the published prompts is not here")
    assert (
        prompts.PROTOCOLS["georsclip"]["templates"]
        == json.loads(path.read_text())["templates"]["geo_rsclip_105"]
    )


def test_protocols_say_whether_prompts_are_scaled_before_their_mean():
    scaled = {name: protocol["normalize_each"] for name, protocol in prompts.PROTOCOLS.items()}
    assert not scaled.pop("georsclip")
    assert set(scaled) == {"skyscript", "clip_eurosat", "clip_resisc45", "thermal", "plain"}
    assert all(scaled.values())
    assert len(prompts.templates("clip_resisc45")) == 18
    thermal = prompts.templates("thermal")
    assert len(set(thermal)) == 3
    assert all("infrared" in line or "thermal" in line for line in thermal)
    assert "own" in prompts.PROTOCOLS["thermal"]["source"]  # no published ones


def test_template_lists_are_found_by_name_or_given():
    assert prompts.templates("skyscript") == (
        "a satellite photo of {}.",
        "a satellite image of {}",
    )
    assert prompts.templates(["{} from above"]) == ("{} from above",)
    with pytest.raises(ValueError, match="expected one of georsclip, skyscript, clip_eurosat"):
        prompts.templates("geo")
    with pytest.raises(ValueError, match="every template needs"):
        prompts.templates(("a satellite photo",))


class Words:
    """Embeds a text by hand: [2] looked up by its prompt."""

    def __init__(self, **other):
        self.table = {"a pond": [3, 0], "the pond": [0, 1], "a road": [1, 1], "the road": [0, 2]}
        self.table |= other

    def encode_text(self, texts, normalize=True):
        z = np.array([self.table[text] for text in texts], np.float32)
        return z / np.linalg.norm(z, axis=1, keepdims=True) if normalize else z


@pytest.mark.parametrize(
    "normalize_each, expected",
    [
        (False, [[3 / 10**0.5, 1 / 10**0.5], [1 / 10**0.5, 3 / 10**0.5]]),
        (True, [[0.5**0.5, 0.5**0.5], [0.3826834, 0.9238795]]),  # the bisectors: 45, 67.5 degrees
    ],
)
def test_weights_average_prompts_before_or_after_scaling_them(normalize_each, expected):
    weights = classifier_weights(Words(), ["pond", "road"], ("a {}", "the {}"), normalize_each)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_weights_take_an_encoder_without_the_choice():
    class Plain:
        def encode_text(self, texts):
            return Words().encode_text(texts, normalize=False)

    expected = classifier_weights(Words(), ["pond"], ("a {}", "the {}"))
    np.testing.assert_array_equal(
        classifier_weights(Plain(), ["pond"], ("a {}", "the {}")), expected
    )


def test_weights_of_nothing_or_of_nan_are_refused():
    with pytest.raises(ValueError, match="class_names is empty"):
        classifier_weights(Words(), [], ("a {}",))
    with pytest.raises(ValueError, match="diverged"):
        classifier_weights(Words(**{"a pond": [np.nan, 1]}), ["pond"], ("a {}",))


def test_accuracies_of_a_hand_made_case():
    logits = np.zeros((5, 7))
    labels = np.array([0, 0, 0, 1, 2])
    logits[0, 0] = 1.0  # right
    logits[1, 0], logits[1, 1:4] = 1.0, 2.0  # fourth
    logits[2, 0], logits[2, 1:6] = 1.0, 2.0  # sixth
    logits[3, 1] = 1.0  # right
    # image 4: all equal, so class 2 counts as the last of seven
    assert accuracies(logits, labels) == pytest.approx(
        {"top1": 40.0, "top5": 60.0, "mean_class": 100 * (1 / 3 + 1 + 0) / 3}
    )
    assert set(accuracies(logits[:, :5], labels)) == {"top1", "mean_class"}
    with pytest.raises(ValueError, match="NaN"):
        accuracies(logits * np.nan, labels)


def test_confusion_counts_true_by_predicted_class_and_ties_as_wrong():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [1, 1, 0], [0, 0, 5]])
    found = confusion(logits, np.array([0, 1, 1, 0]))
    np.testing.assert_array_equal(found, [[1, 0, 1], [1, 1, 0], [0, 0, 0]])
    right = np.trace(found) / found.sum()
    assert accuracies(logits, [0, 1, 1, 0])["top1"] == pytest.approx(100 * right)


def test_wilson_interval_of_textbook_cases():
    assert wilson(50, 100) == pytest.approx([40.38, 59.62], abs=0.01)
    assert wilson(0, 20) == pytest.approx([0, 16.11], abs=0.01)


class GreyEncoder:
    """Stands in for Encoder: bright images lie at [1, 0], dark ones at [0, 1]."""

    image_size, batch_size, embed_dim = 8, 4, 2

    def image_stream(self, params, batches, field="image"):
        for batch in batches:
            bright = batch.mean((1, 2, 3)) > 127
            yield np.stack([bright, ~bright], 1).astype(np.float32)

    def text(self, params, ids, normalize=True):
        assert not normalize  # the protocol decides what is scaled
        return ids.astype(np.float32)


def grey_tokenizer(texts):
    return np.array([[2, 0] if "bright sand" in text else [0, 2] for text in texts])


def test_evaluator_reads_labels_and_writes_prompts(tmp_path, monkeypatch):
    def example(k, grey, label):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (grey,) * 3).save(buffer, "PNG")
        return {"id": str(k), "image": buffer.getvalue(), "label": label}

    greys = [(250, "Bright_Sand"), (240, "Bright_Sand"), (20, "Bright_Sand"), (10, "deep_water")]
    examples = [example(k, *pair) for k, pair in enumerate(greys)]
    write_dataset(tmp_path, "greys", {"test": examples, "bare": [example(9, 9, "")]})
    monkeypatch.setattr(
        "rsclip_jax.evaluators.texts.make_tokenizer", lambda spec, length: grey_tokenizer
    )
    config = ConfigDict(
        {
            "tokenizer": "clip",
            "input": {"data_dir": str(tmp_path), "lengths": {"text": 77}},
            "evals": {"z": {"type": "zero_shot", "data": "greys", "split": "test"}},
        }
    )
    evaluator = evaluators.build(config, GreyEncoder())["z"]
    metrics = dict(evaluator.run({}))
    details = evaluator.details()
    assert details["size"] == 4
    assert details["class_names"] == ["bright sand", "deep water"]
    assert details["confusion"] == [[2, 1], [0, 1]]
    assert evaluator.protocol == "georsclip" and "105 prompts" in evaluator.about()[1]
    assert details["intervals"]["top1"] == pytest.approx(wilson(75, 4))
    evaluator.picture(tmp_path / "new" / "c.png")
    drawn = np.asarray(Image.open(tmp_path / "new" / "c.png").convert("RGB"))
    assert (drawn == (42, 157, 74)).all(-1).sum() > 1000  # all of the deep water is right
    assert metrics == pytest.approx({"top1": 75.0, "mean_class": 100 * (2 / 3 + 1) / 2})
    config.evals.z.unlock().update(class_list="aid", class_names=("a", "b"))
    with pytest.raises(ValueError, match="class_list='aid' and class_names: expected one of them"):
        evaluators.build(config, GreyEncoder())
    config.evals.z.class_names = ()
    with pytest.raises(ValueError, match="no class for the labels 'Bright_Sand'"):
        evaluators.build(config, GreyEncoder())
    config.evals.z.class_list = "labels"
    config.evals.z.split = "bare"
    with pytest.raises(ValueError, match="greys/bare have no labels"):
        evaluators.build(config, GreyEncoder())
    config.evals.z.unlock().protocol = "geo"
    with pytest.raises(ValueError, match="expected one of georsclip"):
        evaluators.build(config, GreyEncoder())


def test_infrared_images_are_classified_where_asked(tmp_path, monkeypatch):
    class FieldEncoder(GreyEncoder):
        def image_stream(self, params, batches, field="image"):
            assert field == "ir"
            return super().image_stream(params, batches, field)

    def grey(value):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (value,) * 3).save(buffer, "PNG")
        return buffer.getvalue()

    # RGB and infrared disagree: of four sands only two are bright in infrared.
    rows = [
        {"id": f"{k}", "image": grey(250), "ir": grey(ir), "label": label}
        for k, (ir, label) in enumerate([(250, "bright sand")] * 2 + [(9, "bright sand")] * 2)
    ]
    rows.append({"id": "water", "image": grey(250), "ir": grey(9), "label": "deep water"})
    late = [rows[0], {"id": "blind", "image": grey(9), "label": "deep water"}]
    splits = {"test": rows, "late": [{**row, "id": f"late {row['id']}"} for row in late]}
    splits["none"] = [{**late[1], "id": "none"}]
    write_dataset(tmp_path, "night", splits)
    prompted = []

    def tokenizer(texts):
        prompted.extend(texts)
        return grey_tokenizer(texts)

    monkeypatch.setattr("rsclip_jax.evaluators.texts.make_tokenizer", lambda spec, n: tokenizer)

    def evaluator(**fields):
        fields = {"type": "zero_shot", "data": "night", "split": "test", "modality": "ir", **fields}
        input_ = {"data_dir": str(tmp_path), "lengths": {"text": 77}}
        config = ConfigDict({"tokenizer": "clip", "input": input_, "evals": {"z": fields}})
        return evaluators.build(config, FieldEncoder())["z"]

    one = evaluator(protocol="thermal")
    assert dict(one.run({})) == pytest.approx({"top1": 60, "mean_class": 75})
    assert len(prompted) == 6 and "an infrared aerial image of deep water." in prompted
    details = one.details()
    assert one.about()[0] == "night/test: 5 infrared images, 2 classes"
    assert details["confusion"] == [[2, 2], [0, 1]]
    one.picture(tmp_path / "z.png")
    assert (tmp_path / "z.png").exists()
    late = evaluator(split="late")
    assert dict(late.run({}))["top1"] == 100  # of the one that has an infrared image
    assert late.about()[0] == (
        "night/late: 1 infrared images (left out: 1 records without one), 1 classes"
    )
    with pytest.raises(ValueError, match="none of the first 1 records of night/none has an infra"):
        evaluator(split="none")
    with pytest.raises(ValueError, match="modality='thermal': expected one of image, ir"):
        evaluator(modality="thermal")
