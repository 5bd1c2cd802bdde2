"""Exported embeddings: what the shards hold, and that an interruption costs only one shard."""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rsclip_jax import embeddings, export, host
from rsclip_jax.data.records import dataset_fingerprint, write_dataset
from rsclip_jax.embeddings import export_embeddings, params_digest

PARAMS = {"img": {"w": np.arange(3.0)}, "t": np.float32(1)}


class GreyEncoder:
    """Stands in for Encoder: an image's embedding is [grey, 1], a text's [its length, tokens]."""

    image_size, batch_size, embed_dim = 8, 3, 2

    def __init__(self):
        self.images_seen = 0

    def image(self, params, images):
        self.images_seen += len(images)
        return np.stack([images[:, 0, 0, 0], np.ones(len(images))], 1).astype(np.float32)

    def ir(self, params, images):
        return -self.image(params, images)

    def text(self, params, ids):
        return ids.astype(np.float32)


class LengthTokenizer:
    vocab_size, eot_id = 9, 8

    def __init__(self, spec, context_length):
        self.context_length = context_length

    def __call__(self, texts):
        return np.array([[len(text), self.context_length] for text in texts])


def png(grey):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def config(tmp_path, monkeypatch):
    examples = [
        {
            "id": f"r{k}",
            "image": png(k),
            "ir": png(100 + k) if k % 2 else b"",
            "captions": ["x" * (k + 1)] * (k % 3),
            "label": "pond" if k else "",
        }
        for k in range(10)
    ]
    examples[4]["long_captions"] = ["a long one"]
    write_dataset(tmp_path / "data", "set", {"train": examples[:7], "val": examples[7:]})
    monkeypatch.setattr("rsclip_jax.evaluators.texts.make_tokenizer", LengthTokenizer)
    return ConfigDict(
        {
            "tokenizer": "clip",
            "model": {"variant": "tiny", "vocab_size": 9, "eot_id": 8},
            "input": {
                "data_dir": str(tmp_path / "data"),
                "lengths": {"text": 77, "text_long": 248},
                "long_caption": "record",
            },
        }
    )


def run(config, output, encoder=None, params=PARAMS, **options):
    options = {"model": "run", "step": 5, "dataset": "set", "shard_size": 4} | options
    return export_embeddings(encoder or GreyEncoder(), params, config, output=output, **options)


