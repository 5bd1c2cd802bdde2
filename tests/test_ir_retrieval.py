"""FusionRS's four directions, on images whose embeddings are their colours."""

import io
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rsclip_jax import evaluators
from rsclip_jax.data.records import write_dataset
from rsclip_jax.evaluators.ir_retrieval import caption_key

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (200, 200, 20)]
WORDS = ("red", "green", "blue", "yellow")


class ColourEncoder:
    """Embeds what it sees as the mean colour, and a text as the colour of its id."""

    image_size, batch_size, embed_dim = 8, 3, 3

    def image(self, params, images, normalize=True):
        z = images.astype(float).mean((1, 2)) - 90
        return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)

    def image_stream(self, params, batches, field="image"):
        return (self.image(params, batch) for batch in batches)

    def text(self, params, ids, normalize=True):
        return self.image(params, np.array(COLOURS)[ids[:, 0]][:, None, None])


def tokenizer(texts):
    return np.array([[next(k for k, word in enumerate(WORDS) if word in t.lower())] for t in texts])


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def example(k, rgb, ir, caption):
    return {
        "id": str(k),
        "image": png(COLOURS[rgb]),
        "ir": png(COLOURS[ir]) if ir is not None else b"",
        "captions": [caption] if caption else [],
        "ir_captions": [f"grey {WORDS[rgb]}"],
        "label": "field",
    }


@pytest.fixture
def config(tmp_path, monkeypatch):
    rows = [
        example(0, 0, 0, "A red field."),
        example(1, 1, 2, "a green field"),  # its infrared looks like the blue image
        example(2, 2, 1, "a blue  field"),  # and the other way round
        example(3, 3, 3, "a yellow field"),
    ]
    data = {
        "test": rows,
        # Two records with one caption up to punctuation: each may find the other's.
        "same": [example(0, 0, 0, "A red field."), example(1, 0, 1, "a red field")],
        "bare": [example(0, 0, 0, "red"), example(1, 1, None, "green")],
        "mute": [example(0, 0, 0, "")],
    }
    examples = {
        split: [{**row, "id": f"{split}{row['id']}"} for row in rows]
        for split, rows in data.items()
    }
    write_dataset(tmp_path, "pairs", examples)
    monkeypatch.setattr(
        "rsclip_jax.evaluators.texts.make_tokenizer", lambda spec, length: tokenizer
    )
    lengths = {"text": 77, "text_ir": 77}
    return ConfigDict(
        {
            "tokenizer": "clip",
            "input": {"data_dir": str(tmp_path), "lengths": lengths},
            "evals": {"f": {"type": "ir_retrieval", "data": "pairs", "split": "test"}},
        }
    )


def run(config, **fields):
    config.evals.f.unlock().update(fields)
    evaluator = evaluators.build(config, ColourEncoder())["f"]
    return dict(evaluator.run({})), evaluator


def test_four_directions_and_their_means(config):
    metrics, _ = run(config)
    directions = ("ir2t", "t2ir", "rgb2ir", "ir2rgb")
    assert set(metrics) == {
        *(f"{name}_R@{k}" for name in directions for k in (1, 5, 10)),
        *("text_mean", "pair_mean", "mean_recall"),
    }
    # Half of the infrared images look like another's RGB image, and so unlike their own caption.
    for name in directions:
        assert [metrics[f"{name}_R@{k}"] for k in (1, 5, 10)] == [50, 100, 100]
    assert metrics["text_mean"] == metrics["pair_mean"] == pytest.approx(250 / 3)
    assert metrics["mean_recall"] == pytest.approx(250 / 3)


def test_equal_captions_are_right_for_all_their_images_but_pairs_are_not(config):
    metrics, evaluator = run(config, split="same")
    assert metrics["t2ir_R@1"] == 100  # the red infrared image is right for both captions
    assert metrics["ir2t_R@1"] == 100
    assert metrics["rgb2ir_R@1"] == 50  # two red images, of which one has a green infrared one
    assert metrics["ir2rgb_R@1"] == 50  # both tie for the red infrared one
    assert metrics["worst_ir2rgb_R@1"] == 0
    details = evaluator.details()
    about = evaluator.about()
    assert about[0] == "pairs/same: 2 pairs, 2 captions, 1 of them distinct"
    assert "equal captions" in about[1] and "such as those of repeated captions" in about[2]
    assert details["size"] == 2
    assert set(details["intervals"]) == {name for name in metrics if "worst_" not in name}


