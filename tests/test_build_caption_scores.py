"""The cosine of captions and their image, and the checks of LRS2M that go by what is known."""

import json

import numpy as np
import pytest
from test_build_ingest import encoded
from test_build_pipelines import write_table
from tiny_clip import write_tiny_clip

from configs.build import lrs2m as lrs2m_config
from rsclip_jax.build import lrs2m
from rsclip_jax.build.caption_scores import CaptionScorer
from rsclip_jax.build.models import shared_clip
from rsclip_jax.build.rows import new_row
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.stages import Drop
from rsclip_jax.data import images
from rsclip_jax.data.records import open_source
from rsclip_jax.data.sources import InputError

HARBOR, BOATS = "a harbor with two piers", "some boats on the dark water"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return (path of a model, the model)."""
    path = write_tiny_clip(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return path, shared_clip(path)


def cosine(clip, number, caption):
    """The cosine of one image of `encoded` and one caption, in float64."""
    image = clip.encode_image([images.decode(encoded(number))])[0].astype(np.float64)
    text = clip.encode_text([caption], normalize=False)[0].astype(np.float64)
    return float(image @ text / np.linalg.norm(image) / np.linalg.norm(text))


def test_every_caption_is_scored_with_its_own_image(tiny, tmp_path):
    path, clip = tiny
    long = "river " * 100
    given = [
        {"captions": [HARBOR, BOATS], "long_captions": [long]},
        {"captions": [HARBOR]},
        {"captions": [BOATS]},
        {"long_captions": [BOATS, HARBOR]},
    ]
    rows = []
    for number, captions in enumerate(given):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(number) if number != 1 else b"")
        rows.append(new_row(id=f"r{number}", image=str(tmp_path / f"{number}.jpg"), **captions))
    results = CaptionScorer(path)(rows)
    assert isinstance(results[1], Drop) and str(results[1]).startswith("not decoded: ")
    for number in (0, 2, 3):
        for field, name in (
            ("captions", "caption_scores"),
            ("long_captions", "long_caption_scores"),
        ):
            texts = given[number].get(field, [])
            # 77 tokens, two of them the marks of start and end: of more words the model sees 75.
            expected = [cosine(clip, number, text[: 75 * len("river ")]) for text in texts]
            np.testing.assert_allclose(results[number][name], expected, atol=2e-6)


def test_captions_that_do_not_fit_image_label_or_detector_go_and_are_counted(tiny, tmp_path):
    path, clip = tiny
    scores = [cosine(clip, number, HARBOR) for number in range(6)]
    low, high = sorted(scores)[2:4]
    least = (low + high) / 2
    others = [BOATS, "a busy airport by the water", "boats near a plane"]
    assert high - low > 1e-3
    assert min(cosine(clip, n, text) for n in range(9) for text in others) > least
    fits = [score > least for score in scores]  # the same caption, of three of six images
    rows = [{"image": encoded(n), "captions": [HARBOR]} for n in range(6)]
    for number in (fits.index(True), fits.index(False)):
        rows[number]["captions"] = [HARBOR, BOATS]
    rows.append({"image": encoded(6), "captions": others[1:2], "label": "harbor"})
    rows.append({"image": encoded(7), "captions": [others[2], BOATS], "boxes": []})
    rows.append({"image": encoded(8), "captions": others[2:]})  # no detector saw it
    config = lrs2m_config.get_config("public")
    config.sources.rsicd.path = write_table(tmp_path / "input", rows)
    config.validation = 0.0
    config.classes = ("airport", "harbor")
    config.checks.objects = ("plane", "ship")
    config.checks.min_clip_score = least
    with pytest.raises(InputError, match=r"no model scores.*--config\.checks\.clip"):
        lrs2m.build(config, str(tmp_path / "w"), Runner(workers=1))
    config.checks.clip = path
    lrs2m.build(config, str(tmp_path / "w"), Runner(workers=1))
    expected = {number: [HARBOR] for number in range(6) if fits[number]}
    expected[fits.index(True)] = [HARBOR, BOATS]
    expected |= {fits.index(False): [BOATS], 7: [BOATS], 8: others[2:]}
    records = open_source(tmp_path / "w/data", "lrs2m_public", "train")
    found = {record["id"]: record["captions"] for record in records}
    assert found == {f"rsicd/image{n:02d}.jpg": captions for n, captions in expected.items()}
    card = json.loads((tmp_path / "w/data/lrs2m_public/1.0.0/card.json").read_text())
    (stage,) = [stage for stage in card["stages"] if stage["stage"] == "check_short"]
    assert stage["dropped"] == {"rsicd": {"CLIP score": 2, "another class": 1}}
