"""The suites' data files hold together, and absent data sets are passed over with directions."""

import pytest
from ml_collections import ConfigDict

from rsclip_jax import evaluators
from rsclip_jax.data.records import write_dataset
from rsclip_jax.evaluators import class_lists, prompts, suites


def config_of(name, data_dir):
    return ConfigDict(
        {"evals": suites.read(name)["evals"], "input": {"data_dir": str(data_dir)}}
    ).unlock()


@pytest.mark.parametrize("name", suites.NAMES)
def test_every_evaluator_of_a_suite_is_one_that_exists(name):
    suite = suites.read(name)
    assert suite["title"] and suite["note"]
    for key, fields in suite["evals"].items():
        known = evaluators.fields_of(fields["type"])
        assert set(fields) - {"type"} <= set(known), key
        assert {field for field, default in known.items() if default == ""} <= set(fields), key
        if fields["type"] == "zero_shot":
            assert fields.get("protocol", "georsclip") in prompts.PROTOCOLS
            assert fields["class_list"] in class_lists.NAMES
    assert set(suite["images"]) <= set(suite["evals"])
    for model in suite["published"]:
        assert model["model"] and model["source"] and model["numbers"]
        assert {number.split("/")[0] for number in model["numbers"]} <= set(suite["evals"])
        assert set(model.get("images", {})) <= set(suite["evals"])


@pytest.mark.parametrize("name", suites.NAMES)
def test_all_of_a_suite_can_be_absent(name, tmp_path):
    config = config_of(name, tmp_path)
    skipped = suites.cut(name, config)
    assert skipped.keys() == suites.read(name)["evals"].keys()
    assert all("Get " in line for line in skipped.values())
    assert not config.evals


def test_directions_name_the_place_and_the_command(tmp_path):
    skipped = suites.cut("georsclip", config_of("georsclip", tmp_path))
    assert skipped["rsitmd"] == (
        f"no data set 'rsitmd' in {tmp_path}. Get RSITMD: images and dataset_RSITMD.json from "
        "https://github.com/xiaoyuan1996/AMFMN; then: python -m rsclip_jax.prepare --format=json "
        f"--input=dataset_RSITMD.json --images=images --output={tmp_path} --name=rsitmd"
    )
    assert f"--input=FOLDER_OF_CLASS_FOLDERS --output={tmp_path} --name=aid" in skipped["aid"]
    assert str(tmp_path / "AIR-SLT/annotations/anno.json") in skipped["air_slt"]
    skipped = suites.cut("lrsclip", config_of("lrsclip", tmp_path))
    assert "--class_folder=last" in skipped["rsi_cb256"]


def test_what_is_prepared_is_kept_and_a_missing_split_told(tmp_path):
    row = {"id": "a", "image": b"x", "captions": ["a"], "label": "river"}
    write_dataset(tmp_path, "aid", {"anything": [row]})  # the suite takes all splits
    write_dataset(tmp_path, "rsicd", {"train": [row]})
    shard = write_dataset(tmp_path, "rsitmd", {"test": [row]})
    next(shard.glob("*array_record*")).unlink()
    (tmp_path / "AIR-SLT/imgs").mkdir(parents=True)
    (tmp_path / "AIR-SLT/annotations").mkdir()
    (tmp_path / "AIR-SLT/annotations/anno.json").write_text("[]")
    config = config_of("georsclip", tmp_path)
    skipped = suites.cut("georsclip", config)
    assert set(config.evals) == {"aid", "air_slt"}
    assert config.evals.air_slt["images"] == str(tmp_path / "AIR-SLT/imgs")
    # What is there and of no use is not fetched again.
    assert skipped["rsicd"].endswith("has no split 'test'; it has train.")
    assert "is missing: copy it again" in skipped["rsitmd"] and "Get " not in skipped["rsitmd"]


def test_data_named_otherwise_are_found(tmp_path):
    write_dataset(tmp_path, "mine", {"test": [{"id": "a", "image": b"x", "captions": ["a"]}]})
    config = config_of("georsclip", tmp_path)
    config.evals.rsicd.data = "mine"
    config.evals.rsitmd.data = "other"
    skipped = suites.cut("georsclip", config)
    assert config.evals.rsicd.texts == ("short",)
    assert skipped["rsitmd"] == f"no data set 'other' in {tmp_path}."


def test_fusionrs_means_are_those_of_its_directions():
    published = {m["model"]: m["numbers"] for m in suites.read("fusionrs")["published"]}
    assert len(published) == 9
    for model, numbers in published.items():
        means = [numbers[f"fusionrs/{name}"] for name in ("text_mean", "pair_mean")]
        assert numbers["fusionrs/mean_recall"] == pytest.approx(sum(means) / 2, abs=0.011), model
    transfer = {m: n["cart/mean_recall"] for m, n in published.items() if "cart/mean_recall" in n}
    assert list(transfer.values()) == [22.88, 15.29, 24.79, 33.09, 35.36, 43.43, 68.04]


def test_a_part_of_fusionrs_can_be_there(tmp_path):
    row = {"id": "a", "image": b"x", "ir": b"y"}
    write_dataset(tmp_path, "cart", {"test": [row]})
    config = config_of("fusionrs", tmp_path)
    skipped = suites.cut("fusionrs", config)
    assert set(config.evals) == {"cart"} and set(skipped) == {"fusionrs"}


def test_unknown_suites_are_refused():
    with pytest.raises(ValueError, match="did you mean 'georsclip'"):
        suites.read("geoclip")
