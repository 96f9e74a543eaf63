"""Files of rows: CSV, TSV, JSON lines and Parquet, read as text."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.data.archives import open_file
from vitlora.data.layouts.reading import Place
from vitlora.errors import DataError, a_few, counted, printable, shown

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_PEEKED_BYTES = 2**16
_PEEKED_ROWS = 1000
_SHOWN = 5  # rows that an error names


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        name: Of its file.
        columns: Their names, in order.
        numbers: Of each row: its line, or its place in a Parquet file, from 1.
        cells: Gives a column by its name: a text for each row, without blanks around it, empty for
            nothing. Raises ``DataError`` where the column holds something else than text, numbers
            or true and false.
        unit: What ``numbers`` count.
    """

    name: str
    columns: tuple[str, ...]
    numbers: Sequence[int]
    cells: Callable[[str], list[str]]
    unit: str = "line"

    def where(self, row: int) -> str:
        """Returns what to call a row in a message: ``line 3``."""
        return f"{self.unit} {self.numbers[row]}"


def read_table(place: Place, path: Path) -> Table:
    """Returns a file's rows.

    Raises:
        DataError: It is empty or damaged, not UTF-8, or has rows of different lengths; or it is
            Parquet and pyarrow is not installed.
    """
    name = printable(place.name(path))
    if path.suffix.lower() == ".parquet":
        return _parquet(name, path, None)
    return _of_text(name, place.read_text(path))


def peek_table(place: Place, path: Path) -> Table:
    """Returns a file's first rows, up to some 64 KiB of them, whatever their encoding.

    Raises:
        DataError: As ``read_table``.
    """
    name = printable(place.name(path))
    if path.suffix.lower() == ".parquet":
        return _parquet(name, path, _PEEKED_ROWS)
    with open_file(path) as opened:
        start = opened.read(_PEEKED_BYTES)
    if torn := len(start) == _PEEKED_BYTES:
        start = start[: start.rfind(b"\n") + 1]
    return _of_text(name, start.decode("utf-8-sig", errors="replace"), torn)


def _of_text(name: str, text: str, torn: bool = False) -> Table:
    lines = name.lower().endswith(".jsonl")
    table = _json_lines(name, text) if lines else _csv(name, text, torn)
    if not table.columns:
        raise DataError(f"{name} is empty; expected a first line that names the columns, then rows")
    return table


def _csv(name: str, text: str, torn: bool) -> Table:
    """Returns the rows of text with delimiters; of a torn one, those that are whole."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=_delimiter(text), skipinitialspace=True, strict=not torn)
    rows: list[list[str]] = [[]]
    numbers: list[int] = []
    try:
        for row in filter(any, reader):
            rows.append(row)
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            f"{name}, line {reader.line_num}: no row of a table ({error}); put text with quotes or "
            'delimiters in it in quotes, and write " inside as ""'
        ) from None
    columns, rows, numbers = tuple(map(str.strip, [*rows, []][1])), rows[2:], numbers[1:]
    _check_columns(name, columns)
    if torn:  # rows of another length are refused when the whole is read
        whole = [n for n, row in enumerate(rows) if len(row) == len(columns)]
        rows, numbers = [rows[n] for n in whole], [numbers[n] for n in whole]
    places = {column: index for index, column in enumerate(columns)}
    table = Table(name, columns, numbers, lambda column: _column(rows, places[column]))
    _check_widths(table, [len(row) for row in rows])
    return table


def _delimiter(text: str) -> str:
    """Returns what parts the columns: what makes most of them of the first line."""
    first = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0][:_PEEKED_BYTES]
    return max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))


def _column(rows: Iterable[Sequence[str]], index: int) -> list[str]:
    return [row[index].strip() for row in rows]


def _check_columns(name: str, columns: Sequence[str]) -> None:
    twice = [column for column, count in Counter(columns).items() if column and count > 1]
    if twice:
        raise DataError(f"{name} has two columns named '{printable(twice[0], 80)}'; rename one")


def _check_widths(table: Table, widths: Sequence[int]) -> None:
    """Refuses rows that have more or fewer cells than there are columns.

    Raises:
        DataError: There are some.
    """
    expected = len(table.columns)
    wrong = [row for row, width in enumerate(widths) if width != expected]
    if wrong:
        rows = a_few([f"{table.where(row)} ({widths[row]})" for row in wrong], _SHOWN)
        raise DataError(
            f"{table.name}: expected {counted(expected, 'cell')} in each row, as in the first "
            f'line; found others in {rows}; put a name with a comma in quotes ("a, b.jpg")'
        )


def _json_lines(name: str, text: str) -> Table:
    # numbers stay what they are written as
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
    rows: list[dict[str, object]] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = None
        with suppress(ValueError, RecursionError):
            row = decoder.decode(line.strip())
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, line {number}: no JSON object ({shown(line, 60)}); expected one a line, "
                'as {"file_name": "1.jpg", "label": "cat"}'
            )
        rows.append(row)
        numbers.append(number)
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(name, columns, numbers, lambda c: _texts(name, c, [row.get(c) for row in rows]))


def _parquet(name: str, path: Path, most: int | None) -> Table:
    """Returns a Parquet file's rows, each column read when it is asked for.

    Args:
        name: Of the file, for messages.
        path: The file.
        most: Rows to read; None for all.
    """
    file = _opened(name, path)
    try:
        columns = tuple(file.schema_arrow.names)
    except ValueError as error:  # a name that is not UTF-8
        raise DataError(f"{name} is damaged ({printable(str(error), 80)})") from None
    _check_columns(name, columns)
    rows = file.metadata.num_rows
    count = rows if most is None else min(rows, most)
    cells = partial(_parquet_column, name, file, count)
    return Table(name, columns, range(1, count + 1), cells, "row")


def _opened(name: str, path: Path) -> "ParquetFile":
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{name} is Parquet, which needs pyarrow: pip install 'vitlora[datasets]'"
        ) from None
    try:
        return parquet.ParquetFile(open_file(path))  # reads its footer, and columns later
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{name} is not a whole Parquet file ({printable(str(error), 80)})"
        ) from None


def _parquet_column(name: str, file: "ParquetFile", count: int, column: str) -> list[str]:
    import pyarrow

    kind = file.schema_arrow.field(column).type
    if pyarrow.types.is_nested(kind) or "binary" in str(kind):
        raise DataError(f"{name}: {_no_text(column)}, but {printable(str(kind), 80)}")
    values: list[object] = []
    with suppress(pyarrow.ArrowException, OSError, ValueError):
        for batch in file.iter_batches(batch_size=max(1, min(count, 2**16)), columns=[column]):
            values += batch.column(0).to_pylist()
            if len(values) >= count:
                break
    if len(values) < count:
        raise DataError(f"{name} is damaged: no {count:,} rows in '{printable(column, 80)}'")
    return _texts(name, column, values[:count])


def _texts(name: str, column: str, values: Iterable[Any]) -> list[str]:
    """Returns values as text: nothing for null and NaN.

    Raises:
        DataError: There are lists or objects among them.
    """
    found: list[str] = []
    for value in values:
        if isinstance(value, str):
            found.append(value.strip())
        elif value is None or value != value:
            found.append("")
        elif isinstance(value, (list, dict, bytes)):
            raise DataError(f"{name}: {_no_text(column)}; found {shown(value, 60)}")
        else:
            found.append(str(value).lower() if isinstance(value, bool) else str(value))
    return found


def _no_text(column: str) -> str:
    return f"the column '{printable(column, 80)}' holds no text (a text or number a picture)"
