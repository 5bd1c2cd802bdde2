"""Token ids against open_clip's, the short way through cleaning against the long one, limits."""

import html
import io
import json
import pickle
import random
import threading
from pathlib import Path

import ftfy
import instant_clip_tokenizer
import numpy as np
import pytest
import sentencepiece

from rsclip_jax.data import text
from rsclip_jax.data.text import ClipTokenizer, SentencePieceTokenizer, make_tokenizer

GOLDEN = Path(__file__).parent / "data" / "golden"
SOT, EOT = 49406, 49407
PLAIN = "\t\n\f\r" + "".join(chr(i) for i in range(32, 127) if chr(i) != "&")


def reference_clean(caption):
    """open_clip's recipe, written down plainly."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split())


def reference_ids(captions, context_length=77):
    encoder = instant_clip_tokenizer.Tokenizer()
    return encoder.tokenize_batch([reference_clean(c) for c in captions], context_length)


def random_texts(fragments, count, longest, seed):
    rng = random.Random(seed)
    return [
        "".join(rng.choice(fragments) for _ in range(rng.randint(0, longest))) for _ in range(count)
    ]


@pytest.mark.parametrize("context_length", [77, 248])
def test_clip_ids_equal_open_clip(context_length):
    golden = json.loads((GOLDEN / "clip_tokens.json").read_text())
    tokens = ClipTokenizer(context_length)(golden["texts"])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, golden[f"ids{context_length}"])


def test_clip_ids_equal_open_clip_on_difficult_texts():
    golden = json.loads((GOLDEN / "clip_tokens_hard.json").read_text())["text_and_ids"]
    tokens = ClipTokenizer(248)([caption for caption, _ in golden])
    for row, (caption, ids) in zip(tokens, golden, strict=True):
        assert row.tolist() == ids + [0] * (248 - len(ids)), ascii(caption)


def test_a_text_that_is_too_long_keeps_the_end_mark_in_the_last_slot():
    row = ClipTokenizer(5)(["a a a a a a a", "a a a", "a"])
    assert row.tolist() == [[SOT, 320, 320, 320, EOT]] * 2 + [[SOT, 320, EOT, 0, 0]]


def test_empty_and_blank_texts_and_an_empty_list():
    tokenizer = ClipTokenizer(4)
    assert tokenizer(["", " \t\r\n\u3000"]).tolist() == [[SOT, EOT, 0, 0]] * 2
    assert tokenizer([]).shape == (0, 4)
    assert tokenizer.lengths(["", " "]).tolist() == [2, 2]


def test_lengths_count_before_truncation():
    lengths = ClipTokenizer(5).lengths(["a", "a " * 300, "a &amp; a"])
    assert lengths.tolist() == [3, 302, 5]


def test_attributes_match_the_clip_vocabulary():
    tokenizer = ClipTokenizer()
    assert (tokenizer.context_length, tokenizer.vocab_size) == (77, 49408)
    assert (tokenizer.pad_id, tokenizer.sot_id, tokenizer.eot_id) == (0, SOT, EOT)


def test_cleaning_is_skipped_only_where_it_changes_nothing_every_pair_of_characters():
    pairs = [a + b for a in PLAIN for b in PLAIN]
    assert all(text._is_plain(pair) for pair in pairs)
    assert [reference_clean(pair) for pair in pairs] == [" ".join(pair.split()) for pair in pairs]
    np.testing.assert_array_equal(ClipTokenizer()(pairs), reference_ids(pairs))


def test_cleaning_is_skipped_only_where_it_changes_nothing_random_plain_texts():
    fragments = [*PLAIN, "amp;", "#39;", "<b>", "'s", "'RE", "\\x1b[0m", "[31m", "<end_of_text>"]
    texts = random_texts(fragments, 3000, 60, seed=1)
    assert all(text._is_plain(t) for t in texts)
    np.testing.assert_array_equal(ClipTokenizer()(texts), reference_ids(texts))


def test_every_other_character_takes_the_long_way():
    others = [chr(i) for i in range(0x300) if chr(i) not in PLAIN]
    others += list("\u2028\u3000\u200b\ufeff\u2019\u201c\ufb01\uff21\ud83d\U0001f6f0")
    assert not any(text._is_plain("a" + other + "b") for other in others)


def test_cleaning_equals_open_clips_recipe_on_adversarial_texts():
    fragments = [
        *(chr(i) for i in range(0x180)),
        *[
            "&amp;",
            "&lt;",
            "&amp;lt;",
            "&#x27;",
            "&#39",
            "&EACUTE;",
            "&nbsp;",
            "&#x1c;",
            "&#xd800;",
        ],
        *["\x1b[31m", "\x1b[0;1m", "\r\n", "\u2028", "\u3000", "\u200b", "\ufeff", "<", "<b>"],
        *["“", "”", "’s", "ﬁ", "Ａ", "e\u0301", "Ã©", "â€™", "汉字", "🛰️", "\ud83d", "\udca9"],
        *["road", " ", "Big", "42"] * 10,
    ]
    fragments.remove("\u017f")
    texts = random_texts(fragments, 3000, 20, seed=2)
    assert sum(text._is_plain(t) for t in texts) < len(texts) / 2
    np.testing.assert_array_equal(ClipTokenizer()(texts), reference_ids(texts))


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("a " * 500_000, 500_000),
        ("a\n" * 500_000, 500_000),
        (" " * 1_000_000, 0),
        ("&#" + "1" * 1_000_000, None),
        ("a" * 1_000_000, None),
        ("&" + "amp;" * 250_000, None),
    ],
    ids=["words", "lines", "blank", "number", "letters", "entities"],
)
def test_a_megabyte_is_tokenised_in_linear_time(caption, tokens):
    """Whole, the last two would take minutes, and the number would raise in `html.unescape`."""
    tokenizer = ClipTokenizer(248)
    row = tokenizer([caption])[0]
    if tokens is not None:
        assert tokenizer.lengths([caption])[0] == tokens + 2
    assert row[0] == SOT
    assert row[-1] == (EOT if tokens != 0 else 0)


def test_a_long_text_begins_with_the_ids_of_the_whole():
    rng = random.Random(3)
    words = " ".join(rng.choice(["runway", "é", "2.5", "trees,", "“x”"]) for _ in range(9000))
    assert len(words) > 2 * text._PIECE_CHARS
    tokenizer = ClipTokenizer(10_000)
    np.testing.assert_array_equal(tokenizer([words]), reference_ids([words], 10_000))
    endless = "ab" * 20_000
    np.testing.assert_array_equal(ClipTokenizer(248)([endless]), reference_ids([endless], 248))


@pytest.mark.parametrize("wrong", ["a caption", b"a caption"])
def test_a_bare_string_is_refused(wrong):
    with pytest.raises(TypeError, match=r"not a list of strings: pass \[text\]"):
        ClipTokenizer()(wrong)


@pytest.mark.parametrize("wrong", [None, b"bytes", 3, ["nested"]])
def test_an_element_that_is_no_string_is_named(wrong):
    with pytest.raises(TypeError, match=r"texts\[1\] is "):
        ClipTokenizer()(["fine", wrong])


def test_a_context_without_room_for_text_is_refused():
    with pytest.raises(ValueError, match="context_length is 2: at least 3"):
        ClipTokenizer(2)


def test_clip_tokenizer_survives_pickling_and_threads():
    captions = [f"{n} boats near the café" for n in range(300)]
    expected = reference_ids(captions)
    tokenizer = pickle.loads(pickle.dumps(ClipTokenizer()))
    text._clip_bpe.cache_clear()  # The threads meet while the encoder is made.
    results = []
    threads = [threading.Thread(target=lambda: results.append(tokenizer(captions))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)


def word_model(**ids):
    """A SentencePiece model whose pieces are the words airport, boat and car."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["airport boat car"] * 20),
        model_writer=buffer,
        model_type="word",
        vocab_size=3 + 1 + sum(value >= 0 for value in ids.values()),
        unk_id=3,
        minloglevel=2,
        **ids,
    )
    return buffer.getvalue()


