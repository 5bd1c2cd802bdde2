import json

import pytest

from rsclip_jax.data import csv_rows, survey, tables
from rsclip_jax.data.caption_rows import merge_rows
from rsclip_jax.data.columns import EMPTY_ITEM
from rsclip_jax.data.sources import InputError, Sample
from rsclip_jax.data.tables import open_table

ROW = {"filename": "a.jpg", "split": "val", "label": "port", "captions": ["one", "two"]}


def jsonl(tmp_path, *rows, name="c.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return text(tmp_path, "\n".join(lines) + "\n", name)


def text(tmp_path, content, name="c.csv", encoding="utf-8"):
    (tmp_path / "a.jpg").touch()
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return str(path)


def only(source):
    (sample,) = source
    return sample


def test_rsicd_rows_are_read_without_any_column_flag(tmp_path):
    source = open_table("jsonl", jsonl(tmp_path, ROW))
    sample = only(source)
    assert (sample.id, sample.image, sample.split, sample.label, sample.captions) == (
        *("a.jpg", "a.jpg", "val", "port"),
        ["one", "two"],
    )
    assert sample.where == "c.jsonl:1"
    assert sample.position == source.size == (tmp_path / "c.jsonl").stat().st_size
    assert source.root == str(tmp_path.resolve())


@pytest.mark.parametrize("image", ["image", "file_name", "filepath", "img", "Filename"])
@pytest.mark.parametrize("caption", ["caption", "text", "title", "sentences"])
def test_the_usual_column_names_are_known(tmp_path, image, caption):
    sample = only(open_table("jsonl", jsonl(tmp_path, {image: "a.jpg", caption: "one"})))
    assert (sample.image, sample.captions) == ("a.jpg", ["one"])


def test_columns_can_be_named(tmp_path):
    row = {"key": 7, "rgb": "a.jpg", "en": "one", "zh": ["二", ""], "essay": "Long.", "kind": 3}
    row |= {"nir": "b.png", "nir_text": ["warm"], "part": "test", "origin": "fmow"}
    given = {
        "id": ("key",),
        "image": ("rgb",),
        "captions": ("en", "zh"),
        "long_captions": ("essay",),
        "ir": ("nir",),
        "ir_captions": ("nir_text",),
        "label": ("kind",),
        "split": ("part",),
        "source": ("origin",),
    }
    sample = only(open_table("jsonl", jsonl(tmp_path, row), given=given))
    assert (sample.id, sample.image, sample.ir) == ("7", "a.jpg", "b.png")
    assert sample.captions == ["one", "二"]
    assert sample.long_captions == ["Long."]
    assert sample.ir_captions == ["warm"]
    assert (sample.label, sample.split, sample.source) == ("3", "test", "fmow")


def test_a_wrong_column_name_is_refused_with_the_nearest_one(tmp_path):
    path = jsonl(tmp_path, ROW)
    with pytest.raises(
        InputError, match=r"--caption_columns=caption: .*--caption_columns=captions"
    ):
        open_table("jsonl", path, given={"captions": ("caption",)})
    with pytest.raises(InputError, match="it has filename, split, label, captions"):
        open_table("jsonl", path, given={"ir": ("qqq",)})


def test_a_column_may_be_missing_from_single_rows(tmp_path):
    rows = [{"filename": "a.jpg", "label": "x"}, {"filename": "b.jpg", "caption": "one"}]
    samples = list(open_table("jsonl", jsonl(tmp_path, *rows), given={"captions": ("caption",)}))
    assert [sample.captions for sample in samples] == [[], ["one"]]


def test_tables_without_images_or_texts_are_refused(tmp_path):
    with pytest.raises(InputError, match="--image_column"):
        open_table("jsonl", jsonl(tmp_path, {"url": "a.jpg", "caption": "one"}))
    with pytest.raises(InputError, match="--caption_columns"):
        open_table("jsonl", jsonl(tmp_path, {"image": "a.jpg", "url": "one"}))


def test_a_wrong_image_root_is_told_before_the_work(tmp_path):
    path = jsonl(tmp_path, ROW)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"none of the first 1 images .*'a.jpg'.*--images"):
        open_table("jsonl", path, images=str(tmp_path / "other"))
    with pytest.raises(InputError, match="no such directory"):
        open_table("jsonl", path, images=str(tmp_path / "absent"))


