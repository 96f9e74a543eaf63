"""Pictures to predict: files, folders, globs, archives and tables, which need no classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from vitlora.data.archives import check_sealed, is_archive, is_there
from vitlora.data.hub import hub_name
from vitlora.data.listing import check_closed, describe, list_pictures
from vitlora.errors import DataError, UsageError
from vitlora.files import expanded
from vitlora.notes import note

if TYPE_CHECKING:  # the layouts take a tenth of a second to import, which one photo does not need
    from vitlora.data.layouts.lookup import Lookup
    from vitlora.data.layouts.reading import LayoutOptions

_ROWS = (".parquet", ".arrow")  # files whose rows may be pictures
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_USED = ("file_column", "images")  # options that say where pictures are, not what they show


@dataclass(frozen=True)
class Found:
    """The pictures of one place.

    Attributes:
        root: The file, folder, archive, table or dataset.
        files: The pictures' paths, as text, which takes a quarter of a ``Path``'s memory; in the
            order of their names, or of a table's rows.
        names: What answers call a picture, where that is not its path: a row of a Parquet file is
            read from a copy.
        others: Files in a folder that are not pictures.
        closed: Folders that may not be read.
    """

    root: Path
    files: Sequence[str]
    names: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[Path] = ()
    closed: Sequence[Path] = ()


def find(word: str | Path, options: LayoutOptions | None = None) -> Iterator[Found]:
    """Yields the places that an argument names, each with its pictures; several for a glob.

    A table (.csv, .tsv, .jsonl, .parquet) names its pictures; one that is not there stays in, so
    that its answer says so. The rows of a Parquet or Arrow file may be pictures themselves. Any
    other file that is named counts as a picture. A folder without pictures may hold archives or
    such Parquet files.

    Args:
        word: A file, folder, glob, archive, table, or ``hf://owner/name``.
        options: The column that names pictures, and their folder.

    Raises:
        DataError: There is nothing of that name, a folder or table holds no pictures, or a table or
            an archive is damaged.
    """
    path = Path(word) if hub_name(word) else expanded(word)
    if hub_name(word) or path.exists():
        places = [path]
    else:  # Windows shells do not expand globs
        places = sorted(p for p in map(Path, glob(str(path), recursive=True)) if p.is_file())  # noqa: PTH207
    if not places:
        raise DataError(f"{word}: no such file")
    for place in places:
        yield from _of_place(place, options)


def names_of(root: str | Path, in_place: str = "") -> dict[Path, str]:
    """Returns the pictures' names in a place by their paths, and notes what is ignored there.

    Args:
        root: As for ``find``.
        in_place: Option that needs the files themselves, if one is given.

    Raises:
        DataError: As for ``find``, or a folder may not be read.
        UsageError: The pictures lie in an archive or in rows, and ``in_place`` needs files.
    """
    found: dict[Path, str] = {}
    others: list[Path] = []
    for place in find(root):
        check_closed(place.closed)
        if in_place and (place.names or is_archive(place.root)):
            raise UsageError(
                f"{in_place} needs pictures in files of their own; those of {place.root} are not"
            )
        inside = place.root.is_dir() or is_archive(place.root)
        folder = place.root if inside else place.root.parent
        for file in place.files:
            name = os.path.relpath(place.names.get(file, file), folder)
            found[Path(file)] = Path(name).as_posix()
        others += place.others
    if others:
        note(f"ignored {describe(others)}")
    return found


def options_of(named: Mapping[str, object]) -> LayoutOptions | None:
    """Returns the options of tables that a command was given; None for none.

    Raises:
        UsageError: There are others among them.
    """
    if not named:
        return None
    from vitlora.data.layouts.reading import LayoutOptions

    options = LayoutOptions.named(named)
    if unused := sorted(options.given().keys() - _USED):
        raise UsageError(
            f"predict does not use data.{unused[0]}; expected {' or '.join(_USED)}, for tables"
        )
    return options


def _of_place(path: Path, options: LayoutOptions | None) -> Iterator[Found]:
    check_sealed(path)
    if path.is_dir() or is_archive(path):
        yield from _of_folder(path, options)
    elif hub_name(path) or (path.suffix.lower() in _ROWS and _holds_pictures(path)):
        yield _of_rows(path, options)
    elif path.suffix.lower() in _TABLES:
        yield Found(path, _Named(path, options).files())
    else:
        yield Found(path, [str(path)])


def _of_folder(path: Path, options: LayoutOptions | None) -> Iterator[Found]:
    listing = list_pictures(path)
    others = listing.passed_over.get("other", [])
    closed = listing.passed_over.get("closed", [])
    inside = [one for one in others if is_archive(one)]
    if listing.pictures or closed:
        yield Found(path, [*map(str, listing.pictures)], {}, others, closed)
    elif inside:
        for archive in inside:
            yield from _of_folder(archive, options)
    elif any(one.suffix.lower() in _ROWS and _holds_pictures(one) for one in others):
        yield _of_rows(path, options)
    else:
        raise DataError(f"{path}: no pictures in this folder")


def _holds_pictures(path: Path) -> bool:
    from vitlora.data.layouts.row_shards import holds_pictures

    return holds_pictures(path)


def _of_rows(path: Path, options: LayoutOptions | None) -> Found:
    from vitlora.data.layouts.reading import LayoutOptions, Place
    from vitlora.data.layouts.row_shards import pictures_in

    rows = pictures_in(Place(path), options or LayoutOptions())
    names = {str(file): name for file, name in rows}
    return Found(path, [*names], names)


class _Named:
    """The pictures that a table names.

    Args:
        path: The table.
        options: The column that names them; ``images`` is their folder, if not the table's.
    """

    def __init__(self, path: Path, options: LayoutOptions | None) -> None:
        from vitlora.data.layouts.reading import LayoutOptions, Place

        self._place, self._options = Place(path), options or LayoutOptions()
        images = self._options.images
        self._folder = path.parent if images is None else expanded(images)

    @cached_property
    def _lookup(self) -> Lookup:
        """Finds names that are not paths, which takes a listing of the folder."""
        from vitlora.data.layouts.lookup import Lookup

        return Lookup(self._place, self._options)

    def files(self) -> list[str]:
        """Returns their paths in the order of the rows, each once; blank cells are left out.

        Raises:
            DataError: The table is damaged or names no pictures, or a name fits several.
        """
        from vitlora.data.layouts.table_columns import file_column
        from vitlora.data.layouts.table_file import read_table

        table = read_table(self._place, self._place.root)
        column = file_column(table, self._options, lambda name: bool(self._there(name)))
        names = [name for name in table.cells(column) if name]
        if not names:
            raise DataError(f"{self._place.root}: no pictures in the column '{column}'")
        return [*dict.fromkeys(self._there(name) or self._direct(name) for name in names)]

    def _direct(self, name: str) -> str:
        return str(self._folder / name.replace("\\", "/"))

    def _there(self, name: str) -> str:
        """Returns the path of a picture; empty if it is not there."""
        if "\0" in name:
            return ""
        direct = self._direct(name)
        if is_there(Path(direct)):
            return direct
        found = self._lookup.find(name, where=str(self._place.root))
        return str(found[0]) if found else ""


def every(
    words: Iterable[str | Path], options: LayoutOptions | None = None
) -> Iterator[Found | DataError]:
    """Yields the places of all arguments, in order; an error for one that has no pictures."""
    for word in words:
        try:
            yield from find(word, options)
        except DataError as error:
            yield error
