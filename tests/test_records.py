import pickle
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from rsclip_jax.data import records
from rsclip_jax.data.schema import parse, serialize
from rsclip_jax.data.synthetic import write_scenes

# Not an image, but nothing here decodes; trailing zeros are what NumPy's bytes would lose.
IMAGE = b"\xff\xd8\xff image \x00\x00"
FULL = {
    "id": "海港/港口_1.jpg",
    "image": IMAGE,
    "ir": b"infrared\x00",
    "captions": ["ein Hafen mit Schiffen", "", "码头"],
    "long_captions": ["One. Two. Three. " * 100],
    "ir_captions": ["warm"],
    "label": "port",
    "source": "test",
}
EMPTY = {"ir": b"", "captions": [], "long_captions": [], "ir_captions": [], "label": ""}


def example(index, **fields):
    return {"id": f"{index:04d}", "image": IMAGE + bytes([index % 256]), **fields}


def write(output, name="toy", count=5, **kwargs):
    return records.write_dataset(output, name, {"train": map(example, range(count))}, **kwargs)


def test_a_record_comes_back_as_it_was_written():
    assert parse(serialize(FULL)) == FULL


def test_absent_fields_come_back_empty():
    assert parse(serialize({"id": "a", "image": IMAGE})) == {
        "id": "a",
        "image": IMAGE,
        "source": "",
        **EMPTY,
    }


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"captions": "one string"}, TypeError, "list of strings"),
        ({"captions": [b"bytes"]}, TypeError, "wants a string"),
        ({"image": "a.jpg"}, TypeError, "encoded bytes"),
        ({"image": b""}, ValueError, "'image' is empty"),
        ({"id": ""}, ValueError, "'id' is empty"),
        ({"label": "\ud800"}, ValueError, "not valid Unicode"),
        ({"caption": ["typo"]}, ValueError, "unknown record fields"),
    ],
)
def test_wrong_fields_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        serialize({"id": "a", "image": IMAGE, **fields})


def test_tfds_opens_what_was_written(tmp_path):
    directory = records.write_dataset(tmp_path, "toy", {"train": [FULL], "val": [example(1)]})
    builder = tfds.builder_from_directory(directory)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 1,
        "val": 1,
    }
    decoders = {"image": tfds.decode.SkipDecoding()}
    record = builder.as_data_source(split="train", decoders=decoders)[0]
    assert record["image"] == IMAGE
    assert record["ir"] == FULL["ir"]
    assert record["id"].decode() == FULL["id"]
    assert [text.decode() for text in record["captions"]] == FULL["captions"]
    empty = builder.as_data_source(split="val", decoders=decoders)[0]
    assert len(empty["captions"]) == 0


def test_records_are_read_in_the_order_written_across_shards(tmp_path):
    size = len(serialize(example(0)))
    with records.DatasetWriter(tmp_path, "toy", shard_bytes=3 * size) as writer:
        for index in range(10):
            writer.write("train", serialize(example(index)))
    shards = sorted(path.name for path in (tmp_path / "toy/1.0.0").glob("*array_record*"))
    assert shards == [f"toy-train.array_record-{i:05d}-of-00004" for i in range(4)]
    source = records.open_source(tmp_path, "toy", "train")
    assert [record["id"] for record in source] == [f"{i:04d}" for i in range(10)]
    assert source[7]["image"] == example(7)["image"]
    assert len(records.open_source(tmp_path, "toy", "train[:30%]")) == 3


def test_shards_allow_random_access_to_single_records(tmp_path):
    (shard,) = write(tmp_path).glob("*array_record*")
    reader = array_record_module.ArrayRecordReader(str(shard))
    assert "group_size:1," in reader.writer_options_string()


def test_overlapping_parts_of_a_data_set_are_recognised(tmp_path):
    names = {"train": map(example, range(10)), "val": map(example, range(10, 12))}
    records.write_dataset(tmp_path, "toy", names)

    def overlap(one, other):
        return records.open_source(tmp_path, "toy", one).overlaps(
            records.open_source(tmp_path, "toy", other)
        )

    assert overlap("train", "train") and overlap("val", "all")
    assert overlap("train[:5]", "train[4:]") and overlap("train[2:4]", "train")
    assert not overlap("train", "val") and not overlap("train[:5]", "train[5:]")


def test_a_source_survives_pickling_and_refuses_indices_out_of_range(tmp_path):
    write(tmp_path)
    source = records.open_source(tmp_path, "toy", "train")
    assert source[2]["id"] == "0002"
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(len(copy))] == list(source)
    for index in (5, -1):
        with pytest.raises(IndexError):
            source[index]


