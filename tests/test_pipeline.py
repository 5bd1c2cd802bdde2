"""The input pipeline: which samples a step holds, what is in them, and how they get to devices."""

import io
import itertools
import threading
import time
from collections import Counter

import jax
import ml_collections
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from rsclip_jax.data import images, pipeline
from rsclip_jax.data.records import write_dataset

SIZE = 16


class Bytes:
    """A tokenizer whose ids are the text's bytes, so that a test can read the text back."""

    def __init__(self, length: int):
        self.length = length

    def __call__(self, texts: list[str]) -> np.ndarray:
        rows = [list(text.encode()[: self.length]) for text in texts]
        return np.array([row + [0] * (self.length - len(row)) for row in rows], np.int32)


def read(tokens: np.ndarray) -> list[str]:
    return [bytes(row[row > 0].astype(np.uint8)).decode() for row in tokens]


LENGTHS = {"text": 20, "text_long": 90}


def config(**changes) -> ml_collections.ConfigDict:
    fields = {
        "data_dir": "data",
        "data": {"a": 1.0},
        "split": "train",
        "batch_size": 8,
        "lengths": LENGTHS,
        "subset": 1.0,
        "ir": False,
        "ir_view": "translated",
        "ir_text_source": "ir_caption",
        "caption": "random",
        "long_caption": "auto",
        "crop": (0.3, 1.0),
        "flip": True,
        "right_angles": True,
        "rotate": 0.0,
        "threads": 2,
        "workers": 0,
    }
    return ml_collections.ConfigDict(fields | changes)


def encoded(seed: int, size: int = 24) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def record(name: str, i: int, **changes) -> dict:
    fields = {
        "id": f"{name}{i}",
        "image": encoded(i),
        "ir": b"",
        "captions": [f"{name}{i} c{j} ." for j in range(3)],
        "long_captions": [],
        "ir_captions": [],
        "label": "",
        "source": "test",
    }
    return fields | changes


def records(name: str, count: int, **changes) -> list[dict]:
    return [record(name, i, **changes) for i in range(count)]


def dataset(input_config=None, sources=None, *, seed=0, host_index=0, host_count=1):
    input_config = input_config or config()
    return pipeline.dataset_of_sources(
        sources or {"a": records("a", 20)},
        input_config,
        SIZE,
        {field: Bytes(length) for field, length in input_config.lengths.items()},
        seed=seed,
        host_index=host_index,
        host_count=host_count,
    )


def ids(batch: dict) -> list[str]:
    return [text.split()[0] for text in read(batch["text"])]