def test_rows_that_cannot_be_used_are_told_why(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROW_CHARS", 200)
    rows = [
        ROW,
        "",
        '{"filename": "b.jpg", ',
        '["a list"]',
        {"filename": "", "captions": ["no image"]},
        {"filename": ["b.jpg"], "captions": ["odd image"]},
        {"filename": "b.jpg", "captions": [["nested"]]},
        {"filename": "b.jpg", "captions": ["x" * 300]},
        "[" * 100_000,
        {"filename": "b.jpg", "captions": None},
    ]
    samples = list(open_table("jsonl", jsonl(tmp_path, *rows)))
    assert [(s.where, s.problem.split(":")[0]) for s in samples] == [
        ("c.jsonl:1", ""),
        ("c.jsonl:3", "not JSON"),
        ("c.jsonl:4", "not a JSON object"),
        ("c.jsonl:5", "no image"),
        ("c.jsonl:6", "not a text in column 'filename'"),
        ("c.jsonl:7", "not a text in column 'captions'"),
        ("c.jsonl:8", "row too long"),
        ("c.jsonl:9", "row too long"),
        ("c.jsonl:10", ""),
    ]
    assert samples[-1].captions == []


def test_deeply_nested_json_costs_one_row_only(tmp_path):
    samples = list(open_table("jsonl", jsonl(tmp_path, ROW, "[" * 100_000)))
    assert [sample.problem.split(":")[0] for sample in samples] == ["", "not JSON"]


def test_an_empty_id_is_a_problem_only_where_ids_have_a_column(tmp_path):
    path = jsonl(tmp_path, {**ROW, "key": ""})
    assert only(open_table("jsonl", path)).problem == ""
    assert "no id" in only(open_table("jsonl", path, given={"id": ("key",)})).problem


@pytest.mark.parametrize(
    "cell, captions",
    [
        ("one", ["one"]),
        (" one ", ["one"]),
        ('"[""one"", ""two""]"', ["one", "two"]),
        ("\"['one', 'it''s two']\"", ["one", "its two"]),
        ("[a bracket", ["[a bracket"]),
        ("[a boat]", ["[a boat]"]),
        ('"two\nlines"', ["two\nlines"]),
        ("", []),
    ],
)
def test_csv_cells_hold_one_caption_or_a_written_list(tmp_path, cell, captions):
    sample = only(open_table("csv", text(tmp_path, f"filename,caption\na.jpg,{cell}\n")))
    assert sample.captions == captions


def test_csv_with_byte_order_mark_and_tsv_are_read(tmp_path):
    content = "filename,class\na.jpg,港口\n"
    sample = only(open_table("csv", text(tmp_path, content, encoding="utf-8-sig")))
    assert (sample.image, sample.label) == ("a.jpg", "港口")
    path = text(tmp_path, "filepath\ttitle\na.jpg\tone, two\n", "c.tsv")
    assert only(open_table("csv", path)).captions == ["one, two"]


def test_csv_rows_with_a_wrong_number_of_cells_are_problems(tmp_path):
    path = text(tmp_path, "filename,caption\na.jpg,one\nb.jpg,one,two\nc.jpg\n\n")
    samples = list(open_table("csv", path))
    assert [(s.where, s.problem) for s in samples] == [
        ("c.csv:2", ""),
        ("c.csv:3", "wrong number of cells: 3, where the header has 2"),
        ("c.csv:4", "wrong number of cells: 1, where the header has 2"),
    ]


def test_csv_faults_of_the_whole_file_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="same name"):
        open_table("csv", text(tmp_path, "filename,caption,caption\na.jpg,one,two\n"))
    with pytest.raises(InputError, match="no row can be read; it is empty"):
        open_table("csv", text(tmp_path, "filename,caption\n"))
    monkeypatch.setattr(csv_rows, "MAX_ROW_CHARS", 100)
    with pytest.raises(InputError, match="begins in line 2 does not end before line 12"):
        open_table("csv", text(tmp_path, 'filename,caption\na.jpg,"one\n' + "b.jpg,two\n" * 99))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_another_encoding_must_be_named(tmp_path, form):
    content = {
        "csv": "filename,caption\na.jpg,港口\n",
        "jsonl": '{"filename": "a.jpg", "caption": "港口"}\n',
    }[form]
    path = text(tmp_path, content, encoding="gb18030")
    with pytest.raises(InputError, match=r"is not utf-8.*--encoding"):
        open_table(form, path)
    assert only(open_table(form, path, encoding="gb18030")).captions == ["港口"]
    with pytest.raises(InputError, match="no such encoding"):
        open_table(form, path, encoding="gb18031")


