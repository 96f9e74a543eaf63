"""What the export of a labelling tool says of its pictures, made into a Reading."""

import codecs
import io
import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vitlora.data.archives import open_file
from vitlora.data.layouts.lookup import Lookup
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading, normal
from vitlora.data.layouts.table_rows import (
    TableRow,
    check_labels,
    checked_splits,
    listed,
    pictures_of,
)
from vitlora.errors import DataError, a_few, counted, shown

_MOST_FILES = 100  # more .json or .xml than this lie beside their pictures, one for each
_ENDS = 2**16  # bytes at either end by which an export is recognised
_LONGEST_NAME = 4096

Kind = TypeVar("Kind")
Files = dict[str, Path]  # by their names in the place


@dataclass(frozen=True)
class Entry:
    """What an export says of one picture.

    Attributes:
        where: File and row, for errors: ``labels.json, image 7``.
        names: How the picture may be called, the likeliest first, as it is written last.
        labels: Its classes; none for a picture that nobody has labelled.
        split: Name of its split, as it is written; empty for none.
        group: What a split must not part; empty for none.
        beside: Folder of the export in the place.
    """

    where: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    split: str = ""
    group: str = ""
    beside: str = ""

    @property
    def row(self) -> TableRow:
        """The same as a row of a table."""
        labels = tuple(map(normal, self.labels))
        return TableRow(self.where, self.names[-1], labels, self.split, self.group, self.beside)


def exports_in(place: Place, ending: str, like: Callable[[bytes], bool]) -> Files:
    """Returns the files of a place that look like a tool's exports.

    Args:
        place: Where to look; a file that was named is the only one looked at.
        ending: Of such files, with the dot.
        like: Tells from the first 64 KiB, without what comes before the first character, and the
            last.
    """
    files = {place.file.name: place.file} if place.file else place.others
    found = {name: path for name, path in files.items() if path.suffix.lower() == ending}
    if len(found) > _MOST_FILES:
        return {}
    return {name: path for name, path in found.items() if like(_ends(path))}


def json_of(place: Place, path: Path) -> Any:
    """Returns what a JSON file of a place holds.

    Raises:
        DataError: It is not JSON in UTF-8, or an object in it has a key twice.
    """
    text = place.read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except _TwiceError as error:
        raise DataError(f"{path}: the key {shown(str(error))} is there twice") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
        raise DataError(f"{path}: a number too long, or too deeply nested, to be read") from None


def checked(value: object, kind: type[Kind], where: str) -> Kind:
    """Returns a stranger's value if it is of the kind that is expected there.

    Raises:
        DataError: It is of another.
    """
    if not isinstance(value, kind):
        words = {dict: "an object", list: "a list", str: "text", int: "a whole number"}
        raise DataError(f"{where} is {shown(value)}; expected {words.get(kind, kind.__name__)}")
    return value


def reading_of(
    layout: str,
    files: Iterable[str],
    entries: Sequence[Entry],
    place: Place,
    options: LayoutOptions,
    classes: Sequence[str] | None = None,
) -> Reading:
    """Returns what exports say, each picture found where it lies.

    Args:
        layout: Name of the layout.
        files: The exports, by name.
        entries: What they say of each picture.
        place: Where they lie.
        options: ``images`` says where the pictures lie, if elsewhere.
        classes: Their names in label order, where the exports give an order.

    Raises:
        DataError: No picture has a label; or some have several, a class that is no plain text, a
            split of an unknown name or none where others have one; or some are not there, or are
            there once for several entries. All of one kind are told at once.
    """
    files = tuple(files)
    source = a_few(files, 3)
    labelled = [entry for entry in entries if entry.labels]
    if not labelled:
        raise DataError(f"{source}: none of {counted(len(entries), 'picture')} has a label")
    if len(files) == 1:
        short = f"{source}, "
        labelled = [replace(one, where=one.where.removeprefix(short)) for one in labelled]
    rows = [entry.row for entry in labelled]
    try:
        check_labels(rows)
        splits = checked_splits(rows)
        pairs = _found(labelled, splits, place, options)
        pictures, repeated = pictures_of(rows, pairs, splits)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    there = Lookup(place, options).place
    unused = len(there.pictures) - len(pictures)
    notes = {
        f"{counted(unused, 'picture')} of {there.folder} not used: no label in {source}": unused,
        f"{source} names {counted(repeated, 'picture')} again, with the same label": repeated,
    }
    return Reading(
        layout,
        source,
        pictures,
        tuple(map(normal, classes)) if classes is not None else None,
        notes=tuple(note for note, count in notes.items() if count),
        read_from=files,
    )


class _TwiceError(Exception):
    """A key that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _TwiceError(key)
    return found


def _ends(path: Path) -> bytes:
    try:
        with open_file(path) as opened:
            start = opened.read(_ENDS)
            opened.seek(max(len(start), opened.seek(0, io.SEEK_END) - _ENDS))
            return start.removeprefix(codecs.BOM_UTF8).lstrip() + opened.read()
    except (OSError, DataError):  # whoever reads it reports that
        return b""


def _found(
    entries: Sequence[Entry], splits: Sequence[str], place: Place, options: LayoutOptions
) -> list[tuple[Path, str]]:
    """Returns the path and name of each entry's picture.

    Raises:
        DataError: Some are not there.
    """
    lookups = {split: Lookup(place, options, split) for split in dict.fromkeys(splits)}
    pairs = [_find(one, lookups[split]) for one, split in zip(entries, splits, strict=True)]
    # where x/1.jpg is in the folder 1.jpg lies in, x/y/1.jpg is not that picture
    lookup = Lookup(place, options)
    beyond = [
        lookup.beyond(one.names[-1], pair[1]) if pair and "/" in one.names[-1] else None
        for one, pair in zip(entries, pairs, strict=True)
    ]
    roots = {root for root in beyond if root is not None}
    astray = {root for root in roots if _is_below(root, roots)}
    missing = [
        one.row
        for one, pair, root in zip(entries, pairs, beyond, strict=True)
        if not pair or root in astray
    ]
    if missing:
        raise DataError(
            f"{len(missing):,} of {counted(len(entries), 'picture')} not found in "
            f"{lookup.place.folder}: {listed(missing, lambda row: row.file)}; put them there, or "
            "name their folder with data.images"
        )
    return [pair for pair in pairs if pair]


def _find(entry: Entry, lookup: Lookup) -> tuple[Path, str] | None:
    """Returns a picture's path and name: of the name written, before one that only ends alike."""
    names = [normal(name) for name in entry.names if len(name) <= _LONGEST_NAME]
    if entry.beside:
        names = [*(f"{entry.beside}/{name}" for name in names), *names]
    for name in names:
        if name in lookup.pictures:
            return lookup.pictures[name], name
    found = (lookup.find(name, where=entry.where) for name in names)
    return next((pair for pair in found if pair), None)


def _is_below(folder: str, others: Container[str]) -> bool:
    """Returns whether a folder lies in one of others; all lie in the one without a name."""
    while folder:
        folder = folder.rpartition("/")[0]
        if folder in others:
            return True
    return False