def assert_equal_batches(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for field in one:
        np.testing.assert_array_equal(one[field], other[field], err_msg=field)


def test_a_batch_has_the_promised_shapes():
    batch = dataset(config(ir=True, lengths=LENGTHS | {"text_ir": 7}))[0]
    assert {field: (array.shape, array.dtype) for field, array in batch.items()} == {
        "image": ((8, SIZE, SIZE, 3), np.uint8),
        "ir": ((8, SIZE, SIZE, 3), np.uint8),
        "ir_mask": ((8,), bool),
        "text": ((8, 20), np.int32),
        "text_long": ((8, 90), np.int32),
        "text_ir": ((8, 7), np.int32),
        "record": ((8,), np.int32),
    }


@pytest.mark.parametrize("host_count", [2, 4, 8])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(host_count):
    sources = {"a": records("a", 20), "b": records("b", 7)}
    mixture = config(data={"a": 0.7, "b": 0.3})
    alone = dataset(mixture, sources)
    hosts = [
        dataset(mixture, sources, host_index=host, host_count=host_count)
        for host in range(host_count)
    ]
    for step in (0, 1, 9):  # Epochs of `a` and of `b` end in between.
        expected = alone[step]
        for host, share in enumerate(hosts):
            assert_equal_batches(
                share[step], {field: x[host::host_count] for field, x in expected.items()}
            )


def test_batches_of_one_are_drawn_in_the_order_of_greater_ones():
    single = dataset(config(batch_size=1)).to_iter_dataset()
    drawn = [ids(batch)[0] for batch in itertools.islice(single, 8)]
    assert drawn == ids(dataset()[0])


def test_the_number_of_threads_changes_nothing():
    one = dataset(config(threads=1, batch_size=80))
    many = dataset(config(threads=7, batch_size=80))
    iterator = pipeline.train_iterator(many, 0, config())
    for step in range(4):
        assert_equal_batches(one[step], next(iterator))
    iterator.close()


def test_worker_processes_change_nothing():
    alone = dataset()
    iterator = pipeline.train_iterator(dataset(config(workers=2)), 3, config(workers=2))
    for step in range(3, 8):
        assert_equal_batches(alone[step], next(iterator))
    iterator.close()


@pytest.mark.parametrize("start", [0, 1, 7, 1_000_000])
def test_a_restart_continues_at_any_step(start):
    iterator = pipeline.train_iterator(dataset(), start, config())
    anew = dataset()
    for step in range(start, start + 4):
        assert_equal_batches(next(iterator), anew[step])
    iterator.close()


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own():
    data = dataset()
    seen = [name for step in range(5) for name in ids(data[step])]
    first, second = seen[:20], seen[20:]
    assert sorted(first) == sorted(second) == sorted(f"a{i}" for i in range(20))
    assert first != second and first != sorted(first)


def test_the_seed_decides_order_and_augmentation():
    data, same, other = dataset(), dataset(), dataset(seed=1)
    assert_equal_batches(data[0], same[0])
    assert ids(data[0]) != ids(other[0])
    fixed = {"a": records("a", 1)}
    assert not np.array_equal(
        dataset(None, fixed)[0]["image"], dataset(None, fixed, seed=1)[0]["image"]
    )


def test_the_same_sample_is_seen_differently_each_time():
    batches = [dataset(None, {"a": records("a", 1)})[step] for step in (0, 1)]
    views = {view.tobytes() for batch in batches for view in batch["image"]}
    assert len(views) == 16
    assert len(set(read(batches[0]["text"]))) == 3


def test_data_sets_are_mixed_by_weight_and_each_keeps_its_epochs():
    sources = {"a": records("a", 12), "b": records("b", 30)}
    data = dataset(config(data={"a": 0.75, "b": 0.25}, batch_size=4), sources)
    seen = [name for step in range(40) for name in ids(data[step])]
    for end in (16, 80, 160):
        assert abs(Counter(name[0] for name in seen[:end])["a"] - 0.75 * end) <= 1
    of_a, of_b = ([name for name in seen if name[0] == which] for which in "ab")
    for epoch in range(0, 120, 12):
        assert len(set(of_a[epoch : epoch + 12])) == 12
    assert len(set(of_b[:30])) == 30


def test_data_sets_of_equal_size_are_not_shuffled_alike():
    sources = {"a": records("a", 20), "b": records("b", 20)}
    data = dataset(config(data={"a": 1.0, "b": 1.0}, batch_size=40), sources)
    seen = [name for step in range(3) for name in ids(data[step])]
    orders = {
        which: [[name[1:] for name in seen if name[0] == which][i : i + 20] for i in (0, 20, 40)]
        for which in "ab"
    }
    assert not any(a == b for a in orders["a"] for b in orders["b"])


def test_the_order_of_the_data_sets_in_the_config_does_not_matter():
    a, b = records("a", 9), records("b", 9)
    weights = {"a": 1.0, "b": 2.0}
    one = dataset(config(data=weights), {"a": a, "b": b})
    other = dataset(config(data=weights), {"b": b, "a": a})
    assert_equal_batches(one[3], other[3])


def test_a_second_data_set_leaves_the_order_of_the_first_alone():
    alone = dataset(config(batch_size=20))
    mixed = dataset(
        config(data={"a": 1.0, "b": 1.0}, batch_size=40),
        {"a": records("a", 20), "b": records("b", 5)},
    )
    assert [name for name in ids(mixed[0]) if name[0] == "a"] == ids(alone[0])


def test_infrared_gets_the_geometry_of_its_image_and_a_mask():
    pairs = [record("a", i, ir=encoded(i) if i % 2 else b"", ir_captions=[]) for i in range(20)]
    for rotate in (0.0, 180.0):
        batch = dataset(config(ir=True, rotate=rotate, batch_size=20), {"a": pairs})[0]
        odd = np.array([int(name[1:]) % 2 == 1 for name in ids(batch)])
        np.testing.assert_array_equal(batch["ir_mask"], odd)
        np.testing.assert_array_equal(batch["ir"][odd], batch["image"][odd])
        assert not batch["ir"][~odd].any()


def test_infrared_captions_are_empty_where_there_is_no_infrared_image():
    pairs = [record("a", 0, ir=encoded(0), ir_captions=["warm"]), record("a", 1)]
    batch = dataset(config(ir=True, lengths={"text": 20, "text_ir": 9}), {"a": pairs})[0]
    for name, text, present in zip(
        ids(batch), read(batch["text_ir"]), batch["ir_mask"], strict=True
    ):
        assert (text, present) == (("warm", True) if name == "a0" else ("", False))


@pytest.mark.parametrize("ir_view", ["grayscale", "rgb_duplicate"])
def test_control_views_are_made_of_the_view_of_rgb(ir_view):
    pairs = [record("a", i, ir=encoded(i + 50) if i % 2 else b"") for i in range(20)]
    batch = dataset(config(ir=True, ir_view=ir_view, rotate=30.0, batch_size=20), {"a": pairs})[0]
    odd = np.array([int(name[1:]) % 2 == 1 for name in ids(batch)])
    np.testing.assert_array_equal(batch["ir_mask"], odd)
    expected = batch["image"] * odd[:, None, None, None]
    if ir_view == "grayscale":
        luma = expected @ [0.299, 0.587, 0.114]
        expected = np.repeat(luma[..., None], 3, axis=-1)
    np.testing.assert_allclose(batch["ir"], expected, atol=0.51)


def test_the_text_of_infrared_is_the_caption_the_infrared_caption_or_either():
    pairs = [record("a", i, ir=encoded(i), ir_captions=["grey"]) for i in range(400)]
    pairs[7] = record("a", 7, ir=encoded(7))
    settings = config(ir=True, lengths={"text": 20, "text_ir": 20}, batch_size=400)
    settings.ir_text_source = "caption"
    assert "text_ir" not in dataset(settings, {"a": pairs})[0]
    settings.ir_text_source = "mixed"
    batch = dataset(settings, {"a": pairs})[0]
    texts, texts_ir = read(batch["text"]), read(batch["text_ir"])
    assert 160 < texts_ir.count("grey") < 240
    same = [a == b for a, b in zip(texts, texts_ir, strict=True)]
    assert sum(same) + texts_ir.count("grey") == 400
    assert same[ids(batch).index("a7")]


def test_a_smaller_part_of_the_records_is_contained_in_a_greater_one():
    whole = records("a", 50)
    parts = [pipeline.Part(whole, n) for n in (5, 20)]
    small, large = ([part[i]["id"] for i in range(len(part))] for part in parts)
    assert large[:5] == small and len(set(large)) == 20
    assert large != [whole[i]["id"] for i in range(20)]
    with pytest.raises(ValueError, match="subset asks for 51 of the 50 records"):
        pipeline.Part(whole, 51)


def test_first_caption_and_long_caption_of_the_record():
    source = records("a", 5, long_captions=["L0", "L1"])
    batch = dataset(config(caption="first", batch_size=5), {"a": source})[0]
    assert all(text.endswith("c0 .") for text in read(batch["text"]))
    assert set(read(batch["text_long"])) == {"L0"}
    batch = dataset(config(batch_size=40), {"a": source})[0]
    assert set(read(batch["text_long"])) == {"L0", "L1"}


def test_long_captions_are_composed_in_any_order_where_there_are_none():
    batch = dataset(config(batch_size=60), {"a": records("a", 1)})[0]
    texts = set(read(batch["text_long"]))
    assert len(texts) == 6
    assert {tuple(sorted(text.rstrip(".").split(". "))) for text in texts} == {
        ("a0 c0", "a0 c1", "a0 c2")
    }
    first = dataset(config(caption="first"), {"a": records("a", 1)})[0]
    assert set(read(first["text_long"])) == {"a0 c0. a0 c1. a0 c2."}
    forced = config(long_caption="compose", caption="first")
    composed = dataset(forced, {"a": records("a", 1, long_captions=["L"])})[0]
    assert set(read(composed["text_long"])) == {"a0 c0. a0 c1. a0 c2."}


def test_a_label_stands_in_for_missing_captions():
    source = records("a", 1, captions=[], label="storage_tank")
    lengths = {"text": 50, "text_long": 60}
    batch = dataset(config(lengths=lengths), {"a": source})[0]
    assert set(read(batch["text"])) == {"a remote sensing image of storage tank"}
    assert set(read(batch["text_long"])) == {"a remote sensing image of storage tank."}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"captions": []}, {}, "neither captions nor a label"),
        ({}, {"long_caption": "record"}, "no long caption.*input.long_caption"),
        ({}, {"lengths": {"text_ir": 9}}, "no infrared caption"),
        ({"ir": encoded(0)}, {"lengths": {"text_ir": 9}, "ir": True}, "no infrared caption"),
        ({"image": b"GIF8 or not"}, {}, "cannot decode 11 bytes"),
    ],
)
def test_a_record_that_cannot_serve_is_named(changes, settings, message):
    with pytest.raises(ValueError, match=f"record 'a0' of data set 'a': .*{message}"):
        dataset(config(**settings), {"a": records("a", 1, **changes)})
    # Further down a data set it comes up when it is read.
    good = {"long_captions": ["L"], "ir_captions": ["w"]}
    sources = {name: records(name, 40, **good) for name in "ab"}
    sources["b"][33] = record("b", 33, **changes)
    mixture = config(batch_size=80, data={"a": 1.0, "b": 1.0}, **settings)
    with pytest.raises(ValueError, match=f"record 'b33' of data set 'b': .*{message}"):
        dataset(mixture, sources)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {}}, "input.data is .*expected data sets"),
        ({"data": {"a": 0.0}}, "input.data is .*positive mixing weights"),
        ({"data": {"a": -1.0}}, "input.data is .*positive mixing weights"),
        ({"data": {"a": float("nan")}}, "input.data is .*positive mixing weights"),
        ({"batch_size": 0}, "input.batch_size is 0: expected a positive multiple"),
        ({"lengths": {"txt": 77}}, "input.lengths is .*text, text_long, text_ir"),
        ({"lengths": {}}, "input.lengths is .*text, text_long, text_ir"),
        ({"caption": "any"}, 'input.caption is \'any\': expected "random" or "first"'),
        ({"long_caption": "all"}, "input.long_caption is 'all': expected \"auto\" or"),
        ({"crop": (0.0, 1.0)}, r"input.crop is \(0.0, 1.0\): expected"),
        ({"rotate": 400.0}, "input.rotate is 400.0: expected"),
        ({"ir_view": "thermal"}, "input.ir_view is 'thermal': expected one of translated"),
        ({"ir_text_source": "ir"}, "input.ir_text_source is 'ir': expected \"caption\" or"),
        ({"subset": 0.0}, "input.subset is 0.0: expected a share"),
        ({"threads": -1}, "input.threads is -1: expected 0 or more"),
        ({"workers": -2}, "input.workers is -2: expected 0 or more"),
        ({"workers": 10_000}, "input.workers is 10000: expected at most .* the cores of this"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(config(**changes))


def test_hosts_must_share_the_batch_and_tokenizers_must_fit():
    with pytest.raises(ValueError, match=r"batch_size is 8: expected .*number of hosts, 3"):
        dataset(host_count=3)
    with pytest.raises(ValueError, match="host_index is 2: expected one of 2 hosts"):
        dataset(host_index=2, host_count=2)
    with pytest.raises(ValueError, match=r"'text' makes rows of \(9,\) tokens.*asks for 20"):
        pipeline.dataset_of_sources(
            {"a": records("a", 2)},
            config(),
            SIZE,
            {"text": Bytes(9), "text_long": Bytes(90)},
            seed=0,
        )
    with pytest.raises(ValueError, match=r"asks for \['text_long'\], but no tokenizer"):
        pipeline.dataset_of_sources(
            {"a": records("a", 2)}, config(), SIZE, {"text": Bytes(20)}, seed=0
        )
    with pytest.raises(ValueError, match="data set 'a', split 'train', has no record"):
        dataset(None, {"a": ()})


def test_prepared_data_sets_are_opened_by_name(tmp_path):
    write_dataset(tmp_path, "a", {"train": records("a", 12)})
    tokenizers = {field: Bytes(length) for field, length in LENGTHS.items()}
    opened = pipeline.train_dataset(config(data_dir=str(tmp_path)), SIZE, tokenizers, seed=0)
    in_memory = dataset(None, {"a": records("a", 12)})
    for step in (0, 4):
        assert_equal_batches(opened[step], in_memory[step])
    part = config(data_dir=str(tmp_path), subset=0.25)
    seen = pipeline.train_dataset(part, SIZE, tokenizers, seed=0)[0]
    assert len(set(ids(seen))) == 3 == len(pipeline.open_sources(part)["a"])
    unknown = config(data_dir=str(tmp_path), data={"b": 1.0})
    with pytest.raises(FileNotFoundError, match=r"'b'.* a"):
        pipeline.train_dataset(unknown, SIZE, tokenizers, seed=0)


def test_memory_of_images_is_used_again_but_not_while_a_row_of_it_is_held():
    half = [record("a", i, ir=encoded(i) if i % 2 else b"", ir_captions=["w"]) for i in range(20)]
    batches = dataset(config(ir=True), {"a": half})
    first = batches[0]
    held, kept = first["image"][3:5, 2], first["image"][3:5, 2].copy()
    address = first["image"].ctypes.data
    del first
    for step in range(1, 8):
        batch = batches[step]
        assert batch["image"].ctypes.data != address
        assert not batch["ir"][~batch["ir_mask"]].any()
        assert batch["ir"][batch["ir_mask"]].any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(held, kept)
    del batch, held
    again = [batches[8], batches[9]]
    assert address in [b[field].ctypes.data for b in again for field in ("image", "ir")]


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([], ""),
        (["many planes .", " many planes", "Many planes."], "many planes."),
        (["b .", "a?", "", " . "], "b. a?"),
    ],
)
def test_compose_long_joins_distinct_captions_as_sentences(captions, expected):
    assert pipeline.compose_long(captions) == expected


