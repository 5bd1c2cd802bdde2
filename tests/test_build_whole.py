"""RS5M's pipeline with every stage that it has, beside what each should have done."""

import hashlib
import json
import math

import numpy as np
from test_build_caption_rank import CANDIDATES, references
from test_build_geometa import FMOW
from test_build_ingest import encoded
from tiny_clip import write_tiny_clip

from configs.build import rs5m as config_file
from rsclip_jax.build import rs5m
from rsclip_jax.build.caption_rank import choose
from rsclip_jax.build.detector import Detector
from rsclip_jax.build.models import shared_clip
from rsclip_jax.build.rows import read_rows
from rsclip_jax.build.runners import Runner
from rsclip_jax.build.scores import PROMPTS
from rsclip_jax.data import images
from rsclip_jax.data.records import open_source
from rsclip_jax.embeddings import params_digest


def unit(z):
    z = np.asarray(z, np.float64)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def survivors(names, pairs):
    """Leave of each pair the one whose id has the lesser SHA-256."""
    gone = {max(pair, key=lambda name: hashlib.sha256(name.encode()).digest()) for pair in pairs}
    return [name for name in names if name not in gone]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_stage_of_rs5m_does_its_part(tmp_path):
    models = [write_tiny_clip(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]
    clips = [shared_clip(path) for path in models]
    weights = np.random.default_rng(5).normal(size=24)
    detector = Detector(weights.tolist(), 0.1, models[0], params_digest(clips[0].params))
    detector.write(str(tmp_path / "detector.json"))

    # Of the web: one without keyword, two of one URL, one that is no image, two that are one.
    pictures = {f"{n:02d}.jpg": encoded(n) for n in range(16)}
    pictures["03.jpg"] = b"no image"
    pictures["05.jpg"] = encoded(4, size=(40, 32))
    web = [
        {
            "file": name,
            "caption": "A satellite image of Hamburg, Germany",
            "url": f"http://a.org/{name}",
        }
        for name in pictures
    ]
    web[0]["caption"] = "a dog in Hamburg"
    web[2]["url"] = web[1]["url"].replace("http:", "https:")
    # Labelled: captions are chosen, and follow a sentence of the metadata. No filter looks at it.
    labelled = [
        FMOW | {"file": f"f{n}.jpg", "label": "airport", "candidates": CANDIDATES} for n in range(3)
    ]
    pictures |= {f"f{n}.jpg": encoded(4 if n == 0 else 100 + n) for n in range(3)}
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)

    # What should remain.
    names = [f"cc3m/{name}" for name in sorted(pictures)[:16] if name not in ("00.jpg", "03.jpg")]
    names = survivors(names, [names[:2]])
    names = survivors(names, [("cc3m/04.jpg", "cc3m/05.jpg")])
    pixels = [images.decode(pictures[name[5:]]) for name in names]
    z = unit(clips[0].encode_image(pixels))
    cosines = np.triu(z @ z.T, 1)
    second, first = np.sort(cosines.ravel())[-2:]
    nearest = np.unravel_index(cosines.argmax(), cosines.shape)
    names_left = survivors(names, [[names[n] for n in nearest]])
    z = z[[names.index(name) for name in names_left]]
    prompts = clips[0].encode_text(PROMPTS, normalize=False).astype(np.float64).mean(axis=0)
    kept = set(names_left)
    for score, share in ((z @ unit(prompts), 0.7), (z @ weights, 0.6)):
        best = np.argsort(-score)[: math.ceil(share * len(score))]
        kept &= {names_left[n] for n in best}
    assert 0 < len(kept) < len(names_left) == 11
    turned = [images.decode(pictures[f"f{n}.jpg"]) for n in range(3)]
    rankings = references(clips, turned, [CANDIDATES] * 3, (10, 5))

    config = config_file.get_config()
    path = write_jsonl(tmp_path / "web.jsonl", web)
    config.sources.cc3m.update(form="jsonl", path=path)
    path = write_jsonl(tmp_path / "labelled.jsonl", labelled)
    config.sources.fmow.update(form="jsonl", path=path)
    config.duplicates.update(model=models[0], threshold=float(first + second) / 2)
    config.scores.update(model=models[0], clip_share=0.7, detector_share=0.6)
    config.scores.detector = str(tmp_path / "detector.json")
    config.captions.update(first=models[0], second=models[1])
    config.geometa.fmow = "fmow"
    config.places, config.validation = True, 0.34
    workdir = tmp_path / "w"
    text = rs5m.build(config, str(workdir), Runner(workers=1))
    lines = [line.replace(" ", "") for line in text.splitlines() if line.startswith("|")]
    left = len(kept)
    assert lines[0] == (
        "|set|size|afterkeywords|downloaded|invalid|dupremoved|VLM+detectorremoved|remain|"
    )
    assert lines[2:4] == [f"|cc3m|16|15|15|1|3|{11 - left}|{left}|", "|fmow|3|3|3|0|0|0|3|"]

    (places,) = (workdir / "stages").glob("*_places")
    rows = {row["id"]: row for part in places.glob("part-*") for row in read_rows(str(part))}
    assert all(rows[name]["places"] == ["Hamburg", "Germany"] for name in kept)
    records = {
        record["id"]: record
        for split in ("train", "val")
        for record in open_source(workdir / "data", "rs5m", split)
    }
    assert set(records) == kept | {f"fmow/f{n}.jpg" for n in range(3)}
    assert len(open_source(workdir / "data", "rs5m", "val")) == round(0.34 * left) + 1
    for n, (captions, _, steady) in enumerate(rankings):
        name = f"fmow/f{n}.jpg"
        chosen = captions[0] if choose(name) == "top_cap" else steady
        (caption,) = records[name]["captions"]
        assert caption.endswith(f" {chosen}") and len(caption) > len(chosen) + 40
        assert rows[name]["place"] == "Vienna, Austria"
        assert rows[name]["candidates"] == captions
