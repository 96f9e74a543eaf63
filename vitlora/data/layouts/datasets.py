"""Hugging Face datasets: pictures and classes as columns of Parquet or Arrow files."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vitlora.data.archives import open_file, size_and_time
from vitlora.data.hub import arrow_files
from vitlora.data.layouts.columns import Columns, columns_of, paths_alone, texts
from vitlora.data.layouts.entries import Entry, checked_splits, told_of
from vitlora.data.layouts.label_names import named, names_in
from vitlora.data.layouts.reading import COLUMNS, Labelled, LayoutOptions, Place, Reading, split_of
from vitlora.data.layouts.shards import one_dataset, shard_splits
from vitlora.data.layouts.table_columns import one_of
from vitlora.data.rows import Rows, can_be_mapped, copy_rows, mark_used, use_copies
from vitlora.data.waiting import shown
from vitlora.errors import DataError, a_few, counted, printable

if TYPE_CHECKING:
    import pyarrow

_ENDINGS = (".parquet", ".arrow")
_CACHE = "~/.cache/vitlora/rows"


class Datasets:
    """Parquet files that hold pictures, or a folder that ``save_to_disk`` wrote."""

    name: ClassVar[str] = "datasets"
    what: ClassVar[str] = "Parquet or Arrow files that hold the pictures"
    uses: ClassVar[tuple[str, ...]] = (*COLUMNS, "label_names")

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """See ``Layout``. Beside pictures, such a file would be a table of them."""
        return bool(place.hub) or bool(_files(place) and (place.file or not place.pictures))

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        shards = _on_hub(place.hub) if place.hub else _here(place)
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
            read_from=() if place.hub else tuple(_files(place)),
        )


@dataclass(frozen=True)
class _Shard:
    """A file of rows.

    Attributes:
        name: What it is called in messages.
        file: An Arrow file that can be mapped.
        split: The split that its name gives; empty for none.
        first: How many rows of its split lie in the shards before it.
    """

    name: str
    file: Path
    split: str
    first: int

    @cached_property
    def table(self) -> "pyarrow.Table":
        """Its rows."""
        return Rows(str(self.file)).table


def _files(place: Place) -> dict[str, Path]:
    """Returns the Parquet and Arrow files that a place is or holds, by name."""
    files = place.others if place.file is None else {place.file.name: place.file}
    return {name: path for name, path in files.items() if name.lower().endswith(_ENDINGS)}


def _here(place: Place) -> list[_Shard]:
    """Returns the shards in a place, those without an Arrow file of their own copied to one.

    Raises:
        DataError: There are none, or something is wrong with them.
    """
    files = _listed(place, _files(place))
    if not files:
        raise DataError(f"{place.root} holds no .parquet and no .arrow files")
    one_dataset(files, place)
    splits = shard_splits(files, place)
    copies = shown(splits, len(splits), "copying the rows of Parquet files")
    return _numbered((str(files[name]), _mapped(files[name]), splits[name]) for name in copies)


def _on_hub(name: str) -> list[_Shard]:
    """Returns the shards of a dataset on the hub.

    Raises:
        DataError: It cannot be found, or has splits of other names than usual.
    """
    found = arrow_files(name)
    splits = {one: split_of(one) or "" for one in found}
    known = [split for split in splits.values() if split]
    if len(found) > 1 and len({*known}) < len(found):
        raise DataError(
            f"{name} has the splits {a_few(map(printable, found))}; expected train, and perhaps "
            "validation and test: save those you need with save_to_disk, and name that folder"
        )
    return _numbered((name, file, splits[one]) for one, files in found.items() for file in files)


def _numbered(shards: Iterable[tuple[str, Path, str]]) -> list[_Shard]:
    """Returns shards, each with the number of its first row in its split."""
    count: Counter[str] = Counter()
    made: list[_Shard] = []
    for name, file, split in shards:
        made.append(_Shard(name, file, split, count[split]))
        count[split] += made[-1].table.num_rows
    return made


def _listed(place: Place, files: Mapping[str, Path]) -> dict[str, Path]:
    """Returns the files that ``save_to_disk`` lists in ``state.json``, else all.

    The others that lie beside them are caches.

    Raises:
        DataError: A ``state.json`` is damaged, or names a file that is not there.
    """
    states = [name for name in place.others if name.rpartition("/")[2] == "state.json"]
    if place.file or not states:
        return dict(files)
    found: dict[str, Path] = {}
    for name in states:
        try:
            state: Any = json.loads(place.read_text(place.others[name]))
            listed = [one["filename"] for one in state["_data_files"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(
                f"{place.others[name]} is not what save_to_disk writes; expected _data_files"
            ) from None
        if state.get("_indices_data_files"):
            raise DataError(
                f"{place.others[name]}: an old version of datasets saved it with an order of its "
                "rows; load it and save it again with version 2 or newer"
            )
        folder = name.removesuffix("state.json")
        if missing := [str(one) for one in listed if f"{folder}{one}" not in files]:
            some = a_few((printable(one, 80) for one in missing), 3)
            raise DataError(f"{place.others[name]} lists {some}, which is not there")
        found |= {f"{folder}{one}": files[f"{folder}{one}"] for one in listed}
    return found


def _mapped(path: Path) -> Path:
    """Returns an Arrow file that can be mapped: a file itself, or a copy of its rows.

    Raises:
        DataError: It is damaged, or the copy cannot be written.
    """
    if can_be_mapped(path):
        return path
    what = f"{path.absolute()}\n{size_and_time(path)}"
    digest = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
    kept = Path(_CACHE).expanduser() / f"{digest[:32]}.arrow"
    try:
        use_copies(kept.parent)
        if not kept.exists():
            with open_file(path) as opened:
                copy_rows(opened, kept, path)
        mark_used(kept)
    except OSError as error:
        raise DataError(
            f"{path}: its rows cannot be copied to {kept.parent} ({error.strerror or error})"
        ) from None
    return kept


def _columns(shards: Sequence[_Shard], options: LayoutOptions) -> Columns:
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


def _rows(shard: _Shard, columns: Columns) -> Iterator[tuple[Path, Entry]]:
    """Yields the picture of each row of a shard, and what the row says of it.

    Raises:
        DataError: A column holds something else than it should.
    """
    table = shard.table
    if paths_alone(table, columns.picture):
        raise DataError(
            f"{shard.name}: the column '{columns.picture}' holds paths of pictures, not the "
            "pictures; name the folder that they lie in (from the hub: hf download --repo-type "
            "dataset OWNER/NAME --local-dir FOLDER)"
        )
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


def _notes(unlabelled: int, shards: Iterable[_Shard]) -> Iterator[str]:
    cache = Path(_CACHE).expanduser()
    if unlabelled:
        yield f"{counted(unlabelled, 'picture')} without a label not used"
    if copies := [shard.file for shard in shards if shard.file.parent == cache]:
        size = sum(file.stat().st_size for file in copies)
        yield f"pictures are read from copies in {cache} ({size / 1e6:,.0f} MB); delete them freely"