def test_other_texts_or_none(config):
    metrics, _ = run(config, texts="ir_caption")
    assert metrics["t2ir_R@1"] == 50
    metrics, _ = run(config, texts="none")
    assert set(metrics) == {
        *(f"{name}_R@{k}" for name in ("rgb2ir", "ir2rgb") for k in (1, 5, 10)),
        *("pair_mean", "mean_recall"),
    }
    assert metrics["mean_recall"] == metrics["pair_mean"]


def test_records_without_infrared_or_caption_are_named(config):
    with pytest.raises(ValueError, match="'bare1' of pairs/bare has no infrared image"):
        run(config, split="bare")
    with pytest.raises(ValueError, match="'mute0' of pairs/mute has no caption"):
        run(config, split="mute")
    with pytest.raises(ValueError, match="texts='long': expected one of caption, ir_caption, none"):
        run(config, texts="long")


class TableEncoder:
    """Looks embeddings up: an image's colour and a text's id say which row of which table."""

    image_size, batch_size, embed_dim = 8, 16, 6

    def __init__(self):
        rng = np.random.default_rng(3)
        meaning = rng.normal(size=(2, 50, 6))  # of the scenes of "val" and "test"
        # Infrared shows more of a test scene, RGB more of a validation scene: the best alphas
        # differ.
        noise = rng.normal(size=(2, 2, 50, 6)) * np.array([[0.7, 1.4], [2.0, 0.5]])[..., None, None]
        self.z = {"image": meaning + noise[:, 0], "ir": meaning + noise[:, 1], "text": meaning}

    def embed(self, field, split, number):
        z = self.z[field][split, number]
        return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)

    def image(self, params, images, field="image"):
        split, number = images[:, 0, 0, 0] // 100, images[:, 0, 0, 1]
        assert (images[:, 0, 0, 2] == 200 * (field == "ir")).all()
        return self.embed(field, split, number)

    def image_stream(self, params, batches, field="image"):
        return (self.image(params, batch, field) for batch in batches)

    def text(self, params, ids):
        return self.embed("text", ids[:, 0], ids[:, 1])


def numbered_tokenizer(texts):
    return np.array([[int(word) for word in text.strip(".").split()[-2:]] for text in texts])


@pytest.fixture
def fusion(config, monkeypatch):
    """A data set of 36 and 40 scenes, some of which share a caption up to a full stop."""

    def scenes(split, count):
        return [
            {
                "id": f"{split} {k}",
                "image": png((100 * split, k, 0)),
                "ir": png((100 * split, k, 200)),
                "captions": [f"scene {split} {k - k % 12 // 11}{'.' * (k % 2)}"],
            }
            for k in range(count)
        ]

    write_dataset(config.input.data_dir, "scenes", {"val": scenes(0, 36), "test": scenes(1, 40)})
    monkeypatch.setattr(
        "rsclip_jax.evaluators.texts.make_tokenizer", lambda spec, length: numbered_tokenizer
    )
    config.evals.f.data = "scenes"
    return config


def recalls(encoder, split, alpha):
    """Compute R@1, 5, 10 of fused images to texts and back with all similarities at once."""
    number = np.arange(36 + 4 * split)
    words = number - number % 12 // 11
    zrgb, zir = (encoder.embed(field, split, number).astype(float) for field in ("image", "ir"))
    z = alpha * zrgb + (1 - alpha) * zir
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similarity = z @ encoder.embed("text", split, words).astype(float).T
    right = words[:, None] == words
    found = []
    for sims, own in ((similarity, right), (similarity.T, right.T)):
        best = np.where(own, sims, -2).max(axis=1, keepdims=True)
        rank = ((sims >= best) & ~own).sum(axis=1)
        found.append([100 * np.mean(rank < k) for k in (1, 5, 10)])
    return np.array(found)