def rows(output):
    return [
        row for path in sorted(output.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def test_every_image_and_text_has_its_row(config, tmp_path):
    out = tmp_path / "out"
    card = run(config, out, modalities=("image", "ir", "text", "text_long"))
    found = {
        (row["modality"], row["split"], row["id"], row["label"], row["caption"], *row["vector"])
        for row in rows(out)
    }
    expected = set()
    for k in range(10):
        where = ("train" if k < 7 else "val", f"r{k}", "pond" if k else "")
        expected.add(("image", *where, None, k, 1))
        if k % 2:
            expected.add(("ir", *where, None, -100 - k, -1))
        if k % 3:  # twice: two equal captions
            expected.add(("text", *where, "x" * (k + 1), k + 1, 77))
        if k == 4:
            expected.add(("text_long", *where, "a long one", 10, 248))
    assert found == expected
    assert len(rows(out)) == 10 + 5 + sum(k % 3 for k in range(10)) + 1
    assert card["rows"] == {
        "train": {"image": 7, "ir": 3, "text": 6, "text_long": 1},
        "val": {"image": 3, "ir": 2, "text": 3, "text_long": 0},
    }


def test_card_says_what_was_made_of_what(config, tmp_path):
    out = tmp_path / "out"
    card = run(config, out)
    assert json.loads((out / "card.json").read_text()) == card
    shards = [f"train-0000{k}-of-00002.parquet" for k in range(2)] + ["val-00000-of-00001.parquet"]
    assert sorted(p.name for p in out.glob("[!.]*")) == ["card.json", *shards]
    for name in shards:
        digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert (out / f".{name}.sha256").read_text() == f"{digest}  {name}\n"
    assert card["shards"] == sorted(p.name for p in out.glob("*.parquet"))
    assert (card["complete"], card["width"], card["model"]) == (True, 2, "run")
    assert card["records"] == {"train": 7, "val": 3}
    made = card["made_with"]
    assert made["modalities"] == ["image", "text", "text_long"]
    assert made["step"] == 5
    assert made["params_sha256"] == params_digest(PARAMS)
    assert made["dataset_fingerprint"] == dataset_fingerprint(config.input.data_dir, "set")
    assert card["config"]["model"]["variant"] == "tiny"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_are_fixed_size_lists_of_the_type_asked_for(config, tmp_path, dtype):
    run(config, tmp_path, dtype=dtype, modalities=("image",), splits=("val",))
    table = pq.read_table(tmp_path / "val-00000-of-00001.parquet")
    kind = table.schema.field("vector").type
    assert (kind.list_size, kind.value_type) == (2, embeddings.DTYPES[dtype])
    flat = table.column("vector").combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(-1, 2), [[7, 1], [8, 1], [9, 1]])


def test_an_interrupted_export_continues_with_the_missing_shards(config, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(config, whole)
    write_table = pq.write_table

    def dies_in_the_second_shard(table, path):
        if "train-00001" in str(path):
            path.write_bytes(b"PAR1 half a shard")
            raise KeyboardInterrupt
        write_table(table, path)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", dies_in_the_second_shard)
        with pytest.raises(KeyboardInterrupt):
            run(config, out)
    assert not json.loads((out / "card.json").read_text())["complete"]
    assert [p.name for p in out.glob("*.parquet")] == ["train-00000-of-00002.parquet"]
    kept = os.stat(out / "train-00000-of-00002.parquet").st_mtime_ns
    encoder = GreyEncoder()
    card = run(config, out, encoder)
    assert encoder.images_seen == 6  # four of the ten were there
    assert os.stat(out / "train-00000-of-00002.parquet").st_mtime_ns == kept
    assert rows(out) == rows(whole)
    assert card == json.loads((whole / "card.json").read_text())
    assert not list(out.glob("*unfinished*")) and not list(out.glob(".*unfinished*"))


def test_a_finished_export_is_not_made_again_and_a_damaged_shard_is(config, tmp_path, capsys):
    card = run(config, tmp_path)
    encoder = GreyEncoder()
    assert run(config, tmp_path, encoder) == card
    assert encoder.images_seen == 0
    shard = tmp_path / "val-00000-of-00001.parquet"
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (whole[:-20], bytes(flipped), b""):
        shard.write_bytes(damaged)
        encoder = GreyEncoder()
        assert run(config, tmp_path, encoder) == card
        assert encoder.images_seen == 3 and shard.read_bytes() == whole
        assert f"{shard} is not what was written" in capsys.readouterr().out


def test_two_exports_do_not_write_to_one_directory(config, tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        host.lock(file, tmp_path)
        with pytest.raises(ValueError, match="another process exports to"):
            run(config, tmp_path)
    assert run(config, tmp_path)["complete"]


def test_shards_of_an_earlier_version_are_kept_and_get_a_checksum(config, tmp_path, capsys):
    card = run(config, tmp_path)
    sums = {path: path.read_text() for path in tmp_path.glob(".*.sha256")}
    for path in sums:
        path.unlink()
    encoder = GreyEncoder()
    assert run(config, tmp_path, encoder) == card and encoder.images_seen == 0
    assert "has no SHA-256 beside it: it is kept" in capsys.readouterr().out
    assert {path: path.read_text() for path in tmp_path.glob(".*.sha256")} == sums


@pytest.mark.parametrize("damage", ["", "[]", '{"made_with": 1}', "\0" * 64])
def test_a_damaged_card_is_set_aside_and_the_shards_are_kept(config, tmp_path, capsys, damage):
    card = run(config, tmp_path)
    (tmp_path / "card.json").write_text(damage)
    encoder = GreyEncoder()
    assert run(config, tmp_path, encoder) == card and encoder.images_seen == 0
    assert "card.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "card.json.damaged").read_text() == damage


def test_a_shard_of_another_export_is_made_again(config, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run(config, here, modalities=("image",))
    before = rows(here)
    run(config, there, modalities=("image",), step=6, dtype="float16")
    shutil.copy(there / "val-00000-of-00001.parquet", here)
    encoder = GreyEncoder()
    run(config, here, encoder, modalities=("image",))
    assert encoder.images_seen == 3
    assert rows(here) == before


def test_another_export_in_the_same_place_is_refused_or_replaced(config, tmp_path):
    run(config, tmp_path)
    other = {**PARAMS, "t": np.float32(2)}
    with pytest.raises(ValueError, match=r"params_sha256: .*\n  dtype: float32 there, float16 now"):
        run(config, tmp_path, params=other, dtype="float16")
    assert len(rows(tmp_path)) == 20
    run(config, tmp_path, params=other, splits=("val",), overwrite=True)
    assert [p.name for p in tmp_path.glob("*.parquet")] == ["val-00000-of-00001.parquet"]


def test_foreign_files_are_left_alone(config, tmp_path):
    (tmp_path / "mine.parquet").write_text("")
    with pytest.raises(ValueError, match=r"without a card.json \(mine.parquet"):
        run(config, tmp_path, overwrite=True)


def test_texts_alone_are_exported_without_decoding_images(config, tmp_path, monkeypatch):
    monkeypatch.setattr("rsclip_jax.data.images.decode", None)
    card = run(config, tmp_path, modalities=("text",))
    assert card["rows"] == {"train": {"text": 6}, "val": {"text": 3}}


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"dataset": "sets"}, FileNotFoundError, "did you mean 'set'"),
        ({"splits": ("test",)}, ValueError, "no split 'test'"),
        ({"modalities": ("img",)}, ValueError, r"\['img'\]: expected any of image, ir, text"),
        ({"modalities": ("text_ir",)}, ValueError, "config.input.lengths has no 'text_ir'"),
        ({"dtype": "bfloat16"}, ValueError, "expected one of float32, float16"),
        ({"shard_size": 0}, ValueError, "shard_size=0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(config, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(config, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_command_passes_its_flags_on(config, tmp_path, monkeypatch, capsys):
    def load_for_inference(model, step, mesh, clip_for):
        assert clip_for == "rsclip_jax.export"
        assert (model, step) == (str(Path.cwd() / "run"), None)
        return config, PARAMS, 5

    monkeypatch.setattr(export, "load_for_inference", load_for_inference)
    monkeypatch.setattr(export.clip, "build", lambda model_config: None)
    monkeypatch.setattr(export, "Encoder", lambda model, mesh, batch_size: GreyEncoder())
    data = config.input.data_dir
    config.input.data_dir = "nowhere"
    flags = "--model=run --dataset=set --split=val,train --modalities=image,ir --shard_size=5"
    export.main([*flags.split(), f"--output={tmp_path}/o", f"--data_dir={data}", "--dtype=float16"])
    made = json.loads((tmp_path / "o" / "card.json").read_text())["made_with"]
    assert (made["splits"], made["modalities"]) == (["val", "train"], ["image", "ir"])
    assert (made["shard_size"], made["dtype"], made["step"]) == (5, "float16", 5)
    told = capsys.readouterr().out
    assert "train: 7 image, 3 ir" in told and "left out" not in told
    flags = "--model=run --dataset=set --split=train --modalities=image"
    export.main([*flags.split(), f"--output={tmp_path}/p", f"--data_dir={data}"])
    told = capsys.readouterr().out
    assert "infrared images were left out: --modalities=image,ir --overwrite embeds" in told


def test_digest_depends_on_names_shapes_and_values():
    base = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(2, 2), "b": base["b"]},
        {"a": base["a"] + 1e-7, "b": base["b"]},
    ]
    digests = {params_digest(tree) for tree in (base, *others)}
    assert len(digests) == 4
    assert params_digest({"b": base["b"], "a": base["a"].copy()}) == params_digest(base)
