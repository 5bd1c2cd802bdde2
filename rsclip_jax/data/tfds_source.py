"""Labelled data sets of TensorFlow Datasets, by name or as TFDS has prepared them; no TensorFlow.

TFDS builds its remote-sensing data sets with TensorFlow, but reads what is built, if it is stored
as ArrayRecord, without.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rsclip_jax.data.records import check_shard
from rsclip_jax.data.sources import InputError, Sample, Source

INFO_FILE = "dataset_info.json"
ARRAY_RECORD = tfds.core.FileFormat.ARRAY_RECORD


def open_tfds(name: str) -> Source:
    """Open a TFDS data set: the stored bytes of its images, and the names of their classes.

    The id is the feature `filename`, or SPLIT-INDEX without one; splits keep their names.

    Args:
      name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION, prepared now if that was not done before
        (where TFDS keeps its data: TFDS_DATA_DIR or ~/tensorflow_datasets); or the directory of
        one version, DATA_DIR/NAME/CONFIG/VERSION.

    Raises:
      InputError: no such data set, one that cannot be prepared here, is not stored as ArrayRecord,
        is damaged, or has no image or no label.
    """
    builder = _from_directory(name) if os.path.isdir(name) else _by_name(name)
    info = builder.info
    image = _feature(info, name, "image", tfds.features.Image)
    label = _feature(info, name, "label", tfds.features.ClassLabel)
    if ARRAY_RECORD not in info.available_file_formats():
        raise InputError(
            f"--input={name}: {builder.data_dir} is stored as {info.file_format.value}, which only "
            f"TensorFlow reads; `{_build_command(builder)} --overwrite` stores it anew, with "
            "TensorFlow installed"
        )
    splits = builder.as_data_source(
        decoders={image: tfds.decode.SkipDecoding()}, file_format=ARRAY_RECORD
    )
    _check_shards(info)
    names = info.features[label].names

    def samples() -> Iterator[Sample]:
        position = 0
        for split, examples in splits.items():
            for index in range(len(examples)):
                example = examples[index]
                position += 1
                yield Sample(
                    f"{split}[{index}]",
                    position,
                    id=_text(example.get("filename")) or f"{split}-{index}",
                    image=example[image],
                    # TFDS has -1 for an unknown class.
                    label=names[example[label]] if example[label] >= 0 else "",
                    split=split,
                )

    return Source(samples, sum(map(len, splits.values())))


def _from_directory(directory: str) -> tfds.core.DatasetBuilder:
    if not os.path.exists(os.path.join(directory, INFO_FILE)):
        raise InputError(
            f"--input={directory} holds no {INFO_FILE}: give the directory of one version of a "
            "data set that TFDS has prepared, such as DATA_DIR/eurosat/rgb/2.0.0"
        )
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # of TFDS, protobuf or JSON, for whatever is wrong in there
        raise InputError(f"--input={directory}: TFDS cannot open it: {error}") from error


def _by_name(name: str) -> tfds.core.DatasetBuilder:
    try:
        builder = tfds.builder(name)
    except Exception as error:  # Builders are code of many authors.
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(
            f"--input={name} is no directory and no TFDS data set: {reason} Names are listed at "
            "https://www.tensorflow.org/datasets/catalog"
        ) from error
    if builder.is_prepared():
        return builder
    try:
        # After a long download, most builders find out that they need TensorFlow.
        if importlib.util.find_spec("tensorflow") is None:
            raise ImportError("TFDS builds data sets with TensorFlow, which is not installed")
        builder.download_and_prepare(file_format=ARRAY_RECORD)
    except Exception as error:
        raise InputError(_cannot_prepare(builder, error)) from error
    return builder


def _cannot_prepare(builder: tfds.core.DatasetBuilder, error: Exception) -> str:
    message = (
        f"{builder.info.full_name} is not in {builder.data_dir} and cannot be prepared: {error}.\n"
        "In an environment of its own: pip install tensorflow-datasets tensorflow "
        f"importlib_resources, then `{_build_command(builder)}`, and run this command again. Or "
        "unpack the archive of the data set itself: its class folders go in with --format=folder"
    )
    if manual := builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        lines = "\n".join(line.strip() for line in manual.strip().splitlines())
        message += f"\nTFDS wants it downloaded by hand; the option is --manual_dir:\n{lines}"
    return message


def _build_command(builder: tfds.core.DatasetBuilder) -> str:
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    return f"tfds build {builder.name}{config} --file_format={ARRAY_RECORD.value}"


def _feature(info: tfds.core.DatasetInfo, name: str, usual: str, kind: type) -> str:
    """Find the feature of a kind: the one of the usual name, or the only one there is."""
    found = [key for key, feature in info.features.items() if isinstance(feature, kind)]
    if usual in found:
        return usual
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"--input={name} has {'several' if found else 'no'} {kind.__name__} features where one is "
        f"expected; its features are {', '.join(info.features)}. Another configuration of it "
        "(NAME/CONFIG) may have one"
    )


def _check_shards(info: tfds.core.DatasetInfo) -> None:
    for split in info.splits.values():
        for part in split.file_instructions:
            try:
                check_shard(Path(part.filename), part.examples_in_shard)
            except (OSError, ValueError) as error:
                raise InputError(str(error)) from error


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
