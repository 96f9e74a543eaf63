"""Pictures in the rows of an Arrow file, under names as if it were an archive: ``image/17``.

An Arrow file is mapped into memory, so that any row is as near as any other: 125,000 pictures a
second in random order, where Parquet gives 1,000 at best (row groups of 100) and 6 at worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.errors import DataError

if TYPE_CHECKING:
    import pyarrow

_MOST_DIGITS = 18  # of a row's number: what 64 bits hold


def need_pyarrow(what: Path | str) -> Any:
    """Returns the module pyarrow.

    Args:
        what: What asks for it, for the error.

    Raises:
        DataError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # which pyarrow does not import itself
    except ImportError:
        raise DataError(
            f"{what} needs the package datasets, which is not installed: pip install "
            "'vitlora[datasets]'"
        ) from None
    return pyarrow


class Rows(Mapping[str, int]):
    """An Arrow file (stream format); bytes of each picture by its name ``column/row``.

    Several threads may read it, and processes that are forked share its memory.

    Args:
        file: Where it is.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
    """

    def __init__(self, file: str) -> None:
        arrow = need_pyarrow(file)
        try:
            with arrow.memory_map(file) as mapped:  # closed, but what is mapped stays
                self.table: pyarrow.Table = arrow.ipc.open_stream(mapped.read_buffer()).read_all()
            self.table.validate(full=True)  # else a stranger's offsets could lead anywhere
        except (arrow.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{file} is not a whole Arrow file ({said[:200]})") from None

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each picture by its name."""
        return self

    def read(self, name: str) -> bytes:
        """Returns a picture's bytes.

        Raises:
            KeyError: There is none of that name.
        """
        return self._cell(name).to_pybytes()

    def _cell(self, name: str) -> Any:
        """Returns the buffer of a cell, which is bytes or a struct that has some."""
        column, _, row = name.rpartition("/")
        known = column in self.table.column_names
        if not (known and row.isdecimal() and len(row) <= _MOST_DIGITS and str(int(row)) == row):
            raise KeyError(name)
        if int(row) >= len(self):
            raise KeyError(name)
        cell: Any = self.table.column(column)[int(row)]
        if hasattr(cell, "keys") and cell.is_valid and "bytes" in cell:
            cell = cell["bytes"]
        if not cell.is_valid or not hasattr(cell, "as_buffer"):
            raise KeyError(name)
        return cell.as_buffer()

    def __getitem__(self, name: str) -> int:
        return self._cell(name).size

    def __iter__(self) -> Iterator[str]:
        names = self.table.column_names
        return (f"{name}/{row}" for name in names for row in range(len(self)))

    def __len__(self) -> int:
        return self.table.num_rows
