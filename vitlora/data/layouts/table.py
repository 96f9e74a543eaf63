"""Tables: ``labels.csv`` beside pictures, ``metadata.jsonl``, ``_classes.csv``, ``train.csv``."""

import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from vitlora.data.layouts.entries import (
    Entry,
    Finder,
    check_labels,
    checked_splits,
    folder_splits,
    listed,
    notes_of,
    pictures_of,
    told_of,
)
from vitlora.data.layouts.folders import Folders
from vitlora.data.layouts.label_names import named, names_in
from vitlora.data.layouts.reading import (
    COLUMNS,
    LayoutOptions,
    Place,
    Reading,
    normal,
    split_of,
    split_of_file,
)
from vitlora.data.layouts.table_columns import Roles, labels_in, names_pictures, roles_of
from vitlora.data.layouts.table_file import ENDINGS, Table, peek_table, read_table
from vitlora.errors import DataError, VitloraError, a_few, counted, printable

_MOST_TABLES = 100  # more than this lie beside their pictures, one for each
_NAMES_FILES = ("classes.txt", "labels.txt", "names.txt")
_TEXTS = (*ENDINGS, ".txt", ".md")

Files = dict[str, Path]  # by their names in the place


class Tables:
    """A table with a row for each picture, or one for each split."""

    name: ClassVar[str] = "table"
    what: ClassVar[str] = "a table (.csv, .tsv, .jsonl, .parquet) of pictures and their classes"
    uses: ClassVar[tuple[str, ...]] = (*COLUMNS, "images", "label_names")

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """See ``Layout``. Beside class folders, a table counts if it gives pictures a class."""
        files = _tables(place)
        if not files:
            return False
        told = place.file is not None or any(name.endswith("_column") for name in options.given())
        if told and not all(name.lower().endswith(".parquet") for name in files):
            return True  # a Parquet file may hold the pictures themselves
        finder = Finder(place, options)
        if any(_gives_classes(place, path, options, finder) for path in files.values()):
            return True
        # pictures, a table and nothing else: reading it will say what is wrong with it
        alone = all(name.lower().endswith(_TEXTS) for name in place.others)
        return alone and bool(finder.place.pictures) and not Folders().recognises(place, options)

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        finder = Finder(place, options, columns=True)
        files, unused = _chosen(place, options, finder)
        tables = [read_table(place, path) for path in files.values()]
        roles = [roles_of(table, options, finder.knows) for table in tables]
        rows = [row for pair in zip(tables, roles, strict=True) for row in _rows(*pair, len(files))]
        source = a_few(map(printable, files), 3)
        with told_of(source):
            labelled = _labelled(rows, roles)
        labels = {row.where: row.labels[0] for row in labelled}
        names, beside, notes = _names(place, options, files, {*labels.values()})
        labels = named(labels, names, options.label_names or "")
        labelled = [row._replace(labels=(labels[row.where],)) for row in labelled]
        with told_of(source):
            splits = checked_splits(labelled)
            pairs = finder.find(labelled, splits)
            splits = splits if any(splits) else folder_splits(labelled, pairs)
            pictures = pictures_of(labelled, pairs, splits)
        return Reading(
            self.name,
            source,
            pictures,
            _classes(roles, names, {*labels.values()}),
            notes=(
                *unused,
                *notes,
                *_grouped(source, roles, any(splits)),
                *notes_of(source, finder.place, labelled, pairs, len(rows) - len(labelled)),
            ),
            read_from=(*files, *beside),
        )


def _tables(place: Place) -> Files:
    """Returns the tables at the top of a place, or in its split folders; the one that was named."""
    if place.file is not None:
        named_one = place.file.name.lower().endswith(ENDINGS)
        return {place.name(place.file): place.file} if named_one else {}
    files = {name: path for name, path in place.others.items() if name.lower().endswith(ENDINGS)}
    base = _base([*place.pictures, *files])
    near = {name: path for name, path in files.items() if _is_near(name.removeprefix(base))}
    return near if len(near) <= _MOST_TABLES else {}


def _base(names: Iterable[str]) -> str:
    """Returns the folder that all files lie in, with a slash behind; empty for the place itself."""
    folders = {name.rpartition("/")[0] for name in names}
    base = posixpath.commonpath(folders) if folders else ""
    while split_of(base.rpartition("/")[2]):
        base = base.rpartition("/")[0]
    return f"{base}/" if base else ""


def _is_near(name: str) -> bool:
    *folders, _ = name.split("/")
    return not folders or (len(folders) == 1 and split_of(folders[0]) is not None)


def _gives_classes(place: Place, path: Path, options: LayoutOptions, finder: Finder) -> bool:
    """Returns whether a table gives classes to pictures that are there, by its first rows."""
    if "submission" in path.stem.lower():  # a competition's example of guesses
        return False
    try:
        table = peek_table(place, path)
        roles = roles_of(table, options, finder.knows, peeked=True)
        return names_pictures(table, roles.file, finder.knows)
    except (VitloraError, OSError):
        return False


