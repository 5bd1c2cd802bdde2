"""Near-duplicates: hashes by bands, embeddings by neighbours, who survives."""

import hashlib
import itertools

import apache_beam as beam
import imagehash
import numpy as np
import pytest
import safetensors.numpy
from apache_beam.testing.util import assert_that, equal_to
from golden_models import GOLDEN
from PIL import Image

import rsclip_jax
from rsclip_jax.build import hashes
from rsclip_jax.build.components import Components, Forest, star_edges
from rsclip_jax.build.duplicates import EmbeddingDuplicates, HashDuplicates
from rsclip_jax.build.embed import Embed
from rsclip_jax.build.hashes import near_pairs
from rsclip_jax.build.image_checks import hex_hash, perceptual_hash
from rsclip_jax.build.rows import new_row
from rsclip_jax.build.stages import DROPPED
from rsclip_jax.build.survivor import Priority
from rsclip_jax.build.urls import UrlDuplicates, normalise_url


def hash_family(seed, centres, near):
    """64-bit numbers of which many differ in few bits."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 2**64, centres, np.uint64)
    flips = generator.integers(0, 64, (near, 5))
    copies = generator.choice(values, near)
    for number, bits in enumerate(flips.T):
        # The copies differ from their centre in one to five bits.
        flip = np.where(np.arange(near) % 5 >= number, np.uint64(1) << bits.astype(np.uint64), 0)
        copies = copies ^ flip.astype(np.uint64)
    return np.unique(np.concatenate([values, copies]))


def brute_force(values, radius):
    pairs = itertools.combinations(range(len(values)), 2)
    return [(i, j) for i, j in pairs if (int(values[i]) ^ int(values[j])).bit_count() <= radius]


@pytest.mark.parametrize("radius", [1, 4, 9])
@pytest.mark.parametrize("few", [4, 1024])
def test_bands_find_all_pairs_within_the_radius(radius, few, monkeypatch):
    monkeypatch.setattr(hashes, "_FEW", few)  # a small one cuts crowded bands again
    monkeypatch.setattr(hashes, "_MANY", 50)
    values = hash_family(radius, 150, 250)
    found = near_pairs(values, radius)
    assert list(map(tuple, found.tolist())) == brute_force(values, radius)
    assert len(found) > 50


def test_a_crowded_band_is_cut_again():
    # All agree in their upper half: one bucket of the upper bands holds all of them.
    values = np.unique(np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint64))
    pairs = near_pairs(values, 2)
    distance = np.bitwise_count(values[pairs[:, 0]] ^ values[pairs[:, 1]])
    assert distance.max() <= 2
    # n² / 2 pairs, of which sum C(32, 0..2) / 2^32 are as near: 529 / 2^32.
    expected = len(values) ** 2 / 2 * 529 / 2**32
    assert abs(len(pairs) - expected) < 5 * expected**0.5


def test_perceptual_hash_is_the_fields():
    generator = np.random.default_rng(0)
    for shape in [(32, 32), (200, 131), (17, 90)]:
        noise = generator.integers(0, 256, (*shape, 3), np.uint8)
        smooth = Image.fromarray(noise[:6, :6]).resize(shape[::-1], Image.Resampling.BICUBIC)
        for image in (Image.fromarray(noise), smooth):
            assert hex_hash(perceptual_hash(np.asarray(image))) == str(imagehash.phash(image))


def test_components_are_those_of_a_search():
    generator = np.random.default_rng(3)
    edges = [tuple(map(int, pair)) for pair in generator.integers(0, 60, (40, 2))]
    root = {node: min(_reachable(node, edges)) for node in range(60)}
    combine = Components()
    parts = []
    for part in (edges[:13], edges[13:20], edges[20:]):
        parents = combine.create_accumulator()
        for pair in part:
            parents = combine.add_input(parents, pair)
        parts.append(parents)
    found = dict(combine.extract_output(combine.merge_accumulators(parts)))
    assert found == {node: root[node] for node in {n for pair in edges for n in pair}}
    stars = star_edges(60, [np.array(edges[:7]), np.array(edges[7:])])
    forest = Forest()
    for one, other in stars.tolist():
        forest.join(one, other)
    assert [forest.find(node) for node in range(60)] == [root[node] for node in range(60)]
    assert len(stars) == 60 - len(set(root.values()))


def _reachable(node, edges):
    found = {node}
    while more := {b for a, b in edges + [e[::-1] for e in edges] if a in found} - found:
        found |= more
    return found


def test_the_survivor_is_of_the_best_source():
    priority = Priority(first=["laion2b", "coyo700m"], last=["laioncoco"])
    assert priority.survivor([("a", "laioncoco"), ("b", "cc3m"), ("c", "coyo700m")]) == "c"
    assert priority.survivor([("a", "laioncoco"), ("b", "cc3m")]) == "b"
    equal = [(f"r{n}", ("laion2b", "coyo700m")[n % 2]) for n in range(20)]
    least = min(equal, key=lambda m: hashlib.sha256(m[0].encode()).hexdigest())[0]
    assert priority.survivor(equal) == priority.survivor(equal[::-1]) == least


def test_held_out_rows_all_stay_and_the_others_go_for_them():
    rows = [("a", "first", ""), ("b", "web", "test"), ("c", "web", "train"), ("d", "late", "val")]
    priority = Priority(first=["first"], last=["late"])
    assert list(priority.leavers(rows)) == [("a", "b", True), ("c", "b", True)]
    assert list(priority.leavers(rows[::2])) == [("c", "a", False)]
    assert list(priority.leavers(rows[:1])) == list(priority.leavers(rows[1:2])) == []


@pytest.mark.parametrize("field", ["phash", "url"])
def test_official_test_rows_survive_their_copies_in_training_sources(field):
    value = hex_hash(5) if field == "phash" else "http://x/a"
    rows = [new_row(id=f"{n}", source="web", **{field: value}) for n in range(3)]
    rows[1] |= {"split": "test", "source": "late"}
    priority = {"first": ["web"], "last": ["late"]}
    if field == "phash":
        transform, why = HashDuplicates(4, priority), "near duplicate of a held-out row: of 1"
    else:
        transform = UrlDuplicates(priority, ["web", "late"])
        why = "same URL, of a held-out row: as 1"
    decided(transform, rows, [("0", why), ("2", why)])


def decided(transform, rows, expected):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        result = pipeline | beam.Create(rows) | transform
        assert_that(result | beam.Map(lambda d: (d[0], d[1][DROPPED])), equal_to(expected))


def test_hash_duplicates_keep_one_of_each_cluster():
    chain = [0, 0b1111, 0b11111111]  # the ends differ in 8 bits, each step in 4
    rows = [
        new_row(id=f"c{number}", source="web", phash=hex_hash(value))
        for number, value in enumerate([*chain, 0])
    ]
    rows += [new_row(id="far", source="best", phash=hex_hash(2**64 - 1))]
    rows += [new_row(id="other", source="elsewhere", phash=hex_hash(0))]
    rows[1]["source"] = "best"
    transform = HashDuplicates(4, {"first": ["best"]}, ["web", "best"])
    decided(transform, rows, [(name, "near duplicate: of c1") for name in ("c0", "c2", "c3")])


@pytest.mark.parametrize("cells", [1, 4])
def test_embedding_duplicates_are_those_of_the_full_matrix(cells):
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(40, 16))
    vectors[20:30] = vectors[:10] + 0.05 * generator.normal(size=(10, 16))
    vectors[30] = vectors[20] + 0.05 * generator.normal(size=16)
    stored = vectors.astype(np.float16).astype(np.float64)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    near = [(i, j) for i, j in itertools.combinations(range(40), 2) if unit[i] @ unit[j] > 0.95]
    clusters = {frozenset(_reachable(node, near)) for node in range(40)}
    priority = Priority()
    expected = []
    for cluster in clusters:
        kept = priority.survivor([(f"v{n}", "web") for n in cluster])
        expected += [(f"v{n}", f"near duplicate: of {kept}") for n in cluster if f"v{n}" != kept]
    assert len(expected) == 11
    rows = [
        new_row(id=f"v{n}", source="web", embedding=vector.astype(np.float16).tobytes())
        for n, vector in enumerate(vectors)
    ]
    decided(EmbeddingDuplicates(0.95, {}, ["web"], cells=cells, probes=2), rows, expected)


def test_embeddings_are_those_of_the_loaded_model(tmp_path):
    path = tmp_path / "tiny.safetensors"
    arrays = np.load(GOLDEN / "openclip_tiny_quickgelu.npz")
    state = {name[6:]: arrays[name] for name in arrays if name.startswith("param/")}
    safetensors.numpy.save_file(state, path)
    generator = np.random.default_rng(0)
    rows, pixels = [], []
    for number in range(5):
        pixels.append(generator.integers(0, 256, (40, 50, 3), np.uint8))
        Image.fromarray(pixels[-1]).save(tmp_path / f"{number}.png")
        image, source = str(tmp_path / f"{number}.png"), "web" if number < 3 else "other"
        rows.append(new_row(id=f"r{number}", source=source, image=image))
    expected = rsclip_jax.load(path).encode_image(pixels[:3])

    def check(found):
        vectors = {row["id"]: row.get("embedding") for row in found}
        assert set(vectors) == {f"r{n}" for n in range(5)}
        assert vectors["r3"] is None and vectors["r4"] is None
        stored = np.stack([np.frombuffer(vectors[f"r{n}"], np.float16) for n in range(3)])
        np.testing.assert_allclose(stored, expected, atol=1e-3)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        embedded = pipeline | beam.Create(rows) | Embed(str(path), ["web"], 2)
        assert_that(embedded["rows"], check)


@pytest.mark.parametrize(
    ("url", "form"),
    [
        (
            "HTTP://Example.COM:80/a%7Eb/%c3%a4?q=1&p=%7e#top",
            "https://example.com/a~b/%C3%A4?q=1&p=~",
        ),
        ("https://example.com", "https://example.com/"),
        (" https://user@example.com:8443/A ", "https://example.com:8443/A"),
        ("https://example.com/a?b=2&a=1", "https://example.com/a?b=2&a=1"),
        (" http://[abc/x.jpg", "http://[abc/x.jpg"),  # these two urlsplit refuses
        ("http://www.exa\u2100mple.com/a.jpg ", "http://www.exa\u2100mple.com/a.jpg"),
    ],
)
def test_urls_are_normalised(url, form):
    assert normalise_url(url) == form
    assert normalise_url(form) == form


def test_one_row_of_a_url_stays():
    urls = ["http://a.org/1.jpg", "https://A.org/1.jpg", "https://a.org/2.jpg", "", ""]
    rows = [new_row(id=f"u{n}", source="web", url=url) for n, url in enumerate(urls)]
    rows[1]["source"] = "late"
    transform = UrlDuplicates({"last": ["late"]}, ["web", "late"])
    decided(transform, rows, [("u1", "same URL: as u0")])
