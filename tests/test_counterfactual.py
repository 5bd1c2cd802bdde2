"""Counterfactual captions: one fact changed, false by mask, and scored on both sides of 50 %."""

import re

import numpy as np
import pytest

from configs import defaults
from rsclip_jax import evaluators
from rsclip_jax.data import synthetic
from rsclip_jax.data.scenes import palette
from rsclip_jax.data.scenes.counterfactuals import CHANGES, pair
from rsclip_jax.data.scenes.drawing import paint
from rsclip_jax.data.text import ClipTokenizer
from rsclip_jax.evaluators.counterfactual import BEHIND, share_true

SCENES = [synthetic.describe(4, index) for index in range(300)]
MATERIALS = {"dirt track": "dirt", "quay": "concrete", "patch of bare soil": "bare patch"}
SWAPS = {
    "left_right": {"left": "right", "right": "left"},
    "upper_lower": {"top": "bottom", "bottom": "top", "upper": "lower", "lower": "upper"},
}


def _pairs(change):
    return [(s, texts) for s in SCENES if (texts := pair(s, change))]


def test_the_share_counts_ties_half():
    zimg = np.float32([[1, 0], [1, 0], [0, 1], [0, 1]])
    ztrue = np.float32([[1, 0], [0, 1], [0, 1], [1, 0]])
    zfalse = np.float32([[0, 1], [0, 1], [1, 0], [0, 1]])
    assert share_true(zimg, ztrue, zfalse) == 100 * (1 + 0.5 + 1 + 0) / 4
    with pytest.raises(ValueError, match="one true and one false"):
        share_true(zimg, ztrue[:3], zfalse[:3])
    with pytest.raises(ValueError, match="NaN"):
        share_true(zimg, ztrue * np.nan, zfalse)


@pytest.mark.parametrize("change", CHANGES)
def test_many_scenes_have_a_pair_and_always_the_same(change):
    pairs = _pairs(change)
    assert len(pairs) > 120
    assert all(texts == pair(scene, change) and texts.true != texts.false for scene, texts in pairs)


@pytest.mark.parametrize("change", SWAPS)
def test_only_the_words_of_direction_change(change):
    for scene, texts in _pairs(change):
        words = re.findall(r"\w+|\W", texts.true)
        assert "".join(SWAPS[change].get(word, word) for word in words) == texts.false
        said = re.search(
            r"(?:an?|the) ([a-z ]+?) (?:at|on|in) the (\w+ )?(\w+)( corner)?\.$", texts.true
        )
        if not said:  # a single main object: "... in the middle left of the picture."
            assert scene.count == 1 and texts.true.endswith("of the picture.")
            continue
        where = f"{said[2] or ''}{said[3]}".strip()
        assert where in [place for _, place in [scene.edge or ("", ""), *scene.corners]], scene


def test_one_number_or_colour_changes_to_one_the_scene_does_not_have():
    numbers = "one two three four five six".split()
    for scene, texts in _pairs("count"):
        true, false = (next(word for word in text.split() if word in numbers) for text in texts)
        assert numbers.index(true) + 1 == scene.count != numbers.index(false) + 1
    for scene, texts in _pairs("colour"):
        true, false = texts.true.split(), texts.false.split()
        (changed,) = [(a, b) for a, b in zip(true, false, strict=True) if a != b]
        assert changed[0] == scene.colour != changed[1]


def test_relations_hold_in_the_picture():
    checked = 0
    for scene, texts in _pairs("relation")[:120]:
        form = r"An aerial image with (.*) (above|below|to the left of|to the right of) (.*)\."
        one, relation, other = re.fullmatch(form, texts.true).groups()
        assert texts.false == f"An aerial image with {other} {relation} {one}."
        material = paint(scene).material
        ends = []
        for words in (one, other):
            name = re.sub(r"^an? ", "", words)
            name = MATERIALS.get(name, name)
            if name not in palette.IDS and scene.noun not in words:
                break  # trees, roads: more of them may stand elsewhere
            mask = material == palette.IDS.get(name, palette.IDS[palette.MAIN])
            along = np.flatnonzero(
                mask.any(axis=0 if "left" in relation or "right" in relation else 1)
            )
            ends.append(np.quantile(along, (0.05, 0.95)))
        if len(ends) == 2:
            first, second = ends if relation in ("above", "to the left of") else ends[::-1]
            assert first[1] < second[0], (scene, texts)
            checked += 1
    assert checked > 30


