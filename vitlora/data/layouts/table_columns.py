"""Which column of a table names pictures, and which says their classes, splits and groups."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitlora.data.layouts.reading import LayoutOptions, split_of
from vitlora.data.layouts.table_file import Table
from vitlora.errors import DataError, a_few, printable

# Names of columns, the likeliest first: without what parts their words, in small letters.
_FILES = (
    "file filename filenames filepath filepaths imagefile imagefilename imagefilepath imagepath "
    "imagepaths imgpath imgfile imgfilename path paths relativepath imagename imgname picturename "
    "photoname image images img picture photo pic imageid imageids imgid pictureid photoid fileid "
    "id name"
)
_LABELS = (
    "label labels labelname class classes classname category categories categoryname target "
    "targets species breed variety diagnosis dx disease choice labelid classid categoryid "
    "classindex labelindex"
)
_SPLITS = "split splits set subset dataset partition datasplit"
_GROUPS = "group groupid patient patientid subject subjectid lesion lesionid session sessionid"
_LOOKED_AT = 100  # values by which a column of pictures is known
_ONE_HOT_FILE, _NO_CLASS = (
    "_classes.csv",
    "Unlabeled",
)  # Roboflow's; 1 for a picture without a class
_ZERO_OR_ONE = {"": False, "0": False, "0.0": False, "1": True, "1.0": True}


@dataclass(frozen=True)
class Roles:
    """Which columns of a table say what.

    Attributes:
        file: Names the pictures.
        label: Says their classes; empty for ``one_hot``.
        one_hot: A column for each class, 1 where the picture is of it.
        split: Says which split a picture is in; empty for none.
        group: Says what a split must not part; empty for none.
        last: Whether ``label`` was taken only because no other column is left.
    """

    file: str
    label: str
    one_hot: tuple[str, ...] = ()
    split: str = ""
    group: str = ""
    last: bool = False


def roles_of(
    table: Table, options: LayoutOptions, is_picture: Callable[[str], bool], peeked: bool = False
) -> Roles:
    """Returns what the columns of a table are.

    Args:
        table: Its rows.
        options: The columns that they name count before all.
        is_picture: Whether a picture of such a name is there.
        peeked: Whether the table is only the first rows of one.

    Raises:
        UsageError: There is no column of a name that was given.
        DataError: There is no column of pictures or classes; or there are several of classes.
    """
    given = {
        role: options.column(role, table.columns, table.name)
        for role in ("file", "label", "split", "group")
    }
    left = [name for name in table.columns if name not in given.values() and not _is_index(name)]
    file = given["file"] or _file(table, left, is_picture)
    left = [name for name in left if name != file]
    split = given["split"] or _split(table, left)
    left = [name for name in left if name != split]
    group = given["group"] or next(iter(_by_name(left, _GROUPS)), "")
    left = [name for name in left if name != group]
    if given["label"]:
        return Roles(file, given["label"], (), split, group)
    if table.name.rpartition("/")[2] == _ONE_HOT_FILE:
        return Roles(file, "", tuple(name for name in left if name != _NO_CLASS), split, group)
    if label := _label(table, left, peeked):
        return Roles(file, label, (), split, group, not _by_name([label], _LABELS))
    if len(left) > 1 and all(_is_zero_or_one(table, name) for name in left):
        return Roles(file, "", tuple(left), split, group)
    raise DataError(
        f"{table.name} has no column of classes, such as label, class or category; name one with "
        f"data.label_column. Its columns: {_shown(table.columns)}"
    )


def file_column(table: Table, options: LayoutOptions, is_picture: Callable[[str], bool]) -> str:
    """Returns the column that names pictures, whatever else there is; as ``roles_of``."""
    left = [name for name in table.columns if not _is_index(name)]
    return options.column("file", table.columns, table.name) or _file(table, left, is_picture)


def names_pictures(table: Table, file: str, is_picture: Callable[[str], bool]) -> bool:
    """Returns whether any of a table's first rows name pictures that are there."""
    return _hits(table, file, is_picture) > 0