def test_single_garbled_rows_are_problems(tmp_path):
    content = "filename,caption\na.jpg,ça\nb.jpg,".encode() + b"\xff\xfe\nc.jpg,one\n"
    samples = list(open_table("csv", text(tmp_path, content)))
    assert [s.problem.split(":")[0] for s in samples] == ["", "wrong encoding", ""]


def test_several_tables_are_read_one_after_the_other(tmp_path):
    jsonl(tmp_path, ROW, name="t-1.jsonl")
    jsonl(tmp_path, {**ROW, "filename": "b.jpg"}, name="t-2.jsonl")
    source = open_table("jsonl", str(tmp_path / "t-{1..2}.jsonl"))
    assert [sample.where for sample in source] == ["t-1.jsonl:1", "t-2.jsonl:1"]
    assert [sample.id for sample in source] == ["a.jpg", "b.jpg"]


SENTENCES = [{"raw": "one .", "tokens": ["one"], "imgid": 0, "sentid": 0}, {"raw": "two ."}]
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "imgid": 0, "split": "train", "sentences": SENTENCES, "sentids": [0]},
        {"filename": "b.jpg", "imgid": 1, "split": "test", "sentences": SENTENCES[1:]},
    ],
    "dataset": "rsicd",
}


def document(tmp_path, content, name="d.json", **style):
    return text(tmp_path, json.dumps(content, ensure_ascii=False, **style), name)


def nwpu_row(name, *numbers):
    row = {"filename": name, "imgid": 0, "split": "val", "raw": "one", "tokens": ["one"]}
    return row | {f"raw_{number}": f"caption {number}" for number in numbers}