def test_compose_long_shuffles_with_a_generator():
    captions = [f"s{i}" for i in range(8)]
    shuffled = pipeline.compose_long(captions, np.random.default_rng(0))
    assert shuffled != pipeline.compose_long(captions)
    assert sorted(shuffled.split()) == sorted(f"{caption}." for caption in captions)


def test_eval_batches_come_in_order_with_all_texts():
    source = [
        record("a", i, ir=encoded(i + 50) if i != 4 else b"", long_captions=[f"L{i}"], label="x")
        for i in range(11)
    ]
    batches = list(
        pipeline.eval_batches(source, image_size=SIZE, batch_size=4, start=1, stop=11, ir=True)
    )
    assert [len(batch["image"]) for batch in batches] == [4, 4, 2]
    joined = {field: [x for batch in batches for x in batch[field]] for field in batches[0]}
    wanted = source[1:]
    for field in ("id", "label", "captions", "long_captions", "ir_captions", "source"):
        assert joined[field] == [r[field] for r in wanted]
    for field in ("image", "ir"):
        assert all(batch[field].dtype == np.uint8 for batch in batches)
        for r, result in zip(wanted, joined[field], strict=True):
            if r[field]:
                expected = images.eval_preprocess(images.decode(r[field]), SIZE)
            else:
                expected = np.zeros((SIZE, SIZE, 3))
            np.testing.assert_array_equal(result, expected)
    assert joined["ir_mask"] == [r["id"] != "a4" for r in wanted]
    without = next(pipeline.eval_batches(source, image_size=SIZE, batch_size=4))
    assert "ir" not in without and "ir_mask" not in without