def labels_in(table: Table, roles: Roles) -> list[tuple[str, ...]]:
    """Returns the classes of each row.

    Raises:
        DataError: A cell under a class is neither 0 nor 1.
    """
    if roles.label:
        return [(value,) if value else () for value in table.cells(roles.label)]
    found: list[list[str]] = [[] for _ in table.numbers]
    for name in roles.one_hot:
        for row, value in enumerate(table.cells(name)):
            if value not in _ZERO_OR_ONE:
                raise DataError(
                    f"{table.name}, {table.where(row)}: '{printable(value, 40)}' in the column "
                    f"'{printable(name, 80)}'; expected 0 or 1"
                )
            if _ZERO_OR_ONE[value]:
                found[row].append(name)
    return [tuple(names) for names in found]


def _is_index(name: str) -> bool:
    """Returns whether a column holds the numbers that pandas gives rows."""
    return re.fullmatch(r"(Unnamed: \d+|__index_level_\d+__)?", name) is not None


def _file(table: Table, columns: Sequence[str], is_picture: Callable[[str], bool]) -> str:
    """Returns the column that names pictures: by its name, and of several the one that does."""
    named = _by_name(columns, _FILES)
    if not named:
        raise DataError(
            f"{table.name} has no column that names pictures, such as file, filename or image; "
            "name one with data.file_column. Its columns (in the first line): "
            f"{_shown(table.columns)}"
        )
    if len(named) == 1:
        return named[0]
    return max(named, key=lambda name: _hits(table, name, is_picture))


def _hits(table: Table, file: str, is_picture: Callable[[str], bool]) -> int:
    try:
        values = table.cells(file)
    except DataError:  # a column of lists, say
        return -1
    return sum(map(is_picture, values[:_LOOKED_AT]))


def _split(table: Table, columns: Sequence[str]) -> str:
    """Returns the column that says train, val or test; a set may be something else."""
    for name in _by_name(columns, _SPLITS):
        if any(map(split_of, set(_cells(table, name)))):
            return name
    return ""


def _label(table: Table, columns: Sequence[str], peeked: bool) -> str:
    """Returns the column of classes: by its name, or because no other is left.

    Raises:
        DataError: There are several, which say different things.
    """
    named = _by_name(columns, _LABELS)
    if len(named) > 1:
        cells = {name: values for name in named if (values := _cells(table, name))}
        return _of_words(cells, named) if peeked else one_of(cells, named, table.name)
    if named:
        return named[0]
    return columns[0] if len(columns) == 1 and _repeats(_cells(table, columns[0])) else ""


def _repeats(values: Sequence[str]) -> bool:
    """Returns whether values are classes, not a caption or a number for each picture."""
    return len(set(values)) <= max(2, 0.9 * len(values))


def one_of(cells: Mapping[str, Sequence[str]], named: Sequence[str], where: str) -> str:
    """Returns one of columns that say the same, such as a class and its number: that of words.

    Args:
        cells: What the columns say; those that say nothing may lack.
        named: The columns, the likeliest first.
        where: The table, for errors.

    Raises:
        DataError: They say different things.
    """
    counts = {len(set(values)) for values in cells.values()}
    if cells and {len(set(zip(*cells.values(), strict=True)))} != counts:
        raise DataError(
            f"{where} has several columns that may be the classes ({_shown(named)}); name one "
            "with data.label_column"
        )
    return _of_words(cells, named)


def _of_words(cells: Mapping[str, Sequence[str]], named: Sequence[str]) -> str:
    words = (name for name, values in cells.items() if not all(map(_is_number, set(values))))
    return next(words, named[0])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9.]+", text) is not None


def _cells(table: Table, name: str) -> list[str]:
    try:
        return table.cells(name)
    except DataError:  # a column of lists says nothing here
        return []


def _is_zero_or_one(table: Table, name: str) -> bool:
    values = set(_cells(table, name))
    return values <= _ZERO_OR_ONE.keys() and values != {""}


def _by_name(columns: Collection[str], names: str) -> list[str]:
    """Returns the columns of known names, the likeliest first."""
    known = names.split()
    keys = {name: re.sub(r"[\W_]+", "", name.casefold()) for name in columns}
    return sorted((n for n in columns if keys[n] in known), key=lambda n: known.index(keys[n]))


def _shown(columns: Iterable[str]) -> str:
    return a_few([printable(name, 40) for name in columns])