def test_karpathy_documents_are_read_without_any_column_flag(tmp_path):
    source = open_table("json", document(tmp_path, KARPATHY, indent=1))
    samples = list(source)
    assert [(s.id, s.image, s.split, s.captions) for s in samples] == [
        ("a.jpg", "a.jpg", "train", ["one .", "two ."]),
        ("b.jpg", "b.jpg", "test", ["two ."]),
    ]
    assert [s.where for s in samples] == ["d.json:images[0]", "d.json:images[1]"]
    assert [s.position for s in samples] == [source.size // 2, source.size]


def test_a_json_list_of_rows_is_read_and_its_odd_items_are_problems(tmp_path):
    samples = list(open_table("json", document(tmp_path, [ROW, "odd"])))
    assert [(s.where, s.captions, s.problem) for s in samples] == [
        ("d.json:[0]", ["one", "two"], ""),
        ("d.json:[1]", [], "not a JSON object: 'odd'"),
    ]


def test_nwpu_captions_have_their_class_and_all_five_captions(tmp_path):
    content = {
        "airport": [nwpu_row("a.jpg", 1, 2, 3, 4)],
        "beach": [{**nwpu_row("b.jpg"), "class": "sea"}],
    }
    first, second = open_table("json", document(tmp_path, content))
    assert first.captions == ["one", "caption 1", "caption 2", "caption 3", "caption 4"]
    assert (first.label, first.split, second.label) == ("airport", "val", "sea")
    assert second.where == "d.json:beach[0]"


def test_images_are_found_in_the_folders_of_their_classes(tmp_path):
    content = {"airport": [nwpu_row("1.jpg")], "beach": [nwpu_row("1.jpg")]}
    path = document(tmp_path, content)
    with pytest.raises(InputError, match=r"none of the first 2 images .*'1.jpg'.*--images"):
        open_table("json", path)
    (tmp_path / "beach").mkdir()
    (tmp_path / "beach/1.jpg").touch()
    samples = list(open_table("json", path))
    assert [s.image for s in samples] == ["airport/1.jpg", "beach/1.jpg"]
    assert [s.id for s in samples] == ["airport/1.jpg", "beach/1.jpg"]
    (tmp_path / "1.jpg").touch()
    assert [s.image for s in open_table("json", path)] == ["1.jpg"] * 2


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not one JSON document: Expecting value"),
        ('{"images": [{"filename": "a.j', "not one JSON document: Unterminated .*cut off"),
        ('{"filename": "a.jpg"}\n{"filename": "b.jpg"}\n', "one object a line is --format=jsonl"),
        ("[" * 100_000, "not one JSON document"),
        ('{"dataset": "rsicd"}', "holds no rows"),
        ('{"images": []}', "holds no rows"),
        ("7", "holds no rows"),
    ],
)
def test_json_documents_that_cannot_be_read_are_told_why(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"d\.json .*{message}"):
        open_table("json", text(tmp_path, content, "d.json"))


def test_a_json_document_in_another_encoding_must_be_named(tmp_path):
    row = {"filename": "a.jpg", "caption": "港口"}
    path = text(tmp_path, json.dumps([row], ensure_ascii=False), "d.json", "gb18030")
    with pytest.raises(InputError, match=r"is not utf-8.*--encoding"):
        open_table("json", path)
    assert only(open_table("json", path, encoding="gb18030")).captions == ["港口"]


@pytest.mark.parametrize("style", [{}, {"indent": 1}])
@pytest.mark.parametrize("content", [KARPATHY, KARPATHY["images"], {"port": KARPATHY["images"]}])
def test_a_json_document_taken_for_jsonl_is_told_at_once(tmp_path, content, style):
    path = document(tmp_path, content, name="d.jsonl", **style)
    with pytest.raises(InputError, match=r"use --format=json$"):
        open_table("jsonl", path)


def test_a_json_document_on_one_line_that_is_too_long_is_told_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROW_CHARS", 50)
    with pytest.raises(InputError, match=r"use --format=json$"):
        open_table("jsonl", document(tmp_path, KARPATHY))


def test_jsonl_with_one_broken_first_line_is_no_document(tmp_path):
    path = jsonl(tmp_path, '{"filename": ', ROW)
    assert [s.problem[:8] for s in open_table("jsonl", path)] == ["not JSON", ""]


def captions(path, form="csv", **options):
    return [(s.image, s.captions) for s in open_table(form, path, **options)]


def test_rows_with_one_caption_each_become_one_record(tmp_path):
    rows = "filename,title\na.jpg,one\nb.jpg,x\na.jpg,two\nc.jpg,y\na.jpg,one\nc.jpg,\n"
    path = text(tmp_path, rows)
    assert captions(path) == [("b.jpg", ["x"]), ("a.jpg", ["one", "two", "one"]), ("c.jpg", ["y"])]
    source = open_table("csv", path)
    assert [s.where for s in source] == ["c.csv:3", "c.csv:2", "c.csv:5"]
    assert list(source)[-1].position == source.size


def test_rows_of_several_tables_become_one_record(tmp_path):
    for name, caption in (("t-1.jsonl", "one"), ("t-2.jsonl", ["two"])):
        jsonl(tmp_path, {"filename": "a.jpg", "caption": caption}, name=name)
    assert captions(str(tmp_path / "t-*.jsonl"), "jsonl") == [("a.jpg", ["one", "two"])]