def test_eval_batches_read_only_the_rows_asked_for():
    source = [record("a", i, ir=encoded(i + 50)) for i in range(6)]
    for i in (1, 3, 5):
        source[i]["image"] = b"not read"
    own = np.array([True, False, True, False])
    first, last = pipeline.eval_batches(
        source, image_size=SIZE, batch_size=4, start=0, ir=True, own=own
    )
    assert first["id"] + last["id"] == ["a0", None, "a2", None, "a4", None]
    assert first["captions"][1] is None and first["ir_mask"].tolist() == own.tolist()
    whole = next(pipeline.eval_batches(source[::2], image_size=SIZE, batch_size=4, ir=True))
    for field in ("image", "ir"):
        np.testing.assert_array_equal(first[field][::2], whole[field][:2])
        assert not first[field][1::2].any()
    none = pipeline.eval_batches(source[1:2], image_size=SIZE, batch_size=1, own=np.array([False]))
    assert next(none)["id"] == [None]


def test_eval_batches_read_no_further_ahead_than_two_batches():
    reads = []

    class Source(list):
        def __getitem__(self, i):
            reads.append(i)
            return super().__getitem__(i)

    batches = pipeline.eval_batches(Source(records("a", 40)), image_size=SIZE, batch_size=4)
    for _ in range(3):
        next(batches)
    time.sleep(0.2)
    assert max(reads) < 20
    batches.close()