@pytest.fixture
def make_model(tmp_path):
    def write(**ids):
        path = tmp_path / "words.model"
        path.write_bytes(word_model(**ids))
        return path

    return write


def test_sentencepiece_rows_hold_bos_ids_eos_and_padding(make_model):
    path = make_model(pad_id=0, bos_id=1, eos_id=2)
    piece = sentencepiece.SentencePieceProcessor(model_file=str(path)).piece_to_id
    airport, boat, car = (piece("▁" + word) for word in ("airport", "boat", "car"))
    tokenizer = SentencePieceTokenizer(path, 5)
    tokens = tokenizer(["airport", "boat car airport", "car car car boat boat", "", "zebra"])
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [
        [1, airport, 2, 0, 0],
        [1, boat, car, airport, 2],
        [1, car, car, car, 2],
        [1, 2, 0, 0, 0],
        [1, 3, 2, 0, 0],
    ]
    assert tokenizer.lengths(["", "airport", "car car car boat boat"]).tolist() == [2, 3, 7]
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eot_id) == (7, 0, 2)
    assert tokenizer([]).shape == (0, 5)


def test_sentencepiece_without_bos_starts_with_the_text_and_pads_with_the_models_id(make_model):
    path = make_model(pad_id=1, bos_id=-1, eos_id=0)
    boat = sentencepiece.SentencePieceProcessor(model_file=str(path)).piece_to_id("▁boat")
    tokenizer = SentencePieceTokenizer(path, 4)
    assert tokenizer(["boat", "boat boat boat boat"]).tolist() == [
        [boat, 0, 1, 1],
        [boat, boat, boat, 0],
    ]
    assert (tokenizer.pad_id, tokenizer.eot_id) == (1, 0)