@pytest.mark.parametrize("column", ["split", "label", "ir", "source", "long_caption"])
def test_rows_that_differ_in_another_field_stay_apart(tmp_path, column):
    header = f"filename,title,{column}\n"
    path = text(tmp_path, header + "a.jpg,one,x\na.jpg,two,y\na.jpg,three,x\n")
    assert captions(path) == [("a.jpg", ["one", "three"]), ("a.jpg", ["two"])]


def test_rows_of_one_image_with_ids_of_their_own_stay_apart(tmp_path):
    path = text(tmp_path, "filename,title,key\na.jpg,one,1\na.jpg,two,2\nb.jpg,three,2\n")
    given = {"id": ("key",)}
    expected = [("a.jpg", ["one"]), ("a.jpg", ["two"]), ("b.jpg", ["three"])]
    assert captions(path, given=given) == expected


def test_lists_of_captions_are_not_merged(tmp_path):
    one, two = {"filename": "a.jpg", "captions": ["one"]}, {"filename": "a.jpg", "captions": "two"}
    path = jsonl(tmp_path, ROW, {**ROW, "captions": "three"})
    assert captions(path, "jsonl") == [("a.jpg", ["one", "two"]), ("a.jpg", ["three"])]
    path = jsonl(tmp_path, one, {**one, "captions": ["x", "y"]}, two)
    assert captions(path, "jsonl") == [("a.jpg", ["one", "two"]), ("a.jpg", ["x", "y"])]


def test_long_captions_are_merged_where_there_are_no_others(tmp_path):
    path = text(tmp_path, "filename,long_caption\na.jpg,one\na.jpg,two\n")
    assert only(open_table("csv", path)).long_captions == ["one", "two"]


def test_broken_rows_and_odd_names_are_passed_on_unmerged(tmp_path):
    odd = r'{"filename": "\ud800", "caption": "odd"}'
    path = jsonl(tmp_path, "{", odd, {"filename": "a.jpg", "caption": "one"}, "{", odd)
    assert captions(path, "jsonl") == [
        *((b"", []), ("a.jpg", ["one"]), (b"", []), ("\ud800", ["odd", "odd"]))
    ]


def test_only_samples_whose_last_row_is_to_come_are_held_back():
    taken = []

    def read():
        for index in range(30):
            taken.append(index)
            yield Sample(f"{index}", index, id=f"{index // 3}.jpg", captions=[f"{index}"])

    for index, sample in enumerate(merge_rows(read, "captions", lambda sample: sample.split)):
        assert sample.captions == [f"{3 * index}", f"{3 * index + 1}", f"{3 * index + 2}"]
        assert len(taken) == 30 + 3 * (index + 1)
    assert index == 9


def test_numbered_siblings_belong_to_a_caption_column_found_by_its_name(tmp_path):
    row = {"filename": "a.jpg", "caption": "one", "caption_2": "two", "caption_x": "no"}
    path = jsonl(tmp_path, row)
    assert only(open_table("jsonl", path)).captions == ["one", "two"]
    given = {"captions": ("caption",)}
    assert only(open_table("jsonl", path, given=given)).captions == ["one"]


def test_documents_keyed_by_split_give_splits_not_classes(tmp_path):
    plain = {key: value for key, value in ROW.items() if key != "split"}
    document = {"Training": [{"filename": "b.jpg", "captions": ["one"]}], "test": [plain]}
    path = text(tmp_path, json.dumps(document), "c.json")
    train, test = open_table("json", path)
    assert (train.split, train.label) == ("Training", "")
    assert (test.split, test.label) == ("test", "port")


def test_sentences_without_text_are_a_problem_not_nothing(tmp_path):
    row = {"filename": "a.jpg", "sentences": [{"tokens": ["a", "pond"]}]}
    sample = only(open_table("jsonl", jsonl(tmp_path, row)))
    assert "not a text in column 'sentences'" in sample.problem


