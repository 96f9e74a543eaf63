"""The rows of tables -> pictures with a class, each row checked against what is there."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vitlora.data.layouts.lookup import Lookup, split_in
from vitlora.data.layouts.reading import Labelled, LayoutOptions, Place, normal, split_of
from vitlora.data.layouts.table_columns import Roles, labels_in
from vitlora.data.layouts.table_file import Table
from vitlora.errors import DataError, a_few, counted, printable, shown

_LONGEST_LABEL = 300  # characters
_LONGEST_NAME = 4096
_SHOWN = 5  # rows that an error names


class TableRow(NamedTuple):
    """What a table says of one picture.

    Attributes:
        where: What to call the row in a message: ``line 3``, of several tables ``a.csv line 3``.
        file: The picture's name, as it is written.
        labels: Its classes; none for a picture that nobody has labelled.
        split: As it is written; empty for none.
        group: What a split must not part; empty for none.
        folder: Where the table lies in the place.
    """

    where: str
    file: str
    labels: tuple[str, ...]
    split: str
    group: str
    folder: str


def rows_of(table: Table, roles: Roles, split: str, prefix: str = "") -> list[TableRow]:
    """Returns a table's rows.

    Args:
        table: Their texts.
        roles: What its columns are.
        split: What all its pictures are in, if no column says so.
        prefix: What to call the table in messages that tell of several.

    Raises:
        DataError: A cell under a class is neither 0 nor 1, or rows name no picture.
    """
    files = table.cells(roles.file)
    nothing = [""] * len(files)
    splits = table.cells(roles.split) if roles.split else [split] * len(files)
    groups = table.cells(roles.group) if roles.group else nothing
    folder = table.name.rpartition("/")[0]
    rows = [
        TableRow(
            prefix + table.where(number),
            file,
            tuple(map(normal, labels)),
            split,
            normal(group),
            folder,
        )
        for number, (file, labels, split, group) in enumerate(
            zip(files, labels_in(table, roles), splits, groups, strict=True)
        )
    ]
    if without := [row for row in rows if not row.file]:
        raise DataError(
            f"{table.name}: {counted(len(without), 'row')} without a picture in the column "
            f"'{printable(roles.file, 80)}': {listed(without)}; name it, or leave the row out"
        )
    return rows


def listed(rows: Sequence[TableRow], say: Callable[[TableRow], object] | None = None) -> str:
    """Returns where the first rows are, each with what is wrong with it, and how many follow."""
    first = [f"{row.where} ({shown(say(row))})" if say else row.where for row in rows[:_SHOWN]]
    more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
    return a_few(first, _SHOWN) + more


def check_labels(rows: Sequence[TableRow]) -> None:
    """Refuses pictures of several classes, and classes that are no line of text.

    Raises:
        DataError: There are some.
    """
    if several := [row for row in rows if len(row.labels) > 1]:
        raise DataError(
            f"{counted(len(several), 'picture')} with several classes: "
            f"{listed(several, lambda row: ', '.join(row.labels))}; several classes a picture are "
            "not supported yet, leave one"
        )
    known = {row.labels[0]: row for row in reversed(rows)}
    if wrong := [row for label, row in known.items() if not _is_line(label)]:
        raise DataError(
            f"a class is a line of at most {_LONGEST_LABEL} characters that print; found "
            f"{listed(wrong, lambda row: row.labels[0])}"
        )


def _is_line(label: str) -> bool:
    return len(label) <= _LONGEST_LABEL and label.isprintable()


def checked_splits(rows: Sequence[TableRow]) -> list[str]:
    """Returns ``train``, ``val`` or ``test`` for each row, or nothing for all.

    Raises:
        DataError: A row names another split, or some rows name one and others none.
    """
    known = {split: split_of(split) for split in {row.split for row in rows}}
    if wrong := [row for row in rows if row.split and not known[row.split]]:
        raise DataError(
            f"{counted(len(wrong), 'row')} with an unknown split: "
            f"{listed(wrong, lambda row: row.split)}; expected train, val or test (or training, "
            "validation, dev, testing ...)"
        )
    without = [row for row in rows if not row.split]
    if without and len(without) < len(rows):
        raise DataError(
            f"{counted(len(without), 'row')} without a split, where others have one: "
            f"{listed(without)}; give each a split, or none"
        )
    return [known[row.split] or "" for row in rows]


class Finder:
    """Finds the pictures that rows name.

    Args:
        place: Where the tables lie.
        options: ``images`` says where the pictures lie, if elsewhere.
    """

    def __init__(self, place: Place, options: LayoutOptions) -> None:
        self._in = cache(lambda split: Lookup(place, options, split))
        self.place = self._in("").place

    def knows(self, file: str) -> bool:
        """Returns whether a name is a picture's, or that of several."""
        try:
            return len(file) <= _LONGEST_NAME and self._in("").find(file) is not None
        except DataError:
            return True

    def find(self, rows: Sequence[TableRow], splits: Sequence[str]) -> list[tuple[Path, str]]:
        """Returns the picture of each row and its name in the place.

        Args:
            rows: They name the pictures.
            splits: Of each; a picture in the folder of another split is not taken.

        Raises:
            DataError: A name fits several pictures, or pictures are not there.
        """
        pairs = [self._one(row, split) for row, split in zip(rows, splits, strict=True)]
        beyond = {
            row: self._in(split).beyond(row.file, pair[1])
            for row, split, pair in zip(rows, splits, pairs, strict=True)
            if pair and "/" in row.file.replace("\\", "/")
        }
        roots = set(beyond.values())
        # where x/1.jpg is in the folder 1.jpg lies in, x/y/1.jpg is not that picture
        astray = {row for row, root in beyond.items() if root and _above(root) & roots}
        missing = [row for row, pair in zip(rows, pairs, strict=True) if not pair or row in astray]
        self._check_missing(rows, missing)
        return [pair for pair in pairs if pair]

    def _one(self, row: TableRow, split: str) -> tuple[Path, str] | None:
        if len(row.file) > _LONGEST_NAME:
            return None
        return self._in(split).find(row.file, row.folder, row.where)

    def _check_missing(self, rows: Sequence[TableRow], missing: Sequence[TableRow]) -> None:
        folder = self.place.folder
        if not missing:
            return
        if len(missing) == len(rows):
            raise DataError(
                f"none of the {counted(len(rows), 'picture')} named is in {folder}, which has "
                f"{len(self.place.pictures):,}: {listed(missing, lambda row: row.file)}; name "
                "their folder with data.images, or their column with data.file_column"
            )
        raise DataError(
            f"{len(missing):,} of {counted(len(rows), 'picture')} not found in {folder}: "
            f"{listed(missing, lambda row: row.file)}; put them there, leave the rows out, or name "
            "their folder with data.images"
        )


