from rsclip_jax.data.caption_rows import merge_rows
from rsclip_jax.data.sources import Sample
from rsclip_jax.data.splits import usual_name


def merged(*rows):
    """Merge rows of one image, each given as (label, split)."""
    samples = [
        Sample("", number, id="a.jpg", label=label, split=split, captions=[f"{number}"])
        for number, (label, split) in enumerate(rows)
    ]
    found = merge_rows(lambda: iter(samples), "captions", lambda sample: usual_name(sample.split))
    return [(sample.label, sample.split, sample.captions) for sample in found]


def test_rows_that_differ_from_the_first_are_merged_with_each_other():
    assert merged(("a", ""), ("b", ""), ("b", ""), ("a", "")) == [
        ("a", "", ["0", "3"]),
        ("b", "", ["1", "2"]),
    ]


def test_spellings_of_one_split_are_one():
    rows = ("a", "train"), ("a", "val"), ("a", "Train")
    assert merged(*rows) == [("a", "val", ["1"]), ("a", "train", ["0", "2"])]