@pytest.mark.parametrize("names", ["caption_1 caption_2", "caption1 caption2", "raw0 raw1"])
def test_numbered_captions_need_no_column_without_a_number(tmp_path, names):
    one, two = names.split()
    row = {"filename": "a.jpg", "label": "port", one: "first", two: "second"}
    source = open_table("jsonl", jsonl(tmp_path, row), ignore=())
    assert only(source).captions == ["first", "second"]


def test_nir_and_subset_are_known(tmp_path):
    row = {"filename": "a.jpg", "caption": "one", "nir": "b.png", "subset": "test"}
    sample = only(open_table("jsonl", jsonl(tmp_path, row), ignore=()))
    assert (sample.ir, sample.split) == ("b.png", "test")


@pytest.mark.parametrize("name", ["title", "my_caption", "thermal", "data_split", "image_path2"])
def test_columns_that_look_used_and_are_not_are_refused(tmp_path, name):
    row = {"filename": "a.jpg", "caption": "one", "ir": "a.jpg", "split": "val", name: "x", "w": 3}
    path = jsonl(tmp_path, row)
    with pytest.raises(InputError, match=f"--ignore={name}$"):
        open_table("jsonl", path, ignore=())
    note = f"columns not used (rows that fill them): {name} (1), w (1)"
    assert open_table("jsonl", path, ignore=(name,)).notes == [note]


@pytest.mark.parametrize("delimiter", ",\t;|")
def test_the_delimiter_is_detected_or_given(tmp_path, delimiter):
    path = text(tmp_path, f"filename{delimiter}title\na.jpg{delimiter}a harbour\n")
    for given in ("", delimiter):
        sample = only(open_table("csv", path, delimiter=given))
        assert (sample.image, sample.captions) == ("a.jpg", ["a harbour"])


def test_backslashes_of_windows_are_read_as_slashes(tmp_path):
    (tmp_path / "im").mkdir()
    (tmp_path / "im" / "a.jpg").touch()
    source = open_table("csv", text(tmp_path, "filename,title\r\nim\\a.jpg,one\r\n"))
    assert only(source).image == "im/a.jpg"
    assert "backslashes" in source.notes[0]


def many(tmp_path, *last, **more):
    """Write 120 rows, and then others."""
    (tmp_path / "0.jpg").touch()
    rows = [{"filename": f"{n}.jpg", "caption": "one", **more} for n in range(120)]
    return jsonl(tmp_path, *rows, *last)


def late(name, value, count=1):
    return [{"filename": f"late{n}.jpg", name: value} for n in range(count)]


@pytest.mark.parametrize("name", ["text", "nir_2", "subset_2", "img", "captionEN", "is_train"])
def test_columns_that_only_late_rows_have_are_refused_by_their_names(tmp_path, name):
    path = many(tmp_path, *late(name, "x"))
    with pytest.raises(InputError, match=f"'{name}' looks like .* --ignore={name}$"):
        open_table("jsonl", path, ignore=())
    source = open_table("jsonl", path, ignore=(name,))
    assert source.notes == [f"columns not used (rows that fill them): {name} (1)"]


@pytest.mark.parametrize(
    "more, value, message",
    [
        ({}, "test", "'mood' holds splits"),
        ({"mood": ""}, "validation", "'mood' holds splits"),
        ({"mood": None}, "a.jpg", "'mood' holds paths of images"),
    ],
)
def test_columns_that_only_late_rows_fill_are_refused_by_their_values(
    tmp_path, more, value, message
):
    path = many(tmp_path, *late("mood", value, 3), **more)
    with pytest.raises(InputError, match=f"{message} .* --ignore=mood$"):
        open_table("jsonl", path, ignore=())
    note = "columns not used (rows that fill them): mood (3)"
    assert open_table("jsonl", path, ignore=("mood",)).notes == [note]
    assert open_table("jsonl", many(tmp_path, *late("mood", "calm", 3)), ignore=()).notes == [note]