def test_late_fusion_is_chosen_on_validation_and_reported_on_test(fusion):
    encoder, alphas = TableEncoder(), (0, 0.25, 0.5, 0.75, 1)
    plain = dict(evaluators.build(fusion, encoder)["f"].run({}))
    fusion.evals.f.unlock().fusion_split = "val"
    evaluator = evaluators.build(fusion, encoder)["f"]
    metrics = dict(evaluator.run({}))
    assert {name: metrics[name] for name in plain} == plain  # the published ones stay as they are
    on_val = {a: recalls(encoder, 0, a).mean() for a in alphas}
    on_test = {a: recalls(encoder, 1, a).mean() for a in alphas}
    best = max(on_val, key=on_val.get)
    assert best not in (0, 1, max(on_test, key=on_test.get))  # else it would show nothing
    assert metrics["fused_alpha"] == best

    def values(name):
        return [[metrics[f"{n}_R@{k}"] for k in (1, 5, 10)] for n in (f"{name}2t", f"t2{name}")]

    np.testing.assert_allclose(values("fused"), recalls(encoder, 1, best))
    np.testing.assert_allclose(values("rgb"), recalls(encoder, 1, 1))
    np.testing.assert_allclose(values("ir"), recalls(encoder, 1, 0))
    assert metrics["fused_mean"] == pytest.approx(on_test[best])
    assert metrics["rgb_mean"] == pytest.approx(on_test[1])
    assert len(metrics) == len(plain) + 2 * 6 + 3

    details = evaluator.details()
    assert set(details["intervals"]) == set(metrics) - {"fused_alpha"}
    low, high = details["intervals"]["fused_mean"]
    assert low < metrics["fused_mean"] < high
    assert details["fusion"]["alpha"] == best and details["fusion"]["chosen_on"] == "scenes/val"
    assert details["fusion"]["mean_recall"] == pytest.approx({f"{a:g}": on_val[a] for a in alphas})
    said = " ".join(evaluator.about())
    assert f"a = {best:g}, chosen on scenes/val (36 pairs)" in said
    assert f"0.25: {on_val[0.25]:.2f}" in said and "published no number" in said


def test_equal_alphas_take_the_one_with_least_rgb(fusion):
    encoder = TableEncoder()
    encoder.z["image"] = encoder.z["ir"]
    fusion.evals.f.unlock().fusion_split = "val"
    assert dict(evaluators.build(fusion, encoder)["f"].run({}))["fused_alpha"] == 0


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"fusion_split": "test"}, "'test', split='test': the fusion would be chosen on records"),
        ({"fusion_split": "test[:50%]"}, "give another split of 'pairs'"),
        ({"fusion_split": "same", "texts": "none"}, "fusion_split='same' with texts='none'"),
        ({"fusion_split": "vall"}, "no split 'vall'; it has bare, mute, same, test"),
        ({"fusion_split": "mute"}, "'mute0' of pairs/mute has no caption"),
    ],
)
def test_fusions_that_prove_nothing_are_refused(config, fields, message):
    config.evals.f.unlock().update(fields)
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluators.build(config, ColourEncoder())  # before the training, not within
    run(config, split="test[:50%]", texts="caption", fusion_split="test[50%:]")


def test_pairs_need_no_texts_and_no_labels(config):
    rows = [
        {"id": str(k), "image": png(COLOURS[rgb]), "ir": png(COLOURS[ir])}
        for k, (rgb, ir) in enumerate([(0, 0), (1, 2), (2, 1), (3, 3)])
    ]
    write_dataset(config.input.data_dir, "cart", {"test": rows})
    metrics, evaluator = run(config, data="cart", texts="none")
    assert metrics["mean_recall"] == pytest.approx((50 + 50 + 4 * 100) / 6)
    pairs, protocol = evaluator.about()  # nothing of ties, of which there are none
    assert pairs == "cart/test: 4 pairs"
    assert "searched among all pairs" in protocol and "caption" not in protocol
    assert set(evaluator.details()["intervals"]) == set(metrics)
    write_dataset(config.input.data_dir, "twins", {"test": [rows[0], {**rows[0], "id": "9"}]})
    metrics, evaluator = run(config, data="twins", texts="none")
    assert metrics["worst_pair_mean"] < metrics["pair_mean"]
    ties = evaluator.about()[2]
    assert "named worst" in ties and "caption" not in ties


def test_picture_frames_partners_green_and_others_red(config, tmp_path):
    built = evaluators.build(config, ColourEncoder())
    with pytest.raises(RuntimeError, match="call run"):
        evaluators.draw(built, tmp_path)
    dict(built["f"].run({}))
    drawn = evaluators.draw(built, tmp_path / "eval")
    pixels = np.asarray(Image.open(drawn["f"]).convert("RGB"))
    frames = [(pixels == colour).all(-1).sum() for colour in ((42, 157, 74), (210, 59, 59))]
    # Four queries of each direction, and each is shown its partner among four answers.
    border = 132**2 - 122**2
    assert 8 * border < frames[0] < 9 * border
    assert 24 * border < frames[1] < 25 * border


def test_what_training_sees_as_infrared_does_not_change_the_evaluation(config):
    expected, _ = run(config)
    config.input.unlock().update(ir_view="rgb_duplicate", ir_text_source="mixed")
    assert run(config)[0] == expected


def test_caption_keys_forget_form_but_not_words():
    assert caption_key("  A Red\tfield. ") == caption_key("a red field") == "a red field"
    assert caption_key("ﬁeld １") == caption_key("field 1")
    assert caption_key("two fields") != caption_key("too fields")
