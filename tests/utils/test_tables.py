"""Tables as spreadsheets, scripts and people write them."""

import pytest

from ser_hf.errors import UserError
from ser_hf.utils.tables import read_table

PLAIN = "file,label\na.wav,angry\nb.wav,sad\n"


def read(folder, content):
    path = folder / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),  # Excel's "Unicode text"
        PLAIN.replace(",", "\t").encode("utf-16"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " | "),
        "sep=;\n" + PLAIN.replace(",", ";"),
        f"\n\n{PLAIN}\n,,\n \n",
        "file,label,,\na.wav,angry,,\n,,,\nb.wav,sad\n,,,\n",
        'file, label\n"a.wav", "angry"\nb.wav , sad',
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, content):
    table = read(tmp_path, content)
    assert table.columns == ["file", "label"]
    assert [row.cells for row in table.rows] == [
        {"file": "a.wav", "label": "angry"},
        {"file": "b.wav", "label": "sad"},
    ]


def test_rows_keep_their_lines_and_their_texts(tmp_path):
    table = read(tmp_path, 'sep=,\n,file,said\n\n0,a.wav,"one,\ntwo\x0b\u2028"\n\n1,b.wav,\n')
    assert table.columns == ["column 1", "file", "said"]
    assert [(row.line, *row.cells.values()) for row in table.rows] == [
        (4, "0", "a.wav", "one,\ntwo"),
        (7, "1", "b.wav", ""),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: its first line must name the columns"),
        ("\n ,\n\n", "is empty: its first line must name the columns"),
        ("file,label\n,\n", "has no rows below its header (file, label): add a line for each file"),
        ("file,label,file\na,b,c\n", "line 1: the column 'file' stands twice, rename one of them"),
        ("file,label\na,b\nc,d,e\n", "line 3 has 3 cells and the header 2: put quotes round a text that holds"),
        ("# made by hand\nfile,label\na,b\n", "line 1 begins with '#', but CSV knows no comments: remove the line"),
        ('file,label\na,b\n"c,d\ne,f\n', "line 3 is no CSV (unexpected end of data): check the quotes of its cells"),
        ('file,label\na,"b"c\n', "line 2 is no CSV (',' expected after '\"'): check the quotes of its cells"),
        (b"PK\x03\x04\x14\0", "is a spreadsheet: save its sheet as CSV in UTF-8"),
        (PLAIN.encode("utf-16-le"), "is no text in UTF-8 (it holds zero bytes): save it as text in UTF-8"),
        ("file,label\na,b\nä,b\n".encode("latin-1"), "line 3 is no text in UTF-8 (invalid continuation byte): save it"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert f"list.csv' {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