def test_reading_and_writing_need_no_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "from rsclip_jax.data import records\n"
        f"records.write_dataset({str(tmp_path)!r}, 'toy', {{'train': [{example(3)!r}]}})\n"
        f"source = records.open_source({str(tmp_path)!r}, 'toy', 'train')\n"
        "print(source[0]['id'], 'tensorflow' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "0003 False", result.stderr


def test_a_missing_data_set_is_told_with_those_present_and_the_command(tmp_path):
    write(tmp_path, "rsicd")
    with pytest.raises(FileNotFoundError, match=r"are: rsicd.*mean 'rsicd'.*rsclip_jax.prepare"):
        records.open_source(tmp_path, "rsicdd", "train")
    with pytest.raises(FileNotFoundError, match="there is none"):
        records.open_source(tmp_path / "nowhere", "rsicd", "train")


def test_a_missing_split_is_told_with_those_present(tmp_path):
    records.write_dataset(tmp_path, "toy", {"train": [example(1)], "val": [example(2)]})
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        records.open_source(tmp_path, "toy", "test")


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_shard_is_refused_by_name(tmp_path, keep):
    (shard,) = write(tmp_path, count=200).glob("*array_record*")
    data = shard.read_bytes()
    shard.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged: it holds 0 records"):
        records.open_source(tmp_path, "toy", "train")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing"):
        records.open_source(tmp_path, "toy", "train")


def test_an_exception_leaves_nothing_behind(tmp_path):
    def examples():
        yield example(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_dataset(tmp_path, "toy", {"train": examples()})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_data_set_is_replaced_only_on_demand_and_only_by_a_complete_one(tmp_path):
    write(tmp_path, count=2)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write(tmp_path, count=3)
    with pytest.raises(ValueError, match="appears twice"):
        records.write_dataset(tmp_path, "toy", {"train": [example(1), example(1)]}, overwrite=True)
    assert len(records.open_source(tmp_path, "toy", "train")) == 2
    write(tmp_path, count=3, overwrite=True)
    assert len(records.open_source(tmp_path, "toy", "train")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path):
    write(tmp_path, count=2)
    (tmp_path / "toy").rename(tmp_path / ".toy.replaced")
    with pytest.raises(ValueError, match="no record"):
        write(tmp_path, count=0, overwrite=True)
    assert len(records.open_source(tmp_path, "toy", "train")) == 2


def test_two_writers_of_one_data_set_do_not_mix(tmp_path):
    with records.DatasetWriter(tmp_path, "toy") as first:
        with pytest.raises(records.DatasetBusyError):
            with records.DatasetWriter(tmp_path, "toy"):
                pass
        first.write("train", serialize(example(1)))
    assert len(records.open_source(tmp_path, "toy", "train")) == 1


@pytest.mark.parametrize("name", ["", "my-data", "../toy", "a/b", "1st", "ä"])
def test_impossible_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="data set name"):
        write(tmp_path, name)
    with pytest.raises(ValueError, match="split name"):
        records.write_dataset(tmp_path, "toy", {name: [example(1)]})


def test_empty_data_sets_and_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no record was written"):
        records.write_dataset(tmp_path, "toy", {})
    with pytest.raises(ValueError, match="split 'val' of 'toy' has no record"):
        records.write_dataset(tmp_path, "toy", {"train": [example(1)], "val": []})


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder)
    write(tmp_path / "c", count=6)
    fingerprints = [records.dataset_fingerprint(tmp_path / folder, "toy") for folder in "abc"]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_flipped_bit_names_the_shard_and_is_passed_over(tmp_path):
    write_scenes(tmp_path, "scenes", train=20, val=2, size=16)
    (shard,) = tmp_path.glob("scenes/*/*train*")
    whole = list(records.open_source(tmp_path, "scenes", "train"))
    data = bytearray(shard.read_bytes())
    data[6000] ^= 16  # of 20 records, of about 900 bytes each
    shard.write_bytes(data)
    source = records.open_source(tmp_path, "scenes", "train")
    found, errors = [], []
    for index in range(len(source)):
        try:
            found.append(source[index]["id"])
        except ValueError as error:
            errors.append((index, str(error)))
    ((index, message),) = errors
    assert f"record {index} of scenes/train is damaged" in message and str(shard) in message
    assert found == [record["id"] for record in whole[:index] + whole[index + 1 :]]