def test_a_column_that_only_late_rows_have_can_be_named(tmp_path):
    given = {"captions": ("caption", "text")}
    samples = list(open_table("jsonl", many(tmp_path, *late("text", "two")), given=given))
    assert [sample.captions for sample in samples[-2:]] == [["one"], ["two"]]


def test_tables_with_other_columns_than_the_first_are_told(tmp_path):
    text(tmp_path, "filename,caption\na.jpg,one\n", "t-1.csv")
    text(tmp_path, "filename,caption_en\nb.jpg,two\n", "t-2.csv")
    with pytest.raises(InputError, match=r"'caption_en' .*--caption_columns=caption,caption_en"):
        open_table("csv", str(tmp_path / "t-*.csv"), ignore=())


def test_names_without_end_are_no_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MAX_COLUMNS", 50)
    rows = [{"filename": "a.jpg", "caption": "one", f"id{n}": 1} for n in range(60)]
    with pytest.raises(InputError, match="more than 50 columns"):
        open_table("jsonl", jsonl(tmp_path, *rows))


@pytest.mark.parametrize("value", ["same", "a", ["x"]])
@pytest.mark.parametrize("name", ["caption_extra", "extraCaption", "sentence_en", "descriptions"])
def test_a_name_alone_tells_captions(tmp_path, name, value):
    with pytest.raises(InputError, match=f"'{name}' looks like captions .* --ignore={name}$"):
        open_table("jsonl", jsonl(tmp_path, {**ROW, name: value}), ignore=())


@pytest.mark.parametrize("value", [5, "5", 2.5, True, [1, 2], "[1 2]", "", None])
@pytest.mark.parametrize("name", ["num_captions", "caption_count", "caption_id", "caption_len"])
def test_numbers_are_no_captions_whatever_their_name(tmp_path, name, value):
    path = jsonl(tmp_path, {**ROW, name: value})
    filled = 0 if value in ("", None) else 1
    note = f"columns not used (rows that fill them): {name} ({filled})"
    assert open_table("jsonl", path, ignore=()).notes == [note]


def test_columns_in_use_that_are_empty_are_told(tmp_path):
    path = text(tmp_path, "filename,caption,split,,\na.jpg,one,,,\n")
    assert open_table("csv", path, ignore=()).notes == [
        "columns not used (rows that fill them): (no name) (0)",
        "columns that are empty in all rows: split",
    ]


def test_what_lists_of_captions_lack_is_told(tmp_path):
    rows = [{**ROW, "captions": ["one", None, ""]}, {"filename": "b.jpg", "captions": ""}]
    first, second = open_table("jsonl", jsonl(tmp_path, *rows))
    assert (first.captions, first.mended) == (["one"], [EMPTY_ITEM] * 2)
    assert (second.captions, second.mended) == ([], [])


def held_out(tmp_path, rows, **options):
    source = open_table("csv", text(tmp_path, f"filename,title,split\n{rows}"), **options)
    return [(s.split, s.captions) for s in source]


def test_samples_of_held_out_splits_come_first_with_all_their_captions(tmp_path):
    rows = "".join(
        f"a.jpg,{split} {n},{split}\n" for split in ("train", "dev", "Test") for n in range(2)
    )
    train, val, test = ((s, [f"{s} 0", f"{s} 1"]) for s in ("train", "dev", "Test"))
    assert held_out(tmp_path, rows) == [test, val, train]
    names = {"train": "test", "dev": "other", "Test": "train"}
    assert held_out(tmp_path, rows, stored_split=names.get) == [train, val, test]


def test_held_out_samples_come_first_where_there_are_no_captions(tmp_path):
    path = text(tmp_path, "filename,label,split\na.jpg,x,train\na.jpg,x,train\na.jpg,x,test\n")
    assert [s.split for s in open_table("csv", path)] == ["test", "train", "train"]
