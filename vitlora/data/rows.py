"""Pictures in the rows of an Arrow file, under names as if it were an archive: ``image/17``.

An Arrow file is mapped into memory, so that any row is as near as any other. Parquet has to decode
a row group for each picture, which can be the whole file (``benchmarks/rows.py``).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vitlora.errors import DataError, printable
from vitlora.files import draft, rename

if TYPE_CHECKING:
    import pyarrow

_INDEXED = b"ARROW1"  # how the format with an index at its end begins, which may be compressed
_ROWS_AT_ONCE = 100
_COPY = re.compile(r"[0-9a-f]{32}\.arrow")  # other files in the folder of copies are left alone
_UNUSED = 30 * 24 * 3600  # seconds after which a copy is removed
_MOST_DIGITS = 18  # of a row's number: what 64 bits hold


def need_pyarrow(what: Path | str) -> Any:
    """Returns the module pyarrow.

    Args:
        what: What needs it, for the error.

    Raises:
        DataError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # which pyarrow does not import itself
    except ImportError:
        raise DataError(
            f"{what} needs pyarrow, which is not installed: pip install 'vitlora[datasets]'"
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
            raise _damaged(file, error) from None

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each picture by its name."""
        return self

    def read(self, name: str) -> bytes:
        """Returns a picture's bytes.

        Raises:
            KeyError: There is no picture of that name.
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


def copy_rows(opened: BinaryIO, target: Path, name: Path) -> None:
    """Writes the rows of a Parquet file, or of an Arrow file, as an Arrow file that can be mapped.

    Args:
        opened: The file.
        target: What is written, whole or not at all.
        name: What the file is called, for errors.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
        OSError: The copy cannot be written.
    """
    arrow = need_pyarrow(name)
    try:
        schema, batches = _batches(arrow, opened)
        with draft(target) as new:
            with arrow.OSFile(str(new), "wb") as file, arrow.ipc.new_stream(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            rename(new, target)
    except arrow.ArrowException as error:
        raise _damaged(name, error) from None


def schema_of(opened: BinaryIO, name: Path) -> pyarrow.Schema:
    """Returns the columns of a Parquet or Arrow file; arguments and errors as ``copy_rows``."""
    arrow = need_pyarrow(name)
    try:
        return _batches(arrow, opened)[0]
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(name, error) from None


def _batches(arrow: Any, opened: BinaryIO) -> tuple[Any, Iterable[Any]]:
    """Returns the schema and the rows of a file, a part after another."""
    start = opened.read(len(_INDEXED))
    opened.seek(0)
    if start[:4] == b"PAR1":
        parquet = arrow.parquet.ParquetFile(opened)
        return parquet.schema_arrow, parquet.iter_batches(_ROWS_AT_ONCE, use_threads=False)
    if start == _INDEXED:
        indexed = arrow.ipc.open_file(opened)
        return indexed.schema, map(indexed.get_batch, range(indexed.num_record_batches))
    stream = arrow.ipc.open_stream(opened)
    return stream.schema, stream


@cache
def use_copies(folder: Path) -> None:
    """Keeps the copies in a folder from being removed for as long as this process lives.

    If no other process uses them, those that none has used for 30 days are removed first. Windows
    has no such lock; it does not remove a file that is mapped.

    Args:
        folder: Created if needed.

    Raises:
        OSError: It cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        _remove_unused(folder)
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)  # never closed, and forked loader processes inherit it
    with suppress(OSError):  # others use them, or a network drive has no locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_unused(folder)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)


def mark_used(copy: Path) -> None:
    """Marks a copy as used now, by its time of access: that of writing says whether it changed."""
    with suppress(OSError):  # another user's
        os.utime(copy, ns=(time.time_ns(), copy.stat().st_mtime_ns))


def _remove_unused(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(OSError):
            if _COPY.fullmatch(file.name) and time.time() - file.stat().st_atime > _UNUSED:
                file.unlink()


def can_be_mapped(path: Path) -> bool:
    """Returns whether a file is an Arrow file without an index, and in no archive."""
    if path.suffix.lower() != ".arrow" or not path.is_file():
        return False
    with path.open("rb") as opened:
        return opened.read(len(_INDEXED)) != _INDEXED


def _damaged(name: Path | str, error: Exception) -> DataError:
    said = printable(" ".join(str(error).split()), 200)
    return DataError(f"{name} is not a whole Arrow or Parquet file ({said})")