def _above(folder: str) -> set[str]:
    """Returns the folders above one: ``a/b`` and ``a`` and the top for ``a/b/c``."""
    parts = folder.split("/")
    return {"/".join(parts[:length]) for length in range(len(parts))}


def folder_splits(rows: Sequence[TableRow], names: Iterable[str]) -> list[str]:
    """Returns the split of the folder that each picture lies in, or nothing for all.

    Raises:
        DataError: Some lie in the folder of a split and others do not.
    """
    split = cache(split_in)
    found = [split(name.rpartition("/")[0]) for name in names]
    without = [row for row, split in zip(rows, found, strict=True) if not split]
    if without and any(found):
        raise DataError(
            f"{counted(len(without), 'picture')} in no train, val or test folder, where others "
            f"are: {listed(without, lambda row: row.file)}; say with a column split what each is"
        )
    return found


def pictures_of(
    rows: Sequence[TableRow], pairs: Sequence[tuple[Path, str]], splits: Sequence[str]
) -> tuple[list[Labelled], int]:
    """Returns the pictures in the order of their names, and how many rows repeat another.

    Raises:
        DataError: Rows that say different things name the same picture.
    """
    found: dict[str, Labelled] = {}
    first: dict[str, TableRow] = {}
    different: list[str] = []
    for row, (path, name), split in zip(rows, pairs, splits, strict=True):
        one = Labelled(path, name, row.labels[0], split, row.group)
        if (other := found.setdefault(name, one)) == one:
            first.setdefault(name, row)
        else:
            what = f"{shown(row.file)}: {_differs(other, one)}"
            different.append(f"{first[name].where} and {row.where} ({what})")
    if different:
        raise DataError(
            f"{counted(len(different), 'picture')} listed twice, with something else each time: "
            f"{a_few(different, _SHOWN)}; leave one row of each: a picture can have one class only"
        )
    return sorted(found.values(), key=lambda one: one.name), len(rows) - len(found)


def _differs(one: Labelled, other: Labelled) -> str:
    """Returns what two rows say differently of a picture."""
    for kind in ("label", "split", "group"):
        said = getattr(one, kind), getattr(other, kind)
        if said[0] != said[1]:
            return f"{kind} {shown(said[0])} or {shown(said[1])}"
    raise AssertionError("the rows say the same")