def test_eval_batches_name_the_record_that_cannot_be_decoded():
    source = records("a", 5)
    source[3]["image"] = b"no"
    with pytest.raises(ValueError, match="record 'a3': cannot decode"):
        list(pipeline.eval_batches(source, image_size=SIZE, batch_size=2))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(pipeline.eval_batches(source, image_size=SIZE, batch_size=0))


@pytest.fixture
def sharding():
    mesh = jax.make_mesh((jax.device_count(), 1), ("data", "fsdp"))
    return NamedSharding(mesh, P(("data", "fsdp")))


def host_batches(count: int, rows: int = 16):
    for i in range(count):
        yield {"image": np.full((rows, 2, 2, 3), i, np.uint8), "ir_mask": np.arange(rows) % 2 == 0}


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_device_prefetch_shards_the_batches_in_order(sharding):
    batches = list(pipeline.device_prefetch(host_batches(5), sharding))
    assert len(batches) == 5
    for batch, expected in zip(batches, host_batches(5), strict=True):
        for field, array in batch.items():
            assert array.sharding.is_equivalent_to(sharding, array.ndim)
            np.testing.assert_array_equal(array, expected[field])


def test_bad_records_are_passed_over_up_to_a_number(capsys):
    sources = {"a": records("a", 20), "b": records("b", 9)}
    mixture = {"data": {"a": 0.7, "b": 0.3}, "crop": (0.5, 1.0)}
    whole = dataset(config(**mixture), sources)
    good = [whole[k] for k in range(12)]
    for name, i in (("a", 3), ("a", 4), ("b", 8)):
        sources[name][i] = record(name, i, image=b"damaged")
    tolerant = config(**mixture, max_bad_records=3)
    damaged = dataset(tolerant, sources)
    found = [damaged[k] for k in range(12)]
    assert capsys.readouterr().err.count("passed over, the next") == 3
    stands_in = {3: 5, 4: 5, 28: 20}  # the next of the same data set, the first after the last
    for want, batch in zip(good, found, strict=True):
        expected = [stands_in.get(i, i) for i in want["record"].tolist()]
        assert batch["record"].tolist() == expected
        same = want["record"] == batch["record"]
        np.testing.assert_array_equal(batch["image"][same], want["image"][same])
        np.testing.assert_array_equal(batch["text"][same], want["text"][same])
    with pytest.raises(
        ValueError, match=r"record '..?' of data set '.': .*max_bad_records=N.*is 2"
    ):
        strict = dataset(config(**mixture, max_bad_records=2), sources)
        _ = [strict[k] for k in range(12)]


