"""Data sets in the layouts of TFDS's own builders; the builds themselves need TensorFlow."""

import io
import os

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants, example_serializer
from test_prepare import picture

from rsclip_jax.data import records, tfds_source
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tfds_source import open_tfds
from rsclip_jax.prepare import Options, prepare


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """The directory where TFDS looks for data sets by name."""
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def write(builder, examples, splits=("train",), file_format="array_record"):
    """Write the same examples into each split, as TFDS does."""
    info = builder.info
    os.makedirs(builder.data_dir)
    info.set_file_format(file_format, override=True)
    features = info.features
    serialize = example_serializer.ExampleSerializer(features.get_serialized_info())
    infos = []
    for split in splits:
        template = tfds.core.ShardedFileTemplate(
            data_dir=builder.data_dir,
            dataset_name=builder.name,
            split=split,
            filetype_suffix=file_format,
        )
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        writer = records.array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            writer.write(serialize.serialize_example(features.encode_example(example)))
        writer.close()
        infos.append(tfds.core.SplitInfo(split, [len(examples)], 1, filename_template=template))
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(builder.data_dir)
    return str(builder.data_dir)


def example(seed, label, size=(64, 64), form="JPEG", **more):
    return {"image": io.BytesIO(picture(seed, size, form)), "label": label, **more}


def options(tmp_path, name, **changes):
    given = {"format": "tfds", "input": name, "output": str(tmp_path / "data"), "name": "toy"}
    return Options(**given, workers=1, **changes)


@pytest.mark.parametrize(
    "name, labels, size, form",
    [
        ("eurosat", ("Forest", "SeaLake"), (64, 64), "JPEG"),
        ("eurosat/rgb", ("SeaLake", "River"), (64, 64), "JPEG"),
        ("resisc45", ("airplane", "wetland"), (256, 256), "JPEG"),
        ("uc_merced", ("agricultural", "river"), (250, 256), "PNG"),
    ],
)
def test_prepared_data_sets_are_read_by_name_and_by_directory(
    tmp_path, data_dir, name, labels, size, form
):
    examples = [
        example(seed, label, size, form, filename=f"{label}{seed}.x")
        for seed, label in enumerate(labels)
    ]
    directory = write(tfds.builder(name), examples)
    assert directory.startswith(str(data_dir))
    for given in (name, directory):
        source = open_tfds(given)
        assert [(s.id, s.label, s.split) for s in source] == [
            (f"{label}{seed}.x", label, "train") for seed, label in enumerate(labels)
        ]
        assert [s.image for s in source] == [picture(seed, size, form) for seed in (0, 1)]
        assert [s.position for s in source] == [1, source.size]


def test_a_tfds_data_set_becomes_one_of_records(tmp_path, data_dir):
    write(tfds.builder("eurosat/rgb"), [example(1, "Forest", filename="Forest_1.jpg")])
    prepare(options(tmp_path, "eurosat/rgb"))
    (record,) = records.open_source(tmp_path / "data", "toy", "train")
    assert (record["id"], record["label"], record["captions"]) == ("Forest_1.jpg", "Forest", [])
    assert record["image"] == picture(1, (64, 64))


def builder_of(root, **features):
    """Return a builder of a data set with these features."""

    class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            raise NotImplementedError

        def _generate_examples(self):
            raise NotImplementedError

    return Toy(data_dir=root)


IMAGE = tfds.features.Image()
LABEL = tfds.features.ClassLabel(names=["port", "sea"])


def test_without_file_names_the_split_and_index_are_the_id(tmp_path):
    builder = builder_of(tmp_path, photo=IMAGE, scene=LABEL)
    rows = [{"photo": io.BytesIO(picture(1)), "scene": scene} for scene in ("sea", -1)]
    source = open_tfds(write(builder, rows, splits=("train", "test")))
    assert {(s.id, s.split, s.label) for s in source} == {
        *(("train-0", "train", "sea"), ("train-1", "train", "")),
        *(("test-0", "test", "sea"), ("test-1", "test", "")),
    }
    assert source.size == 4


def test_data_sets_without_an_image_or_a_label_are_refused(tmp_path):
    write(builder_of(tmp_path / "1", image=IMAGE), [{"image": io.BytesIO(picture(1))}])
    with pytest.raises(InputError, match=r"no ClassLabel features .* its features are image\."):
        open_tfds(str(tmp_path / "1/toy/1.0.0"))
    write(builder_of(tmp_path / "2", label=LABEL), [{"label": 0}])
    with pytest.raises(InputError, match="no Image features"):
        open_tfds(str(tmp_path / "2/toy/1.0.0"))
    rows = [{"left": io.BytesIO(picture(1)), "right": io.BytesIO(picture(1)), "label": 0}]
    write(builder_of(tmp_path / "3", left=IMAGE, right=IMAGE, label=LABEL), rows)
    with pytest.raises(InputError, match="several Image features"):
        open_tfds(str(tmp_path / "3/toy/1.0.0"))


def test_tfrecord_data_sets_are_refused_with_the_command_that_mends_it(data_dir):
    row = example(1, "Forest", filename="Forest_1.jpg")
    directory = write(tfds.builder("eurosat"), [row], file_format="tfrecord")
    command = r"`tfds build eurosat/rgb --file_format=array_record --overwrite`"
    for given in ("eurosat", directory):
        with pytest.raises(InputError, match=rf"stored as tfrecord.*{command}"):
            open_tfds(given)


def test_what_is_not_prepared_tells_how_to_build_it(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    for name in ("eurosat", "resisc45"):
        with pytest.raises(InputError) as caught:
            open_tfds(name)
        message = str(caught.value)
        assert "TensorFlow, which is not installed" in message
        assert f"`tfds build {name}" in message and "--file_format=array_record`" in message
        assert ("--manual_dir" in message and "1drv.ms" in message) == (name == "resisc45")


def test_what_tfds_cannot_build_is_told_without_a_traceback(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: True)

    def fail(builder, **given):
        assert given == {"file_format": tfds.core.FileFormat.ARRAY_RECORD}
        raise AssertionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match="no route to host"):
        open_tfds("uc_merced")


@pytest.mark.parametrize(
    "name, message",
    [
        ("nosuch", "no TFDS data set: Dataset nosuch not found"),
        ("eurosat/none", "BuilderConfig none not found"),
        ("/no/such/directory", "is no directory and no TFDS data set"),
    ],
)
def test_unknown_names_are_told(data_dir, name, message):
    with pytest.raises(InputError, match=message):
        open_tfds(name)


def test_directories_of_something_else_and_damaged_ones_are_told(tmp_path):
    with pytest.raises(InputError, match=r"holds no dataset_info.json: .*DATA_DIR/eurosat"):
        open_tfds(str(tmp_path))
    directory = tmp_path / "toy/1.0.0"
    row = {"image": io.BytesIO(picture(1)), "label": 0}
    write(builder_of(tmp_path, image=IMAGE, label=LABEL), [row])
    shard = directory / "toy-train.array_record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        open_tfds(str(directory))
    shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        open_tfds(str(directory))
    (directory / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="TFDS cannot open it"):
        open_tfds(str(directory))


@pytest.mark.parametrize(
    "changes, flag",
    [
        ({"images": "images"}, "--images"),
        ({"split": "test"}, "--split"),
        ({"columns": {"label": ("label",)}}, "--label_column"),
    ],
)
def test_flags_that_mean_nothing_for_tfds_are_refused(tmp_path, changes, flag):
    with pytest.raises(InputError, match=f"{flag} means nothing for --format=tfds"):
        prepare(options(tmp_path, "eurosat", **changes))
