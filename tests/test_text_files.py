import gzip

import pytest

from rsclip_jax.data.sources import InputError
from rsclip_jax.data.tables import open_table

TEXT = "image,caption\na.jpg,a café\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT.encode(), mtime=0), r"c\.csv is compressed: .*gunzip"),
        (b"PAR1...", r"c\.csv is a Parquet file: .*JSONL"),
        (b"PK\x03\x04...", r"c\.csv is an Excel workbook or a zip archive: .*CSV"),
        (b"\xd0\xcf\x11\xe0...", r"c\.csv is an Excel workbook: .*CSV"),
        (TEXT.encode("utf-16"), r"c\.csv is UTF-16: .*--encoding=utf-16$"),
        (TEXT.encode("cp1252"), r"c\.csv is not utf-8; .*--encoding .*cp1252 for Western Excel"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_what_a_file_is_that_is_no_text_in_utf_8_is_told(tmp_path, form, content, message):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_table(form, str(tmp_path / "c.csv"))


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig", "UTF8"])
def test_texts_are_read_in_the_encoding_that_is_named(tmp_path, encoding):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "c.csv").write_bytes(TEXT.encode(encoding))
    (sample,) = open_table("csv", str(tmp_path / "c.csv"), encoding=encoding)
    assert sample.captions == ["a café"]