def _chosen(place: Place, options: LayoutOptions, finder: Finder) -> tuple[Files, list[str]]:
    """Returns the tables to read, and a note of the others.

    Raises:
        DataError: There are none, or several that are not one for each split.
    """
    files = _tables(place)
    if not files:
        raise DataError(
            f"{place.root} is not a table and holds none at its top or in a split folder; expected "
            "a .csv, .tsv, .jsonl or .parquet file with a row for each picture"
        )
    if len(files) == 1:
        return files, []
    chosen = {n: p for n, p in files.items() if _gives_classes(place, p, options, finder)}
    splits = [split_of_file(name) for name in chosen]
    if not chosen or (len(chosen) > 1 and ("" in splits or len({*splits}) < len(splits))):
        which = a_few(map(printable, chosen or files))
        what = "several tables of classes" if chosen else "tables, none of pictures and classes"
        raise DataError(
            f"{place.root} holds {what} ({which}); expected one, or one for each split, such as "
            "train.csv and val.csv. Name the file itself as data.root, or move the others elsewhere"
        )
    others = [printable(name) for name in files if name not in chosen]
    return chosen, [f"{a_few(others, 3)} not used: no classes of pictures"] if others else []


def _rows(table: Table, roles: Roles, tables: int) -> list[Entry]:
    """Returns what the rows of a table say, each named with its file where there are several.

    Raises:
        DataError: A cell under a class is neither 0 nor 1, or rows name no picture.
    """
    files, nothing = table.cells(roles.file), [""] * len(table.numbers)
    said = zip(
        files,
        labels_in(table, roles),
        table.cells(roles.split) if roles.split else [split_of_file(table.name)] * len(files),
        table.cells(roles.group) if roles.group else nothing,
        strict=True,
    )
    before = f"{table.name} " if tables > 1 else ""
    beside = table.name.rpartition("/")[0]
    rows = [
        Entry(
            before + table.where(number),
            (file,),
            tuple(map(normal, labels)),
            split,
            normal(group),
            beside,
        )
        for number, (file, labels, split, group) in enumerate(said)
    ]
    if without := [row for row in rows if not row.written]:
        raise DataError(
            f"{table.name}: {counted(len(without), 'row')} without a picture in the column "
            f"'{printable(roles.file, 80)}': {listed(without)}; name it, or leave the row out"
        )
    return rows


def _labelled(rows: Sequence[Entry], roles: Iterable[Roles]) -> list[Entry]:
    """Returns the rows with a class.

    Raises:
        DataError: There are none; or some have several, or one that is not one line of text.
    """
    labelled = [row for row in rows if row.labels]
    if not labelled:
        columns = a_few({printable(name): 0 for role in roles for name in _of_classes(role)}, 3)
        raise DataError(f"no class in any of {counted(len(rows), 'row')} (column {columns})")
    check_labels(labelled)
    return labelled


def _of_classes(roles: Roles) -> tuple[str, ...]:
    return roles.one_hot or (roles.label,)


def _names(
    place: Place, options: LayoutOptions, files: Iterable[str], labels: Collection[str]
) -> tuple[tuple[str, ...], list[str], list[str]]:
    """Returns the names of classes 0, 1, 2 ..., the file beside that gave them, and a note of it.

    The note is of a file that does not fit.
    """
    if options.label_names is not None or not _are_numbers(labels):
        return names_in(place, options), [], []
    folders = {f"{name.rpartition('/')[0]}/" for name in files} | {_base(files)}
    known = [f"{folder}{name}".lstrip("/") for folder in sorted(folders) for name in _NAMES_FILES]
    beside = [name for name in known if name in place.others][:1]
    try:
        names = names_in(place, options, beside)
    except DataError as error:
        return (), [], [f"{printable(beside[0])} not used: {error}"]
    if not names or {*labels} == {str(number) for number in range(len(names))}:
        return names, beside, []
    numbers = _in_order(labels)
    note = (
        f"{printable(beside[0])} not used: it names {counted(len(names), 'class')}, and the labels "
        f"are {numbers[0]} to {numbers[-1]} ({len(numbers):,} of them); to use it all the same "
        "add data.label_names"
    )
    return (), [], [note]


def _classes(
    roles: Iterable[Roles], names: tuple[str, ...], labels: Collection[str]
) -> tuple[str, ...] | None:
    """Returns the classes where tables give them an order."""
    if columns := [normal(name) for role in roles for name in role.one_hot]:
        return tuple(dict.fromkeys(columns))
    return names or (_in_order(labels) if _are_numbers(labels) else None)


def _are_numbers(labels: Iterable[str]) -> bool:
    return all(re.fullmatch(r"[0-9]{1,18}", label) for label in labels)


def _in_order(numbers: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(numbers, key=lambda label: (int(label), label)))


def _grouped(source: str, roles: Iterable[Roles], split: bool) -> Iterator[str]:
    """Yields that a column keeps pictures together, where a split will be drawn."""
    if not split and (columns := {role.group: 0 for role in roles if role.group}):
        yield (
            f"pictures with the same {a_few(map(printable, columns))} in {source} stay on one side "
            "of the split"
        )
