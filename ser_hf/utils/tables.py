"""Tables that users bring: CSV as spreadsheets and scripts write it, read rightly or refused."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ser_hf.errors import UserError
from ser_hf.utils import files, zip_reader

_DELIMITERS = ",;\t|"
_SPREADSHEETS = (*zip_reader.SIGNATURES, b"\xd0\xcf\x11\xe0")
"""How .xlsx and .ods begin, which are zips, and .xls."""


@dataclass(frozen=True)
class Row:
    """A row: the line of the file on which it begins, and its cells by column, stripped."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """The columns of a table in their order, and its rows, of which there is at least one."""

    path: Path
    columns: list[str]
    rows: list[Row]


def read_table(path: Path, error_class: type[UserError] = UserError) -> Table:
    """Read a CSV file whose first row names its columns.

    Commas, semicolons, tabs or bars may stand between its cells. Empty cells at the end of a
    row may be missing, and rows without any text are left out.

    Raises:
        error_class: in one line with the file, the line and the remedy, where it is no such table.
    """
    with path.open("rb") as file:
        if file.read(4) in _SPREADSHEETS:
            raise error_class(f"'{path}' is a spreadsheet: save its sheet as CSV in UTF-8")
    text = files.read_text(path, error_class)
    rows = list(_rows(path, text, error_class))
    if not rows:
        raise error_class(f"'{path}' is empty: its first line must name the columns")
    (line, columns), *rows = rows
    if columns[0].startswith("#"):
        raise error_class(f"'{path}' line {line} begins with '#', but CSV knows no comments: remove the line")
    if not rows:
        raise error_class(f"'{path}' has no rows below its header ({', '.join(columns)}): add a line for each file")
    columns = [name or f"column {number}" for number, name in enumerate(columns, 1)]
    repeated = next((name for number, name in enumerate(columns) if name in columns[:number]), None)
    if repeated is not None:
        raise error_class(f"'{path}' line {line}: the column '{repeated}' stands twice, rename one of them")
    for line, cells in rows:
        if len(cells) > len(columns):
            raise error_class(
                f"'{path}' line {line} has {len(cells)} cells and the header {len(columns)}: "
                "put quotes round a text that holds the delimiter"
            )
    return Table(path, columns, [Row(line, dict(zip_longest(columns, cells, fillvalue=""))) for line, cells in rows])


def _rows(path: Path, text: str, error_class: type[UserError]) -> Iterator[tuple[int, list[str]]]:
    """The line of every row that has any text, and its stripped cells up to the last with text."""
    first, _, rest = text.partition("\n")
    skipped = 0
    if len(first.strip()) == 5 and first.lower().startswith("sep="):  # a line that Excel writes and reads
        delimiter, text, skipped = first[4], rest, 1
    else:
        delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    line = skipped + 1
    try:
        for cells in reader:
            while cells and not cells[-1].strip():
                cells.pop()
            if cells:
                yield line, [cell.strip() for cell in cells]
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise error_class(f"'{path}' line {line} is no CSV ({error}): check the quotes of its cells") from None


def _delimiter(text: str) -> str:
    """The delimiter by which the header has the most cells."""
    header = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")

    def cells(delimiter: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=delimiter, strict=True, skipinitialspace=True), []))
        except csv.Error:
            return 0

    return max(_DELIMITERS, key=cells)