def test_records_that_are_all_bad_stop_whatever_may_be():
    sources = {"a": records("a", 3, image=b"damaged")}
    with pytest.raises(ValueError, match=r"record 'a.' of data set 'a'.*max_bad_records"):
        dataset(config(max_bad_records=99), sources)


def test_device_prefetch_raises_what_the_pipeline_raised(sharding):
    def broken():
        yield from host_batches(2)
        raise ValueError("record 'a7': cannot decode")

    prefetch = pipeline.device_prefetch(broken(), sharding)
    next(prefetch), next(prefetch)
    with pytest.raises(ValueError, match="record 'a7'"):
        next(prefetch)
    with pytest.raises(StopIteration):
        next(prefetch)


def test_device_prefetch_keeps_its_depth_and_stops_when_closed(sharding):
    made = []

    def counted():
        try:
            for i, batch in enumerate(host_batches(100)):
                made.append(i)
                yield batch
        finally:
            made.append("closed")

    prefetch = pipeline.device_prefetch(counted(), sharding, depth=2)
    next(prefetch)
    # One is used, two wait, one is in the thread's hands.
    wait_until(lambda: len(made) >= 4)
    time.sleep(0.2)
    assert made == [0, 1, 2, 3]
    prefetch.close()
    assert made[-1] == "closed" and len(made) <= 6
    assert not any(thread.name == "device-prefetch" for thread in threading.enumerate())
    with pytest.raises(StopIteration):
        next(prefetch)


def test_device_prefetch_tells_how_long_the_consumer_waited(sharding):
    asked = threading.Event()

    def late():
        asked.wait()
        time.sleep(0.2)
        yield from host_batches(3)

    prefetch = pipeline.device_prefetch(late(), sharding)
    time.sleep(0.2)  # The consumer is busy elsewhere: that is not waiting.
    start = time.perf_counter()
    asked.set()
    next(prefetch)
    assert 0.2 <= prefetch.wait_s <= time.perf_counter() - start
    prefetch.close()
