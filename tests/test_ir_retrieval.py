"""FusionRS's four directions, on images whose embeddings are their colours."""

import io

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

    ir = image

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
    details = evaluator.details()
    assert details["data"] == ["pairs/same: 2 pairs, 2 captions, 1 of them distinct"]
    assert details["size"] == 2
    assert set(details["intervals"]) == set(metrics)


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


def test_caption_keys_forget_form_but_not_words():
    assert caption_key("  A Red\tfield. ") == caption_key("a red field") == "a red field"
    assert caption_key("ﬁeld １") == caption_key("field 1")
    assert caption_key("two fields") != caption_key("too fields")
