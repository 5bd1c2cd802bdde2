"""Retrieval metrics against golden numbers and a float64 sort; the evaluator on made records."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rsclip_jax import evaluators
from rsclip_jax.data.records import write_dataset
from rsclip_jax.evaluators import recall
from rsclip_jax.evaluators.pictures import _hits_and_misses, save_retrieval_picture
from rsclip_jax.evaluators.retrieval import retrieval_metrics, retrieval_ranks
from rsclip_jax.evaluators.texts import caption_groups

GOLDEN = Path(__file__).parent / "data" / "golden" / "retrieval.json"


def made(images=60, texts_each=3, width=16, noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    zimg = rng.normal(size=(images, width))
    index = rng.permutation(np.repeat(np.arange(images), texts_each))
    ztxt = zimg[index] + noise * rng.normal(size=(len(index), width))
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt)]
    return *unit, index


def sorted_recall(zimg, ztxt, right, k):
    """Recall at K in percent of both directions by a full sort; `right` is bool [N, M]."""
    similarity = zimg.astype(np.float64) @ ztxt.astype(np.float64).T
    result = []
    for scores, hits in ((similarity, right), (similarity.T, right.T)):
        order = np.argsort(-scores, axis=1)[:, :k]
        result.append(100 * np.take_along_axis(hits, order, axis=1).any(axis=1).mean())
    return result


def test_metrics_equal_the_golden_file():
    golden = json.loads(GOLDEN.read_text())
    metrics = retrieval_metrics(
        golden["image_embeddings"], golden["text_embeddings"], golden["text_image_index"]
    )
    names = {"i2t": "image_to_text", "t2i": "text_to_image"}
    for k in (1, 5, 10):
        for short, long in names.items():
            expected = golden["metrics"][f"{long}_R@{k}"]
            assert metrics[f"{short}_R@{k}"] == pytest.approx(expected, abs=1e-4)
    assert metrics["mean_recall"] == pytest.approx(golden["metrics"]["mean_recall"], abs=1e-4)
    assert list(metrics) == [
        *("i2t_R@1", "t2i_R@1", "i2t_R@5", "t2i_R@5", "i2t_R@10", "t2i_R@10", "mean_recall")
    ]


@pytest.mark.parametrize("image_block, text_block", [(1024, 4096), (7, 11), (60, 45), (1, 180)])
def test_blocks_of_any_size_give_what_a_full_sort_gives(monkeypatch, image_block, text_block):
    monkeypatch.setattr(recall, "ROW_BLOCK", image_block)
    monkeypatch.setattr(recall, "COLUMN_BLOCK", text_block)
    monkeypatch.setattr(recall, "PAIR_BLOCK", 13)
    zimg, ztxt, index = made()
    metrics = retrieval_metrics(zimg, ztxt, index, ks=(1, 3, 20))
    right = index == np.arange(60)[:, None]
    for k in (1, 3, 20):
        expected = sorted_recall(zimg, ztxt, right, k)
        assert [metrics[f"i2t_R@{k}"], metrics[f"t2i_R@{k}"]] == pytest.approx(expected)
        assert 2 < expected[0] < 98 and 2 < expected[1] < 98


def test_more_images_than_a_byte_can_count_are_counted():
    # 600 images all ahead of the right one in one block: a sum of bytes would wrap to 600 - 512.
    zimg = np.tile([[1.0, 0.0]], (601, 1))
    zimg[0] = [0.0, 1.0]
    ztxt = np.tile([[1.0, 0.0]], (601, 1))
    ranks = retrieval_ranks(zimg, ztxt, np.arange(601))
    assert ranks.columns.wrong.tolist() == [600] + [0] * 600
    assert ranks.columns.tied.tolist() == [0] + [599] * 600
    worst = ranks.worst_case((100, 599, 601))
    assert worst["worst_t2i_R@100"] == worst["worst_t2i_R@599"] == 0
    assert worst["worst_t2i_R@601"] == 100


def test_a_tie_counts_as_chance_and_as_wrong_in_the_worst_case():
    zimg, ztxt = np.eye(2)[[0, 0, 1]], np.eye(2)[[0, 0, 1]]
    metrics = retrieval_metrics(zimg, ztxt, np.arange(3), ks=(1, 2))
    assert metrics["i2t_R@1"] == metrics["t2i_R@1"] == pytest.approx(200 / 3)
    assert metrics["i2t_R@2"] == metrics["t2i_R@2"] == 100
    worst = retrieval_ranks(zimg, ztxt, np.arange(3)).worst_case((1, 2))
    assert worst["worst_i2t_R@1"] == worst["worst_t2i_R@1"] == pytest.approx(100 / 3)
    assert worst["worst_i2t_R@2"] == 100


def test_embeddings_collapsed_up_to_rounding_score_chance():
    # Each pair is 2.5e-7 more similar than the others: float32 shows it, and it means nothing.
    z = np.concatenate([np.ones((40, 1)), 5e-4 * np.eye(40)], axis=1)
    found = retrieval_metrics(z, z, np.arange(40))
    for k in (1, 5, 10):
        assert found[f"i2t_R@{k}"] == found[f"t2i_R@{k}"] == pytest.approx(100 * k / 40)
    assert set(retrieval_ranks(z, z, np.arange(40)).worst_case().values()) == {0.0}


def test_equal_texts_of_other_images_are_wrong_unless_grouped():
    zimg = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    captions = ["Some  trees", "some trees", "a harbour"]
    ztxt = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    own = retrieval_metrics(zimg, ztxt, np.arange(3), ks=(1,))
    # Texts 0 and 1 are one: image 1's text finds image 0, and the two texts tie for both images.
    assert own["t2i_R@1"] == pytest.approx(200 / 3)
    assert own["i2t_R@1"] == pytest.approx(200 / 3)
    groups = caption_groups(captions)
    assert groups.tolist() == [0, 0, 1]
    assert retrieval_metrics(zimg, ztxt, np.arange(3), ks=(1,), text_groups=groups) == {
        "i2t_R@1": 100,
        "t2i_R@1": 100,
        "mean_recall": 100,
    }


def test_grouped_texts_equal_a_full_sort_of_the_distinct_ones():
    zimg, ztxt, index = made(seed=3)
    groups = np.random.default_rng(1).integers(0, 70, len(index))
    distinct = np.unique(groups)
    ztxt = np.stack([ztxt[np.flatnonzero(groups == g)[0]] for g in groups])
    kept = np.stack([ztxt[np.flatnonzero(groups == g)[0]] for g in distinct])
    right = np.array([[np.any(index[groups == g] == i) for g in distinct] for i in range(60)])
    metrics = retrieval_metrics(zimg, ztxt, index, ks=(4,), text_groups=groups)
    expected = sorted_recall(zimg, kept, right, 4)
    assert [metrics["i2t_R@4"], metrics["t2i_R@4"]] == pytest.approx(expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i, t, x: (i, t, np.where(x == 4, 5, x)), "1 of 60 images have no text"),
        (lambda i, t, x: (i, t, np.where(x == 4, 60, x)), "3 texts have no image"),
        (lambda i, t, x: (np.where(i > 0.6, np.nan, i), t, x), "image_embeddings: .* NaN"),
        (lambda i, t, x: (i, t[:-1], x), "one integer for each of the 179 texts"),
        (lambda i, t, x: (i, t[:, :-1], x), "same width"),
        (lambda i, t, x: (i, t, x.astype(float)), "float64"),
        (lambda i, t, x: (i[:0], t, x), "non-empty"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(*change(*made()))


# The evaluator: images of one colour, captions that name it, an encoder that reads both.

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


class ColourEncoder:
    """Stands in for Encoder: an image's embedding is its colour, a text's the colour it names."""

    image_size, batch_size, embed_dim = 8, 2, 3

    def __init__(self):
        self.images_seen = 0

    def image_stream(self, params, batches, field="image"):
        for batch in batches:
            self.images_seen += len(batch)
            z = batch.mean((1, 2)) + 1
            yield z / np.linalg.norm(z, axis=1, keepdims=True)

    def text(self, params, ids, normalize=True):
        z = np.array([COLOURS[list(COLOURS)[i]] for i in ids[:, 0]], np.float32) + 1
        return z / np.linalg.norm(z, axis=1, keepdims=True)


def colour_tokenizer(texts):
    return np.array([[next(i for i, c in enumerate(COLOURS) if c in text)] for text in texts])


colour_tokenizer.lengths = lambda texts: np.array([len(text.split()) // 3 for text in texts])


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def config(tmp_path, monkeypatch):
    examples = [
        {"id": name, "image": png(colour), "captions": [f"a {name} field", f"much {name}"]}
        for name, colour in COLOURS.items()
    ]
    examples[0]["long_captions"] = ["a red field. it is very red."]
    bare = [{"id": "bare", "image": png("red"), "label": "field"}]
    twins = [{**examples[k], "id": f"twin{k}"} for k in (0, 0, 1)]
    twins[1] = {**twins[1], "id": "other"}
    write_dataset(tmp_path, "colours", {"val": examples, "bare": bare, "twins": twins})
    monkeypatch.setattr(
        "rsclip_jax.evaluators.texts.make_tokenizer", lambda spec, length: colour_tokenizer
    )
    return ConfigDict(
        {
            "tokenizer": "clip",
            "input": {
                "data_dir": str(tmp_path),
                "lengths": {"text": 77, "text_long": 248},
                "long_caption": "auto",
            },
            "evals": {"r": {"type": "retrieval", "data": "colours", "split": "val"}},
        }
    )


def test_evaluator_yields_every_kind_of_text_and_protocol(config):
    metrics = dict(evaluators.build(config, ColourEncoder())["r"].run({}))
    assert [name for name in metrics if name.endswith("t2i_R@1")] == [
        *("t2i_R@1", "multi_t2i_R@1", "long_t2i_R@1", "long_multi_t2i_R@1")
    ]
    assert set(metrics.values()) == {100.0}


def test_evaluator_sees_wrong_answers(config, monkeypatch):
    monkeypatch.setitem(COLOURS, "blue", (0, 255, 0))  # texts that say blue find the green image
    metrics = dict(evaluators.build(config, ColourEncoder())["r"].run({}))
    assert metrics["t2i_R@1"] == 75.0


def test_evaluator_takes_equal_captions_for_one_in_the_multi_protocol(config):
    config.evals.r.split = "twins"  # two of three images are alike, captions too
    metrics = dict(evaluators.build(config, ColourEncoder())["r"].run({}))
    assert metrics["t2i_R@1"] == pytest.approx(200 / 3)
    assert metrics["worst_t2i_R@1"] == pytest.approx(100 / 3)
    assert not any(name.startswith("multi_worst") for name in metrics)
    assert metrics["multi_t2i_R@1"] == metrics["multi_i2t_R@1"] == 100


def test_skyscript_prefixes_captions_and_merges_those_that_are_exactly_equal(config):
    seen = []

    class Encoder(ColourEncoder):
        def text(self, params, ids, normalize=True):
            seen.append(len(ids))
            return super().text(params, ids, normalize)

    config.evals.r = {"type": "retrieval", "data": "colours", "split": "twins"}
    config.evals.r.texts, config.evals.r.protocols = ("short",), ("any", "skyscript")
    evaluator = evaluators.build(config, Encoder())["r"]
    metrics = dict(evaluator.run({}))
    assert metrics["t2i_R@1"] == pytest.approx(200 / 3)
    assert metrics["skyscript_t2i_R@1"] == metrics["skyscript_t2i_mean"] == 100
    assert metrics["skyscript_i2t_mean"] == 100
    assert evaluator._texts["short", "a satellite image. "].captions[0] == (
        "a satellite image. a red field"
    )
    assert seen == [6, 6]  # the prefixed captions are encoded as well


def test_details_tell_sizes_protocols_and_what_is_possible(config):
    config.evals.r = {"type": "retrieval", "data": "colours", "split": "twins"}
    config.evals.r.texts = ("short", "long")
    evaluator = evaluators.build(config, ColourEncoder())["r"]
    assert set(evaluator.metrics) <= dict(evaluator.run({})).keys()
    details = evaluator.details()
    assert details["size"] == 3
    about = evaluator.about()
    assert about[0] == (
        "colours/twins: 3 images, 6 short captions, 4 of them distinct; none cut at 77 tokens"
    )
    assert about[1] == (
        "colours/twins: 3 images, 3 long captions, 2 of them distinct; 2 cut at 248 tokens; 1 "
        "composed of short ones"
    )
    assert [line.split(":")[0] for line in about[2:4]] == ["any", "multi"]
    assert "random order" in about[4]
    # Two captions of three images are another's as well: half of those searches must fail.
    assert details["oracle"]["t2i_R@1"] == pytest.approx(100 * 4 / 6)
    assert details["oracle"]["i2t_R@1"] == pytest.approx(200 / 3)
    assert details["oracle"]["t2i_R@5"] == details["oracle"]["i2t_R@5"] == 100
    metrics = [name for name in dict(evaluator.run({})) if "worst_" not in name]
    assert set(details["intervals"]) == set(metrics)
    assert details["intervals"]["multi_t2i_R@1"] == [100, 100]


def test_evaluator_runs_again_without_reading_the_data(config, monkeypatch):
    encoder = ColourEncoder()
    evaluator = evaluators.build(config, encoder)["r"]
    first = dict(evaluator.run({}))
    monkeypatch.setattr("rsclip_jax.data.pipeline.eval_batches", None)
    assert dict(evaluator.run({})) == first
    assert encoder.images_seen == 8


def test_limit_takes_the_first_records(config):
    config.evals.r.limit = 3
    encoder = ColourEncoder()
    dict(evaluators.build(config, encoder)["r"].run({}))
    assert encoder.images_seen == 3


def test_mistakes_in_the_config_are_told_before_any_run(config):
    def refuse(error, match, **fields):
        config.evals = {"r": {"type": "retrieval", "data": "colours", "split": "val", **fields}}
        with pytest.raises(error, match=match):
            evaluators.build(config, ColourEncoder())

    refuse(ValueError, "did you mean 'retrieval'", type="retreival")
    refuse(ValueError, "r.limits: .* no such field.*did you mean 'limit'", limits=3)
    refuse(ValueError, "no split 'test'", split="test")
    refuse(FileNotFoundError, "did you mean 'colours'", data="colour")
    refuse(ValueError, "'bare' of colours/bare has no short caption", split="bare")
    refuse(ValueError, "texts='short': expected a tuple", texts="short")
    del config.input.lengths.text_long
    refuse(ValueError, "config.input.lengths has no 'text_long'")
    config.evals = {"r": {"type": "retrieval", "data": "colours"}}
    with pytest.raises(ValueError, match="needs the field 'split'"):
        evaluators.build(config, ColourEncoder())


def test_picture_shows_hits_and_misses():
    found = _hits_and_misses(range(20), lambda query: query in (3, 4, 9), 4)
    assert found == [3, 9, 0, 19]
    assert _hits_and_misses(range(20), lambda query: query == 3, 4) == [3, 0, 10, 19]
    assert _hits_and_misses(range(2), lambda query: True, 4) == [0, 1]


def test_picture_frames_right_answers_green_and_wrong_ones_red(tmp_path):
    z = np.eye(4, dtype=np.float32)
    captions = [f"a {name} field" for name in COLOURS]
    colours = [np.full((8, 8, 3), colour, np.uint8) for colour in COLOURS.values()]
    path = tmp_path / "new" / "p.png"
    save_retrieval_picture(path, lambda i: colours[i], captions, z, z, np.arange(4))
    pixels = np.asarray(Image.open(path).convert("RGB"))
    frames = [(pixels == colour).all(-1).sum() for colour in ((42, 157, 74), (210, 59, 59))]
    # Four text queries with one green frame of 4, the rest red.
    border = 132**2 - 122**2
    assert 4 * border < frames[0] < 5 * border
    assert 12 * border < frames[1] < 13 * border
    assert [p.name for p in path.parent.iterdir()] == ["p.png"]


def test_evaluator_draws_its_latest_run(config, tmp_path):
    built = evaluators.build(config, ColourEncoder())
    with pytest.raises(RuntimeError, match="run"):
        evaluators.draw(built, tmp_path / "eval")
    dict(built["r"].run({}))
    assert evaluators.draw(built, tmp_path / "eval") == {"r": tmp_path / "eval" / "r.png"}
    assert Image.open(tmp_path / "eval" / "r.png").width > 500
