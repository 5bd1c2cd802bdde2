import re

import pytest

from rsclip_jax.data import csv_rows
from rsclip_jax.data.sources import InputError

HEADER = "image,caption,split"


def rows(tmp_path, *lines, **options):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv_rows.csv_rows(file, path, **options))


def captions(found):
    return [row["caption"] if isinstance(row, dict) else row for _, row in found]


def images(count=30, suffix=".jpg"):
    return [f"{number}{suffix},a pier,train" for number in range(count)]


@pytest.mark.parametrize("suffix", ["", ".jpg"])
@pytest.mark.parametrize("closing", ["", 'x.jpg,a 5" pier,test', 'x.jpg,"a pier,test'])
def test_a_quotation_mark_that_is_never_closed_is_refused_with_its_line(tmp_path, suffix, closing):
    lines = [HEADER, *images(3, suffix), 'y.jpg,"a pier,test', *images(20, suffix), closing]
    with pytest.raises(InputError, match=r"t\.csv: .* begins in line 5 .*--quoting=none"):
        rows(tmp_path, *lines)
    found = rows(tmp_path, *lines, quoting="none")
    assert captions(found)[3] == '"a pier'
    assert len(found) == 24 + bool(closing)


@pytest.mark.parametrize("between, suffix", [(0, ".jpg"), (1, ".TIF"), (20, "")])
def test_a_text_that_holds_rows_is_refused(tmp_path, between, suffix):
    lines = [HEADER, f'y{suffix},"a pier,test', *images(between, suffix), f'x{suffix},a pier",test']
    with pytest.raises(InputError, match=rf"begins in line 2 goes on to line {between + 3}"):
        rows(tmp_path, *lines)
    assert len(rows(tmp_path, *lines, quoting="none")) == between + 2


def test_captions_of_several_lines_are_read(tmp_path):
    text = "A pier,\n\n- with boats, and cranes\n" + "A line.\nAnd one, with a comma.\n" * 20 + '"'
    quoted = '"' + text.replace('"', '""') + '"'
    found = rows(tmp_path, HEADER, f"0.jpg,{quoted},test", *images(1))
    assert captions(found) == [text, "a pier"]
    assert [line for line, _ in found] == [45, 46]


@pytest.mark.parametrize(
    "line", ["a pier, and boats", "source, 3.jpg", "first, second, 3.jpg", ", 3.jpg"]
)
def test_lines_of_a_caption_are_no_rows_unless_they_name_an_image_where_rows_do(tmp_path, line):
    text = "\n".join([line] * 12)
    found = rows(tmp_path, "image,caption", f'0.jpg,"{text}"')
    assert captions(found) == [text]
    with pytest.raises(InputError, match=r"over other rows.* as JSONL$"):
        rows(tmp_path, "image,caption", f'0.jpg,"{text}\n4.jpg, a pier"')


def test_a_stray_mark_within_a_line_costs_that_row_only(tmp_path):
    found = rows(tmp_path, HEADER, 'y.jpg,"a" pier,test', 'z.jpg,a 5" pier,test', *images(1))
    assert captions(found)[1:] == ['a 5" pier', "a pier"]
    assert found[0][0] == 2 and re.match("not CSV .--quoting=none", found[0][1])


def test_names_of_columns_are_stripped(tmp_path):
    ((_, row),) = rows(tmp_path, "\ufeffimage , caption,\tSplit", "0.jpg, a,b")
    assert row == {"image": "0.jpg", "caption": " a", "Split": "b"}
    with pytest.raises(InputError, match="same name"):
        rows(tmp_path, "image,caption,image ", "0.jpg,a,b")


@pytest.mark.parametrize("line", ["0.jpg,a pier", "a pier,sub/0.TIF", "https://x.org/0,a pier"])
def test_a_first_line_that_names_no_columns_is_told(tmp_path, line):
    with pytest.raises(InputError, match="its first line must name the columns, and holds"):
        rows(tmp_path, line, "1.jpg,a field")


def test_columns_without_a_name_must_be_empty_or_numbers(tmp_path):
    lines = [",image,caption, ,", "0,0.jpg,a,,", "1,1.jpg,b,,"]
    assert captions(rows(tmp_path, *lines)) == ["a", "b"]
    with pytest.raises(InputError, match=r"line 4: column 5 has no name .*'odd'"):
        rows(tmp_path, *lines, "2,2.jpg,c,,odd")