def test_the_changed_fact_of_a_long_caption_is_told_once_and_last():
    for scene, texts in _pairs("long"):
        true, false = (re.split(r"(?<=\.) ", text) for text in texts)
        assert true[:-1] == false[:-1] and true[-1] != false[-1]
        whole = re.split(r"(?<=\.) ", synthetic.long_caption(scene))
        assert sorted(true) == sorted(whole)


class _Seeing:
    """Embeds texts at random, and pictures of scenes nearest to what is true of them."""

    image_size = 24

    def __init__(self, sign: float, seed: int, config):
        self._sign = sign
        self._tokenizers = {
            change: ClipTokenizer(config.input.lengths["text_long" if change == "long" else "text"])
            for change in CHANGES
        }
        scenes = [synthetic.describe(seed, synthetic.VAL_START + index) for index in range(60)]
        self._scenes = {
            synthetic.render(scene, self.image_size).tobytes(): scene for scene in scenes
        }

    def text(self, params, ids):
        z = [np.random.default_rng(row.astype(np.uint32)).standard_normal(600) for row in ids]
        return np.float32(z / np.linalg.norm(z, axis=1, keepdims=True))

    def image(self, params, images):
        z = []
        for image in images:
            scene = self._scenes[image.tobytes()]
            texts = [
                self.text(None, tokenizer([found.true]))
                for change, tokenizer in self._tokenizers.items()
                if (found := pair(scene, change))
            ]
            z.append(self._sign * np.concatenate(texts).sum(axis=0))
        return np.float32(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1))


def _evaluator(sign=1.0, long=248, **fields):
    config = defaults.get_config()
    config.input.lengths = {"text": 77, "text_long": long}
    config.model.update({"vocab_size": ClipTokenizer.vocab_size, "eot_id": ClipTokenizer.eot_id})
    config.evals = {"cf": {"type": "counterfactual", "pairs": 8, "seed": 3, **fields}}
    return evaluators.build(config, _Seeing(sign, 3, config))["cf"]


@pytest.mark.parametrize(("sign", "score"), [(1.0, 100.0), (-1.0, 0.0), (0.0, 50.0)])
def test_who_sees_scores_100_who_sees_the_reverse_0_who_sees_nothing_50(sign, score):
    evaluator = _evaluator(sign)
    assert dict(evaluator.run(None)) == {change: score for change in (*CHANGES, "mean")}
    said = evaluator.details()
    assert set(said["pairs"].values()) == {8} and set(said["cut"].values()) == {0}
    low, high = said["intervals"]["count"]
    assert 0 <= low <= score <= high <= 100 and high - low > 30


def test_a_model_that_cuts_before_the_fact_scores_50():
    evaluator = _evaluator(long=77)
    found = dict(evaluator.run(None))
    assert found["long"] == 50 and found["colour"] == 100
    said = evaluator.details()
    assert said["cut"]["long"] == 8
    (line,) = [line for line in evaluator.about() if line.startswith("long: ")]
    assert " 8 pairs, " in line and line.endswith("; 8 are one text once cut")


def test_the_captions_of_long_differ_behind_token_77_only():
    evaluator = _evaluator()
    dict(evaluator.run(None))
    whole = ClipTokenizer(400)
    for _, texts in evaluator._pairs["long"]:
        true, false = whole(list(texts))
        assert np.flatnonzero(true != false)[0] >= BEHIND


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="pairs=0"):
        _evaluator(pairs=0)
