import io
import json
import tarfile

import pytest

from rsclip_jax.build.files import read_image
from rsclip_jax.data import sources
from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tars import open_tars


def archive(tmp_path, members, name="s-0.tar"):
    """Write (name, content) pairs as a tar and return its path; a text stands for a link."""
    path = tmp_path / name
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type = {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}[content]
                info.linkname = "../outside.jpg"
                tar.addfile(info)
    return str(path)


def test_members_of_one_name_make_a_sample(tmp_path):
    members = [
        ("./a/0001.jpg", b"J1"),
        ("./a/0001.txt", "ein Hafen, 港口\n".encode()),
        ("./a/0001.json", json.dumps({"label": "port", "split": "val"}).encode()),
        ("./a/0001.cls", b"7"),
        ("./b/0001.PNG", b"P"),
        ("./b/0001.txt", b"two"),
        ("./b/._0001.jpg", b"made by a Mac"),
        ("0002.v2.webp", b"the extension is v2.webp"),
        ("0003.webp", b"W"),
        ("0003.json", json.dumps({"caption": ["one", "two"], "long_caption": "Long."}).encode()),
    ]
    samples = list(open_tars(archive(tmp_path, members)))
    assert [(s.where, s.id, s.image, s.captions, s.problem) for s in samples] == [
        ("s-0.tar:a/0001", "a/0001", b"J1", ["ein Hafen, 港口"], ""),
        ("s-0.tar:b/0001", "b/0001", b"P", ["two"], ""),
        ("s-0.tar:0003", "0003", b"W", ["one", "two"], ""),
    ]
    assert (samples[0].label, samples[0].split) == ("port", "val")
    assert samples[2].long_captions == ["Long."]


def test_rs5m_archives_are_read(tmp_path):
    members = [
        ("000001.img_content", b"J"),
        ("000001.img_name", b"laion2b_0_42.jpg"),
        ("000001.caption", b"an aerial view"),
    ]
    (sample,) = open_tars(archive(tmp_path, members))
    assert (sample.id, sample.image, sample.captions) == (
        *("laion2b_0_42.jpg", b"J"),
        ["an aerial view"],
    )


def test_the_caption_that_is_in_txt_and_json_is_taken_once(tmp_path):
    row = {"caption": "one", "path": "original/place.jpg", "ir": "ignored"}
    members = [("1.jpg", b"J"), ("1.txt", b"one"), ("1.json", json.dumps(row).encode())]
    (sample,) = open_tars(archive(tmp_path, members))
    assert (sample.captions, sample.image, sample.ir) == (["one"], b"J", b"")


def test_keys_of_the_json_can_be_named_and_are_checked(tmp_path):
    row = {"uid": "x1", "description": "one"}
    path = archive(tmp_path, [("1.jpg", b"J"), ("1.json", json.dumps(row).encode())])
    given = {"id": ("uid",), "captions": ("description",)}
    (sample,) = open_tars(path, given)
    assert (sample.id, sample.captions) == ("x1", ["one"])
    with pytest.raises(InputError, match="--caption_columns=description"):
        open_tars(path, {"captions": ("descripton",)})


