"""Hugging Face datasets: pictures and classes as columns of Parquet or Arrow files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import ClassVar

from vitlora.data.layouts.columns import Columns, columns_of, texts
from vitlora.data.layouts.entries import Entry, checked_splits, told_of
from vitlora.data.layouts.label_names import named, names_in
from vitlora.data.layouts.reading import COLUMNS, Labelled, LayoutOptions, Place, Reading, split_of
from vitlora.data.layouts.row_shards import (
    CACHE,
    RowShard,
    check_held,
    row_files,
    shards_here,
    shards_on_hub,
)
from vitlora.data.layouts.table_columns import one_of
from vitlora.errors import DataError, a_few, counted, printable
from vitlora.files import cache_folder


class Datasets:
    """Parquet files that hold pictures, or a folder that ``save_to_disk`` wrote."""

    name: ClassVar[str] = "datasets"
    what: ClassVar[str] = "Parquet or Arrow files that hold the pictures"
    uses: ClassVar[tuple[str, ...]] = (*COLUMNS, "label_names")

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """See ``Layout``. Beside pictures, such a file would be a table of them."""
        return bool(place.hub) or bool(row_files(place) and (place.file or not place.pictures))

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        shards = shards_on_hub(place.hub) if place.hub else shards_here(place)
        columns = _columns(shards, options)
        rows = [row for shard in shards for row in _rows(shard, columns)]
        entries = [entry for _, entry in rows]
        names = () if columns.names else names_in(place, options)
        labels = {entry.where: entry.labels[0] for entry in entries}
        labels = named(labels, names, options.label_names or "")
        splits, said = [""] * len(rows), {entry.split for entry in entries}
        if options.split_column or any(map(split_of, said)):
            with told_of(place.hub or str(place.root)):
                splits = checked_splits(entries)
        pictures = [
            Labelled(path, entry.where, labels[entry.where], split, entry.group)
            for (path, entry), split in zip(rows, splits, strict=True)
            if labels[entry.where]
        ]
        return Reading(
            self.name,
            f"the column {columns.label}",
            sorted(pictures, key=lambda one: one.name),
            columns.names or names or None,
            notes=(
                *([] if any(splits) else _no_splits(columns.split, said)),
                *_notes(len(rows) - len(pictures), shards),
            ),
            read_from=() if place.hub else tuple(row_files(place)),
        )


def _columns(shards: Sequence[RowShard], options: LayoutOptions) -> Columns:
    """Returns the columns that all shards have.

    Raises:
        DataError: They differ, or several columns of classes say different things.
    """
    first = shards[0]
    columns = columns_of(first.table.schema, options, first.name)
    for shard in shards[1:]:
        if columns_of(shard.table.schema, options, shard.name) != columns:
            raise DataError(
                f"{first.name} and {shard.name} have other columns or names of classes; expected "
                "one dataset: name the folder or the file of one"
            )
    if not columns.rivals:
        return columns
    known: dict[str, Columns] = {}
    cells: dict[str, list[str]] = {}
    for label in columns.rivals:
        known[label] = columns_of(
            first.table.schema, replace(options, label_column=label), first.name
        )
        with suppress(DataError):  # a column of lists says nothing here
            cells[label] = [
                text
                for shard in shards
                for text in texts(shard.table, label, known[label].names, shard.name)
            ]
    return known[one_of(cells, columns.rivals, first.name)]


def _rows(shard: RowShard, columns: Columns) -> Iterator[tuple[Path, Entry]]:
    """Yields the picture of each row of a shard, and what the row says of it.

    Raises:
        DataError: A column holds something else than it should.
    """
    table = shard.table
    check_held(shard, columns.picture)
    asked = columns.label, columns.split, columns.group
    names = {columns.label: columns.names}
    said = [
        texts(table, one, names.get(one, ()), shard.name) if one else repeat("") for one in asked
    ]
    before = f"{shard.split}/" if shard.split else ""
    folder = shard.file / columns.picture
    for row, (label, split, group) in enumerate(zip(*said, strict=False)):
        name = f"{before}{shard.first + row:06d}"
        yield folder / str(row), Entry(name, (name,), (label,), shard.split or split, group)


def _no_splits(column: str, said: Iterable[str]) -> Iterator[str]:
    if names := sorted(printable(name, 40) for name in said if name):
        yield f"column {printable(column, 80)} not used: {a_few(names, 3)}; no train, val or test"


def _notes(unlabelled: int, shards: Iterable[RowShard]) -> Iterator[str]:
    cache = cache_folder(CACHE)
    if unlabelled:
        yield f"{counted(unlabelled, 'picture')} without a label not used"
    if copies := [shard.file for shard in shards if shard.file.parent == cache]:
        size = sum(file.stat().st_size for file in copies)
        yield f"pictures are read from copies in {cache} ({size / 1e6:,.0f} MB); delete them freely"
