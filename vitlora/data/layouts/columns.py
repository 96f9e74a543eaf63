"""The columns of a dataset: which holds the pictures, which the classes, and what they say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitlora.data.layouts.label_names import checked_names
from vitlora.data.layouts.reading import LayoutOptions, normal
from vitlora.errors import DataError, a_few, printable

if TYPE_CHECKING:
    import pyarrow

_LABELS = ("label", "labels", "class", "class_name", "category", "target")
_TYPES = {  # Arrow's name of a type -> how it begins in ours
    "text": ("string", "large_string", "string_view"),
    "whole": ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    "bytes": ("binary", "large_binary", "binary_view"),
    "list": ("list", "large_list", "fixed_size_list", "list_view", "large_list_view"),
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a dataset say what.

    Attributes:
        picture: Holds the files of the pictures.
        label: Their classes.
        names: Of the classes 0, 1, 2 ...; empty where the dataset does not say.
        split: Which split a picture is in; empty for no such column.
        group: What a split must not part; empty for no such column.
        rivals: All columns that may be the classes by their names, where there are several.
    """

    picture: str
    label: str
    names: tuple[str, ...] = ()
    split: str = ""
    group: str = ""
    rivals: tuple[str, ...] = ()


def columns_of(schema: "pyarrow.Schema", options: LayoutOptions, where: str) -> Columns:
    """Returns which columns say what.

    Args:
        schema: The columns' names and types, and what the library datasets notes of them.
        options: Those of the columns' names count before all.
        where: The dataset, for errors.

    Raises:
        UsageError: There is no column of a name that was given.
        DataError: There is no column of pictures or of labels, or there are several.
    """
    types = {name: schema.field(name).type for name in schema.names}
    notes = _notes(schema)
    labels = [name for name in types if _note(notes, name) == "ClassLabel"]
    if len(labels) != 1:
        labels = [name for name in _LABELS if name in (labels or types)] or labels
    rivals = tuple(labels) if {*labels} <= {*_LABELS} and len(labels) > 1 else ()
    labels = labels[:1] if rivals else labels
    picture = picture_column(schema, options, where)
    given = options.column("label", types, where)
    label = given or _one(labels, "classes", "label_column", types, where)
    names = notes[label].get("names") if _note(notes, label) == "ClassLabel" else None
    return Columns(
        picture,
        label,
        checked_names(names, f"{where}, column {label}") if isinstance(names, list) else (),
        options.column("split", types, where) or "split" * ("split" in types),
        options.column("group", types, where) or "group" * ("group" in types),
        () if given else rivals,
    )


def picture_columns(schema: "pyarrow.Schema") -> list[str]:
    """Returns the columns that hold picture files: those marked so, else all that can."""
    types, notes = {name: schema.field(name).type for name in schema.names}, _notes(schema)
    able = [name for name in types if _holds(types[name])]
    return [name for name in able if _note(notes, name) == "Image"] or able


def picture_column(schema: "pyarrow.Schema", options: LayoutOptions, where: str) -> str:
    """Returns the column that holds the pictures; arguments and errors as ``columns_of``."""
    types = {name: schema.field(name).type for name in schema.names}
    picture = options.column("file", types, where)
    found = picture_columns(schema)
    picture = picture or _one(found, "pictures", "file_column", types, where)
    if not _holds(types[picture]) or "/" in picture or picture in ("", ".", ".."):
        raise DataError(
            f"{where}: the column '{printable(picture, 80)}' ({types[picture]}) holds no picture "
            "files; expected bytes, or a struct of bytes and path"
        )
    return picture


def texts(table: "pyarrow.Table", name: str, names: Sequence[str], where: str) -> list[str]:
    """Returns what a column says of each row, as text; empty where it says nothing.

    Args:
        table: The rows.
        name: The column.
        names: What its numbers stand for, if they do; -1 then stands for nothing.
        where: The table, for errors.

    Raises:
        DataError: The column holds something else than text, whole numbers or true and false; or a
            number without a name.
    """
    column = table.column(name)
    kind = getattr(column.type, "value_type", column.type) if _is(column, "dictionary") else None
    column = column.cast(kind) if kind is not None else column
    if _is(column, *_TYPES["list"]):
        raise DataError(
            f"{where}: the column '{name}' holds lists ({column.type}); several labels a picture "
            "are not supported yet, name another with data.label_column"
        )
    if not _is(column, "bool", "null", *_TYPES["text"], *_TYPES["whole"]):
        raise DataError(
            f"{where}: the column '{name}' is {column.type}; expected text or whole numbers"
        )
    values: list[Any] = column.to_pylist()
    if names and _is(column, *_TYPES["whole"]):
        wrong = [f"{row} ({v})" for row, v in enumerate(values) if v and not -1 <= v < len(names)]
        if wrong:
            raise DataError(
                f"{where}: the column '{name}' has names for 0 to {len(names) - 1}, but other "
                f"numbers in row {a_few(wrong, 5)}"
            )
        known = {None: "", -1: "", **dict(enumerate(names))}
        return [known[value] for value in values]
    if _is(column, "bool"):
        values = [None if value is None else str(value).lower() for value in values]
    return ["" if value is None else normal(str(value)) for value in values]


def paths_alone(table: "pyarrow.Table", name: str) -> bool:
    """Returns whether a picture is only named in a column, by its path, and not in it."""
    column: Any = table.column(name)
    fields = [part.name for part in column.type] if _is(column, "struct") else []
    if "path" not in fields:
        return False
    named = (chunk.field("path").filter(chunk.field("bytes").is_null()) for chunk in column.chunks)
    return any(len(paths) > paths.null_count for paths in named)


def _notes(schema: "pyarrow.Schema") -> dict[str, Any]:
    """Returns what the library datasets noted of each column, which a stranger may have written."""
    try:
        notes = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    known = notes.items() if isinstance(notes, dict) else ()
    return {name: note for name, note in known if isinstance(note, Mapping)}


def _note(notes: Mapping[str, Any], name: str) -> object:
    return notes.get(name, {}).get("_type")


def _holds(kind: Any) -> bool:
    """Returns whether a column of a type can hold files: bytes, or a struct that has some."""
    if str(kind).startswith("struct<"):
        return any(part.name == "bytes" and str(part.type) in _TYPES["bytes"] for part in kind)
    return str(kind) in _TYPES["bytes"]


def _is(column: "pyarrow.ChunkedArray", *names: str) -> bool:
    return str(column.type).partition("<")[0].partition("[")[0] in names


def _one(found: list[str], what: str, option: str, types: Mapping[str, object], where: str) -> str:
    """Returns the one column that was found.

    Raises:
        DataError: There are none or several to choose from.
    """
    if len(found) == 1:
        return found[0]
    columns = a_few((f"{printable(name, 40)} ({str(kind)[:40]})" for name, kind in types.items()))
    which = f"several columns of {what} ({a_few(found)})" if found else f"no column of {what}"
    raise DataError(f"{where} has {which}; name one with data.{option}. Its columns: {columns}")