def test_samples_that_cannot_be_used_are_told_why(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    members = [
        ("1.txt", b"no image"),
        ("2.jpg", "symbolic"),
        ("3.jpg", "hard"),
        ("../4.jpg", b"J"),
        ("/5.jpg", b"J"),
        ("6.jpg", b"J"),
        ("6.txt", b"\xff\xfe"),
        ("7.jpg", b"J"),
        ("7.json", b"{"),
        ("8.jpg", b"J" * 101),
        ("9.jpg", b"J"),
    ]
    problems = {s.id: s.problem.split(":")[0] for s in open_tars(archive(tmp_path, members))}
    assert problems == {
        "1": "no image",
        "2": "not a plain file but a link, device or sparse file",
        "3": "not a plain file but a link, device or sparse file",
        "../4": "path leaves the archive",
        "/5": "path leaves the archive",
        "6": "not UTF-8",
        "7": "not JSON",
        "8": "file too large",
        "9": "",
    }


def test_several_archives_are_read_in_order_and_progress_reaches_the_end(tmp_path):
    for number in (1, 0):
        archive(tmp_path, [(f"{number}.jpg", b"J")], f"s-{number}.tar")
    source = open_tars(str(tmp_path / "s-{0..1}.tar"))
    samples = list(source)
    assert [sample.id for sample in samples] == ["0", "1"]
    assert source.size / 2 < samples[1].position <= source.size
    assert [sample.id for sample in source] == ["0", "1"]


def test_a_name_that_comes_twice_makes_two_samples(tmp_path):
    members = [("1.jpg", b"A"), ("1.txt", b"a"), ("1.jpg", b"B"), ("1.txt", b"b")]
    samples = list(open_tars(archive(tmp_path, members)))
    assert [(s.id, s.image, s.captions) for s in samples] == [
        ("1", b"A", ["a"]),
        ("1", b"B", ["b"]),
    ]


def test_files_that_are_no_whole_tar_archives_are_refused_before_the_work(tmp_path):
    path = archive(tmp_path, [(f"{i}.jpg", b"J" * 5000) for i in range(20)])
    data = (tmp_path / "s-0.tar").read_bytes()
    cases = {
        "cut.tar": (data[: len(data) // 2], "does not end as a tar archive must"),
        "page.tar": (b"<html>not found</html>" * 100, "is no tar archive"),
        "empty.tar": (b"", "is no tar archive"),
        "gz.tar": (b"\x1f\x8b" + data, "is compressed"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} {message}"):
            open_tars(str(tmp_path / name))
    assert len(list(open_tars(path))) == 20


def test_a_header_damaged_in_the_middle_does_not_pass_for_the_end(tmp_path):
    path = archive(tmp_path, [(f"{i:03d}.jpg", b"J") for i in range(300)])
    with open(path, "r+b") as file:
        file.seek(200 * 1024)  # header and data: a block of 512 bytes each
        file.write(b"garbage!" * 64)
    with pytest.raises(InputError, match=r"s-0.tar is damaged .damaged header at byte 204,800"):
        list(open_tars(path))


def test_dots_of_numbers_belong_to_the_name(tmp_path):
    members = [("lat-12.5_130.25.jpg", b"J"), ("lat-12.5_130.25.txt", b"one")]
    (sample,) = open_tars(archive(tmp_path, members))
    assert (sample.id, sample.captions) == ("lat-12.5_130.25", ["one"])


def test_tif_text_and_cls_members_are_read_and_each_line_is_a_caption(tmp_path):
    members = [("0.tif", b"T"), ("0.text", b"one\n\ntwo\r\n"), ("0.cls", b"7\n")]
    (sample,) = open_tars(archive(tmp_path, members))
    assert (sample.image, sample.captions, sample.label) == (b"T", ["one", "two"], "7")


def test_members_not_used_are_counted_and_likely_ones_refused(tmp_path):
    path = archive(
        tmp_path, [("0.jpg", b"J"), ("0.txt", b"one"), ("0.nir.tif", b"N"), ("0.x", b"")]
    )
    with pytest.raises(InputError, match=r"1 members end in \.nir\.tif .*--ignore=nir\.tif$"):
        open_tars(path, ignore=())
    source = open_tars(path, ignore=("nir.tif",))
    assert len(list(source)) == 1
    assert source.notes == ["1 members .nir.tif not used", "1 members .x not used"]


def test_names_that_repeat_between_archives_get_that_of_the_archive(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        names = (f"{number}", "9")  # they begin with different ones
        members = [(f"{name}.{kind}", b"J") for name in names for kind in ("jpg", "txt")]
        archive(tmp_path, members, f"{number}/s.tar")
    source = open_tars(str(tmp_path / "*/s.tar"), ignore=())
    assert [sample.id for sample in source] == ["0/s/0", "0/s/9", "1/s/1", "1/s/9"]
    assert source.notes == ["1 names are in several archives: ids are ARCHIVE/NAME (or .img_name)"]


@pytest.mark.parametrize("references", [False, True])
def test_members_that_lie_apart_are_put_together(tmp_path, references):
    names = ("000", "001", "002")
    members = [(f"{name}.jpg", f"J{name}".encode()) for name in names]
    members += [(f"{name}.txt", f"caption {name}".encode()) for name in names[::-1]]
    members += [(f"{name}.json", json.dumps({"split": name}).encode()) for name in names]
    members += [("003.jpg", b"J003"), ("003.txt", b"caption 003")]
    path = archive(tmp_path, members)
    source = open_tars(path, references=references, ignore=())
    samples = list(source)
    assert [(s.id, s.captions, s.split) for s in samples] == [
        ("000", ["caption 000"], "000"),
        ("001", ["caption 001"], "001"),
        ("002", ["caption 002"], "002"),
        ("003", ["caption 003"], ""),
    ]
    images = [sample.image for sample in samples]
    if references:
        images = [read_image(image) for image in images]
    assert images == [b"J000", b"J001", b"J002", b"J003"]
    assert source.notes[0].startswith("members that lie apart in their archive were put together")
    assert samples[-1].position <= source.size
    assert samples == list(source)


def test_names_that_come_twice_with_one_extension_are_not_put_together(tmp_path):
    members = [("1.jpg", b"A"), ("1.txt", b"a"), ("2.jpg", b"C"), ("1.jpg", b"B"), ("1.txt", b"b")]
    samples = list(open_tars(archive(tmp_path, members), ignore=()))
    assert [(s.id, s.image, s.captions) for s in samples] == [
        ("2", b"C", []),
        ("1", b"A", ["a"]),
        ("1", b"B", ["b"]),
    ]


def test_a_second_image_of_a_name_is_refused_or_left_out(tmp_path):
    members = [("1.jpg", b"J"), ("1.txt", b"one"), ("1.tif", b"T"), ("2.jpg", b"K")]
    path = archive(tmp_path, members)
    with pytest.raises(InputError, match=r"1 names have two images, \.jpg and \.tif: .*=tif$"):
        open_tars(path, ignore=())
    source = open_tars(path, ignore=("tif",))
    assert [sample.image for sample in source] == [b"J", b"K"]
    assert source.notes == ["1 members .tif not used"]


@pytest.mark.parametrize(
    "kind", ["captions", "ir", "jpgir", "ir.png", "split", "nir", "rgb", "txt1", "long_caption"]
)
def test_members_that_look_like_more_than_a_tar_can_hold_are_refused(tmp_path, kind):
    path = archive(tmp_path, [("0.jpg", b"J"), ("0.txt", b"one"), (f"0.{kind}", b"x")])
    with pytest.raises(InputError, match=f"1 members end in .{kind} .*--ignore={kind}$"):
        open_tars(path, ignore=())
    assert open_tars(path, ignore=(kind,)).notes == [f"1 members .{kind} not used"]


def test_splits_are_read_off_folders_unless_the_row_names_one(tmp_path):
    members = [
        ("train/a/0.jpg", b"J"),
        ("train/a/0.txt", b"one"),
        ("pics/Test_images/1.jpg", b"J"),
        ("train/2.jpg", b"J"),
        ("train/2.json", b'{"split": "val"}'),
        ("train_station/3.jpg", b"J"),
    ]
    source = open_tars(archive(tmp_path, members), ignore=())
    assert [sample.split for sample in source] == ["train", "Test_images", "val", ""]
    assert source.notes == ["splits are read off the folders in archives: Test_images, train"]


@pytest.mark.parametrize(
    ("names", "splits", "notes"),
    [
        (("train-0000.tar", "train-0001.tar", "val-00.tar"), ["train", "train", "val"], 1),
        (("test_00000-of-00002.tar", "train.tar", "x.tar"), ["test", "train", ""], 1),
        (("test-0.tar", "test-1.tar"), ["test", "test"], 1),
    ],
)
def test_splits_are_read_off_the_names_of_archives(tmp_path, names, splits, notes):
    for number, name in enumerate(names):
        archive(tmp_path, [(f"{number}.jpg", b"J"), (f"{number}.txt", b"a")], name)
    source = open_tars(str(tmp_path), ignore=())
    assert [sample.split for sample in source] == splits
    assert len(source.notes) == notes


def with_late_keys(tmp_path, row, first=None):
    rows = [{"caption": "one"} | (first or {})] * 120 + [{"caption": "one"} | row] * 3
    members = []
    for number, row in enumerate(rows):
        members += [(f"{number:03d}.jpg", b"J"), (f"{number:03d}.json", json.dumps(row).encode())]
    return archive(tmp_path, members)


@pytest.mark.parametrize("key", ["long_caption", "caption_2", "label", "split", "nir_title"])
def test_keys_that_come_late_are_used_or_refused_as_others_are(tmp_path, key):
    path = with_late_keys(tmp_path, {key: "a"})
    given = {}
    if key == "nir_title":
        with pytest.raises(InputError, match="'nir_title' looks like captions"):
            open_tars(path, ignore=())
        given = {"captions": ("caption", key)}
    *_, last = open_tars(path, given, ignore=())
    assert "a" in (*last.captions, *last.long_captions, last.label, last.split)
    with pytest.raises(InputError, match=f"no column 'nothing'.*{key}"):
        open_tars(path, {"captions": ("nothing",)}, ignore=())


def test_keys_that_hold_nothing_at_first_are_refused_where_they_do(tmp_path):
    path = with_late_keys(tmp_path, {"nir_title": "a"}, first={"nir_title": ""})
    with pytest.raises(InputError, match="'nir_title' looks like"):
        open_tars(path, ignore=())


def test_other_keys_that_come_late_are_counted(tmp_path):
    source = open_tars(with_late_keys(tmp_path, {"ir": "b.png", "gsd": 1}), ignore=())
    assert source.notes == ["columns not used (rows that fill them): ir (3), gsd (3)"]


def test_names_of_classes_go_before_their_numbers_in_tars_too(tmp_path):
    source = open_tars(with_late_keys(tmp_path, {"label": 3, "class_name": "port"}), ignore=())
    assert [sample.label for sample in source][-1] == "port"
    assert source.notes[0].startswith("labels are those of 'class_name'")


def test_archives_without_images_or_texts_are_refused_before_the_work(tmp_path):
    path = archive(tmp_path, [("0.jpg", b"J"), ("0.json", b'{"gsd": 1, "caption": ""}')])
    with pytest.raises(InputError, match=r"no captions and no labels: .*there are gsd, caption\)"):
        open_tars(path, ignore=())
    path = archive(tmp_path, [("0.txt", b"one"), ("1.txt", b"two")])
    with pytest.raises(InputError, match=r"holds no images, but members txt$"):
        open_tars(path, ignore=())


def header(name, size, kind=tarfile.REGTYPE):
    """Return a header with any size: a negative one, and one of more bytes than there are."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(count):
    """Return a member whose map of holes goes on for `count` blocks."""
    first = bytearray(header("1.jpg", 0, tarfile.GNUTYPE_SPARSE))
    more = b"00000000001\0" * 42 + b"\1" + bytes(7)  # another block follows
    first[482] = 1
    first[148:156] = b"%06o\0 " % (sum(first[:148] + first[156:]) + 8 * 32)
    return bytes(first) + more * count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("1.jpg", -512) + bytes(1024), "negative size at byte 512"),
        (header("1.jpg", -(2**70)) + bytes(1024), "negative size"),
        (header("x", 2**33, tarfile.XHDTYPE) + bytes(1024), "header of more than 1,048,576 bytes"),
        (header("x", 2**80, tarfile.GNUTYPE_LONGNAME) + bytes(1024), "header of more than"),
        (header("x", -1024, tarfile.XHDTYPE) + bytes(1024), "header of more than"),
        (header("1.jpg", 2**80) + bytes(1024), ""),
        (header("x", 0, tarfile.XHDTYPE) * 2000 + bytes(1024), ""),
        (sparse(3000) + bytes(1024), "header of more than"),
    ],
)
def test_sizes_in_headers_cost_no_memory_and_no_endless_loop(tmp_path, content, message):
    path = tmp_path / "s-0.tar"
    path.write_bytes(header("0.jpg", 0) + content)
    with pytest.raises(InputError, match=f"s-0.tar is damaged .*{message}"):
        list(open_tars(str(path)))


def test_an_archive_whose_first_header_lies_is_none(tmp_path):
    path = tmp_path / "s-0.tar"
    path.write_bytes(header("x", 2**80, tarfile.XHDTYPE) + bytes(1024))
    with pytest.raises(InputError, match=r"s-0.tar is no tar archive"):
        open_tars(str(path))
