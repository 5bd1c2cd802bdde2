"""The record: one schema for every data set, stored as tf.Example without TensorFlow.

A record has eight fields:

    id             str            unique within the data set
    image          bytes          encoded RGB image (JPEG, PNG, WebP, ...), as the user gave it
    ir             bytes          encoded infrared image, b"" if there is none
    captions       list of str    short captions
    long_captions  list of str
    ir_captions    list of str
    label          str            class name, "" if there is none
    source         str            where the record comes from
"""

import re
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

TEXT_FIELDS = ("id", "label", "source")
BYTES_FIELDS = ("image", "ir")
LIST_FIELDS = ("captions", "long_captions", "ir_captions")
FIELDS = TEXT_FIELDS + BYTES_FIELDS + LIST_FIELDS
NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def features() -> tfds.features.FeaturesDict:
    """Return the TFDS description of a record."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {field: text() for field in TEXT_FIELDS}
        # TFDS has no optional image, hence a Text for `ir`.
        | {"image": tfds.features.Image(), "ir": text()}
        | {field: tfds.features.Sequence(text()) for field in LIST_FIELDS}
    )


def check_name(kind: str, name: str) -> None:
    """Raise ValueError unless `name` can name a data set or a split (`kind` says which)."""
    if not NAME_PATTERN.fullmatch(name) or (kind == "split" and name == "all"):
        raise ValueError(
            f"{kind} name {name!r} is not possible: it must start with a letter, hold only ASCII "
            'letters, digits and underscores, and a split cannot be called "all"'
        )


def serialize(example: Mapping[str, Any]) -> bytes:
    """Encode one record as a tf.Example that TFDS can read.

    Args:
      example: the fields of a record; `id` and `image` are required, the others default to empty.

    Raises:
      ValueError: unknown field, empty `id` or `image`, text that is not valid Unicode.
      TypeError: a field of the wrong type, such as one string where a list of strings belongs.
    """
    if unknown := sorted(set(example) - set(FIELDS)):
        raise ValueError(f"unknown record fields {unknown}; a record has {', '.join(FIELDS)}")
    values: dict[str, list[bytes]] = {}
    for field in TEXT_FIELDS:
        values[field] = [_utf8(field, example.get(field, ""))]
    for field in BYTES_FIELDS:
        data = example.get(field, b"")
        if not isinstance(data, bytes):
            raise TypeError(f"record field {field!r} wants encoded bytes, got {type(data)}")
        values[field] = [data]
    for field in LIST_FIELDS:
        texts = example.get(field, ())
        if not isinstance(texts, list | tuple):
            raise TypeError(f"record field {field!r} wants a list of strings, got {type(texts)}")
        values[field] = [_utf8(field, text) for text in texts]
    for field in ("id", "image"):
        if not values[field][0]:
            raise ValueError(f"record field {field!r} is empty (id {example.get('id', '')!r})")
    feature = {
        # An empty list must still be set as a bytes list, or TFDS cannot tell its type.
        field: tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=value))
        for field, value in values.items()
    }
    proto = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature))
    # Protobuf maps have no order of their own: without this, equal records get unequal bytes.
    return proto.SerializeToString(deterministic=True)


def parse(serialized: bytes) -> dict[str, Any]:
    """Decode what `serialize` wrote; images stay encoded."""
    feature = tf_example_pb2.Example.FromString(serialized).features.feature
    record: dict[str, Any] = {}
    for field in TEXT_FIELDS:
        record[field] = feature[field].bytes_list.value[0].decode()
    for field in BYTES_FIELDS:
        record[field] = feature[field].bytes_list.value[0]
    for field in LIST_FIELDS:
        record[field] = [value.decode() for value in feature[field].bytes_list.value]
    return record


def _utf8(field: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"record field {field!r} wants a string, got {type(text)}: {text!r}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"record field {field!r} is not valid Unicode: {text!r}") from error
