"""What all evaluators have in common: fields that are documented and checked, and their order."""

import re

import pytest
from ml_collections import ConfigDict

from rsclip_jax import evaluators
from rsclip_jax.training.workdir import load_config, save_config

RETRIEVAL = {"type": "retrieval", "data": "d", "split": "val"}


@pytest.mark.parametrize("kind", evaluators.TYPES)
def test_every_field_is_documented_where_the_evaluator_is(kind):
    arguments = evaluators.TYPES[kind].__doc__.partition("Args:")[2]
    listed = re.findall(r"^      ([\w, ]+):", arguments, re.MULTILINE)
    documented = {name for names in listed for name in names.split(", ")}
    assert evaluators.fields_of(kind).keys() <= documented


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "retrival"}, "e.type='retrival': .*; did you mean 'retrieval'"),
        ({"type": ""}, "e.type is not given: expected one of retrieval, "),
        ({"protocol": ("any",)}, "e.protocol: .* no such field; .* did you mean 'protocols'"),
        ({"split": ""}, "e needs the field 'split': --config.evals.e.split="),
        ({"limit": "many"}, "e.limit='many': expected a whole number"),
        ({"limit": True}, "e.limit=True: expected a whole number"),
        ({"data": 2024}, "e.data=2024: expected a string"),
        ({"texts": "short"}, "e.texts='short': expected a tuple of strings"),
        ({"type": "zero_shot", "label_words": 1}, "e.label_words=1: expected True or False"),
        (
            {"type": "semantic_localization", "annotations": "a", "images": "i", "scales": (8.5,)},
            re.escape("e.scales=(8.5,): expected a tuple of whole numbers"),
        ),
    ],
)
def test_wrong_types_fields_and_values_are_refused_in_one_line(fields, message):
    given = fields if "annotations" in fields else {**RETRIEVAL, **fields}
    with pytest.raises(ValueError, match=message) as error:
        evaluators.settle(ConfigDict({"evals": {"e": given}}))
    assert "\n" not in str(error.value)


def test_what_is_no_evaluator_is_refused():
    with pytest.raises(ValueError, match=r"evals\.e=3: expected fields, such as"):
        evaluators.settle(ConfigDict({"evals": {"e": 3}}))


def test_evaluators_keep_the_order_in_which_they_are_written(tmp_path):
    config = ConfigDict({"evals": {}})
    for name in ("val", "test", "a"):
        config.evals[name] = RETRIEVAL
    assert list(evaluators.settle(config)) == ["val", "test", "a"]
    save_config(tmp_path / "config.json", config.copy_and_resolve_references())
    read = load_config(tmp_path / "config.json")
    assert list(evaluators.settle(read)) == ["val", "test", "a"]
    assert list(evaluators.settle(ConfigDict({"evals": {"b": RETRIEVAL, "a": RETRIEVAL}}))) == [
        *("b", "a")
    ]
