"""Training on files and data sets: a usable, repeatable model, and errors that name the flag."""

import io
import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from rsclip_jax.data import records
from rsclip_jax.data.text import SentencePieceTokenizer
from rsclip_jax.data.train_sentencepiece import dataset_captions, file_captions, main, train


def captions(count=400):
    rng = random.Random(0)
    nouns = ["airport", "harbour", "stadium", "river", "forest", "viaduct", "playground", "runway"]
    sizes = ["small", "large", "grey", "narrow", "circular"]
    return [
        f"a {rng.choice(sizes)} {rng.choice(nouns)} near {rng.randint(2, 9)} "
        f"{rng.choice(sizes)} {rng.choice(nouns)}s"
        for _ in range(count)
    ]


@pytest.fixture
def caption_file(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(captions()) + "\n\n")
    return path


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_trained_model_encodes_with_pad_0_and_eos(caption_file, tmp_path, model_type, capsys):
    output = tmp_path / "models" / "rs.model"
    main(
        [
            f"--input={caption_file}",
            f"--output={output}",
            "--vocab_size=40",
            f"--model_type={model_type}",
        ]
    )
    tokenizer = SentencePieceTokenizer(output, 32)
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eot_id) == (40, 0, 2)
    tokens = tokenizer(captions(20))
    assert (tokens[:, 0] == 1).all()
    assert (tokens != 3).all(), "a caption of the training set holds unknown pieces"
    assert ((tokens == 2).sum(axis=1) == 1).all()
    assert [path.name for path in output.parent.iterdir()] == ["rs.model"]
    printed = capsys.readouterr().out
    assert "40 pieces" in printed
    assert "CLIP BPE    mean" in printed
    assert f'--config.tokenizer="sentencepiece:{output}"' in printed


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_same_captions_give_the_same_model(model_type):
    first = train(captions(), 40, model_type)
    assert train(captions(), 40, model_type) == first
    assert train(captions(300), 40, model_type) != first


def test_lowercase_is_part_of_the_model(tmp_path):
    rows = {}
    for lowercase in (True, False):
        path = tmp_path / f"{lowercase}.model"
        path.write_bytes(train(captions(), 40, lowercase=lowercase))
        rows[lowercase] = SentencePieceTokenizer(path, 32)(["A Large AIRPORT", "a large airport"])
    np.testing.assert_array_equal(rows[True][0], rows[True][1])
    assert 3 in rows[False][0], "capitals do not occur in the training captions"


def test_json_lines_give_short_and_long_captions_of_the_split(tmp_path):
    path = tmp_path / "captions.jsonl"
    lines = [
        {"captions": ["one", "two"], "long_captions": ["long one"], "label": "x", "split": "train"},
        {"captions": ["held out"], "split": "test"},
        {"caption": "three"},
        "bare string",
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert list(file_captions(path, "train")) == ["one", "two", "long one", "three", "bare string"]
    assert list(file_captions(path, "test")) == ["held out", "three", "bare string"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"captions": ["cut', "line 2 is not JSON"),
        (b'{"captions": ["\xff"]}', "line 2 is not UTF-8"),
        (b'{"title": "x", "id": 1}', "line 2 has none of the fields caption,.*; it has title, id"),
        (b'{"captions": [3]}', "line 2: captions holds 3, which is no string"),
        (b"[1, 2]", "line 2 holds a list"),
        (b"[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_bad_line_is_named_through_the_trainer(tmp_path, line, message):
    path = tmp_path / "captions.jsonl"
    path.write_bytes(b'{"captions": ["fine"]}\n' + line + b"\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, {message}"):
        train(file_captions(path, "train"), 40)


def test_a_data_set_gives_its_short_and_long_captions(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    texts = captions()
    examples = [
        {"id": str(i), "image": buffer.getvalue(), "captions": [a, b], "long_captions": [a + b]}
        for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    records.write_dataset(tmp_path, "made", {"train": examples[:150], "val": examples[150:]})
    expected = [c for e in examples[150:] for c in e["captions"] + e["long_captions"]]
    assert sorted(dataset_captions(tmp_path, "made", "val")) == sorted(expected)
    output = tmp_path / "made.model"
    main([f"--data_dir={tmp_path}", "--name=made", f"--output={output}", "--vocab_size=40"])
    assert SentencePieceTokenizer(output, 32).vocab_size == 40


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_a_vocabulary_too_large_names_the_largest_possible_one(model_type):
    with pytest.raises(ValueError, match="--vocab_size=8000 is too large") as caught:
        train(captions(), 8000, model_type)
    largest = int(str(caught.value).split("vocabulary is ")[1].split(".")[0])
    train(captions(), largest, model_type)
    with pytest.raises(ValueError, match=f"is {largest}. Give"):
        train(captions(), largest + 1, model_type)


def test_a_vocabulary_too_small_names_the_smallest_possible_one():
    with pytest.raises(ValueError, match="--vocab_size=5 is too small: the characters") as caught:
        train(captions(), 5)
    train(captions(), int(str(caught.value).split("alone are ")[1].split(".")[0]))


@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_nothing_to_train_on_is_an_error(texts):
    with pytest.raises(ValueError, match="no caption to train on"):
        train(texts, 40)


def test_a_caption_of_many_lines_or_beyond_the_trainers_default_length_counts(tmp_path):
    path = tmp_path / "long.model"
    path.write_bytes(train(["boat\nboat " * 1000], 9))
    assert 3 not in SentencePieceTokenizer(path, 16)(["boat boat"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --data_dir=DIR --name=NAME or --input=FILE"),
        (["--input={file}", "--name=x"], "give either"),
        (["--name=x"], "--name=x needs --data_dir=DIR"),
        (["--input=absent.txt"], "--input=absent.txt is no file"),
        (["--input={file}", "--output={file}"], "exists already: remove it or choose another"),
    ],
)
def test_flags_that_cannot_serve_are_refused(flags, message, caption_file, tmp_path, capsys):
    flags = [flag.format(file=caption_file) for flag in flags]
    with pytest.raises(SystemExit):
        main([f"--output={tmp_path / 'new.model'}", *flags])
    assert message in capsys.readouterr().err


def test_a_failed_training_leaves_nothing_behind(caption_file, tmp_path):
    output = tmp_path / "models" / "rs.model"
    with pytest.raises(ValueError, match="too large"):
        main([f"--input={caption_file}", f"--output={output}", "--vocab_size=9000"])
    assert not output.parent.exists()
