import time

import numpy as np
import pytest

from rsclip_jax.data.cells import MAX_LIST_CHARS, has_content, holds_text, items_of, texts_of

SENTENCES = [{"raw": "a pond .", "tokens": ["a", "pond"], "imgid": 0}, {"raw": "it's b"}]
NAN = float("nan")


@pytest.mark.parametrize(
    "cell, texts",
    [
        (["a", "it's b"], ["a", "it's b"]),
        (("a",), ["a"]),
        (("a", None, NAN, "b"), ["a", "", "", "b"]),
        ([NAN, None, 'say "b"'], ["", "", 'say "b"']),
        ([], []),
        (SENTENCES, ["a pond .", "it's b"]),
        ([{"caption": "a"}, {"text": "b"}, {"id": 3, "sentence": "c"}], ["a", "b", "c"]),
        ([{"caption": None}, "b"], ["", "b"]),
        ({"raw": "a"}, ["a"]),
    ],
)
def test_lists_are_the_same_however_they_are_printed(cell, texts):
    assert items_of(cell, "c") == texts
    assert items_of(f" {cell} ", "c") == texts
    if isinstance(cell, list):
        assert items_of(str(np.array(cell, dtype=object)), "c") == texts


def test_numpy_breaks_lines_between_items_and_wide_ones_too():
    many = np.array([f"caption {n} with 'marks' and \n breaks [{n}]" for n in range(9)])
    assert "\n" in str(many)
    assert items_of(str(many), "c") == many.tolist()


@pytest.mark.parametrize(
    "cell", ["[a boat]", "(a) field (b)", "[sic] a boat", "(two boats)", "{a}", "a ['b']", "7", ""]
)
def test_a_caption_in_brackets_is_a_caption(cell):
    assert items_of(cell, "c") == [cell]


@pytest.mark.parametrize(
    "cell",
    [
        *(["a", 1], [1, 2], [["a"]], [{"url": "a"}], {"a", "b"}),
        *("[1]", "[0.1 -2e-5\n 3]", "['a', 'b]", "['a' b]", "['a', f()]", "[(1, 'a')]"),
    ],
)
def test_other_lists_are_refused(cell):
    with pytest.raises(ValueError, match=r"^(not a text|unreadable list) in column 'c': "):
        items_of(cell, "c")


@pytest.mark.parametrize(
    "begin, repeated, end",
    [
        *(("[", "[", "]"), ("[", "'a', ", "]"), ("[", "-", "'']"), ("['", r"\'", "]")),
        *(("[", "{'a':", "]"), ("['a'", "+'a'", "]"), ("[", "nan", "']"), ("['", "'\"\n", "]")),
    ],
)
def test_long_and_deep_lists_cost_little(begin, repeated, end):
    for length in (MAX_LIST_CHARS - 100, 2**18):
        cell = begin + repeated * (length // len(repeated)) + end
        started = time.process_time()
        if length < MAX_LIST_CHARS and repeated == "'a', ":
            assert len(texts_of(cell, "c")) > 10_000
        else:
            with pytest.raises(ValueError, match="too long" if length == 2**18 else "unreadable"):
                texts_of(cell, "c")
        assert time.process_time() - started < 5


def test_numbers_are_no_texts_and_blanks_no_content():
    for cell in (None, "", " ", NAN, [], {}):
        assert not has_content(cell) and not holds_text(cell)
    for cell in (0, 2.5, "7", "1e-5", "1,000", True, "False", [12, 30], "[12 30]", "2020-01-01"):
        assert has_content(cell) and not holds_text(cell)
    for cell in ("a", "7 boats", ["a"], {"raw": "a"}, "港"):
        assert has_content(cell) and holds_text(cell)
