"""The suites' data files hold together, and absent data sets are passed over with directions."""

import pytest

from rsclip_jax import evaluators
from rsclip_jax.data.records import write_dataset
from rsclip_jax.evaluators import prompts, suites


@pytest.mark.parametrize("name", suites.NAMES)
def test_every_evaluator_of_a_suite_is_one_that_exists(name, tmp_path):
    suite = suites.load(name, str(tmp_path))
    assert suite.title and suite.note
    assert not suite.evals  # nothing is prepared here
    everything = suites.read(name)["evals"]
    assert set(suite.skipped) == set(everything)
    for key, fields in everything.items():
        known = evaluators.fields_of(fields["type"])
        assert set(fields) - {"type"} <= set(known), key
        assert {field for field, default in known.items() if default == ""} <= set(fields), key
        if fields["type"] == "zero_shot":
            assert fields.get("protocol", "georsclip") in prompts.PROTOCOLS
    assert set(suite.sizes) <= set(everything)
    for model in suite.published:
        assert model["model"] and model["source"] and model["numbers"]
        assert {number.split("/")[0] for number in model["numbers"]} <= set(everything)


def test_directions_name_the_place_and_the_command(tmp_path):
    skipped = suites.load("georsclip", str(tmp_path)).skipped
    assert skipped["rsitmd"] == (
        f"no data set 'rsitmd' in {tmp_path}. Get RSITMD: images and dataset_RSITMD.json from "
        "https://github.com/xiaoyuan1996/AMFMN; then: python -m rsclip_jax.prepare --format=json "
        f"--input=dataset_RSITMD.json --images=images --output={tmp_path} --name=rsitmd"
    )
    assert f"--input=AID --output={tmp_path} --name=aid" in skipped["aid"]
    assert str(tmp_path / "AIR-SLT/annotations/anno.json") in skipped["air_slt"]


def test_what_is_prepared_is_kept_and_a_missing_split_told(tmp_path):
    row = {"id": "a", "image": b"x", "captions": ["a"], "label": "river"}
    write_dataset(tmp_path, "aid", {"anything": [row]})  # the suite takes all splits
    write_dataset(tmp_path, "rsicd", {"train": [row]})
    suite = suites.load("georsclip", str(tmp_path))
    assert list(suite.evals) == ["aid"]
    assert "data set 'rsicd' in " in suite.skipped["rsicd"]
    assert "has no split 'test'; it has train" in suite.skipped["rsicd"]
    (tmp_path / "AIR-SLT/imgs").mkdir(parents=True)
    (tmp_path / "AIR-SLT/annotations").mkdir()
    (tmp_path / "AIR-SLT/annotations/anno.json").write_text("[]")
    found = suites.load("georsclip", str(tmp_path)).evals["air_slt"]
    assert found["images"] == str(tmp_path / "AIR-SLT/imgs")


def test_sequences_become_tuples_as_in_a_config(tmp_path):
    row = {"id": "a", "image": b"x", "captions": ["a"]}
    write_dataset(tmp_path, "rsicd", {"test": [row]})
    assert suites.load("georsclip", str(tmp_path)).evals["rsicd"]["texts"] == ("short",)


def test_unknown_suites_are_refused():
    with pytest.raises(ValueError, match="did you mean 'georsclip'"):
        suites.load("geoclip", ".")