def test_sentencepiece_tokenizer_works_in_a_process_that_lacks_the_file(make_model):
    path = make_model(pad_id=0, bos_id=1, eos_id=2)
    tokenizer = SentencePieceTokenizer(path, 6)
    expected = tokenizer(["car boat"])
    pickled = pickle.dumps(tokenizer)
    path.unlink()
    np.testing.assert_array_equal(pickle.loads(pickled)(["car boat"]), expected)


def test_sentencepiece_takes_lone_surrogates_and_control_characters(make_model):
    tokenizer = SentencePieceTokenizer(make_model(pad_id=0, bos_id=1, eos_id=2), 9)
    assert tokenizer(["\ud83d", "\x00", "\ud83d\udef0"]).shape == (3, 9)
    assert text.without_surrogates("a\ud83d\udef0b\ud83dc") == "a🛰b\ufffdc"


def test_sentencepiece_model_that_cannot_serve_is_refused(make_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no SentencePiece model at .*absent\.model"):
        SentencePieceTokenizer(tmp_path / "absent.model", 77)
    for content in (b"", b"not a model"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.model .* is not a SentencePiece model"):
            SentencePieceTokenizer(tmp_path / "bad.model", 77)
    with pytest.raises(ValueError, match="has no EOS id: train it with"):
        SentencePieceTokenizer(make_model(pad_id=0, bos_id=1, eos_id=-1), 77)
    with pytest.raises(ValueError, match="has no pad id: train it with"):
        SentencePieceTokenizer(make_model(pad_id=-1, bos_id=1, eos_id=2), 77)


def test_make_tokenizer_reads_the_config_string(make_model):
    assert isinstance(make_tokenizer("clip", 248), ClipTokenizer)
    assert make_tokenizer("clip", 248).context_length == 248
    path = make_model(pad_id=0, bos_id=1, eos_id=2)
    tokenizer = make_tokenizer(f"sentencepiece:{path}", 32)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.context_length == 32


@pytest.mark.parametrize("spec", ["CLIP", "bert", "", "clip:", "sentencepiece", "sentencepiece:"])
def test_make_tokenizer_refuses_an_unknown_spec(spec):
    with pytest.raises(ValueError, match=r"unknown tokenizer .*: config\.tokenizer is "):
        make_tokenizer(spec, 77)
