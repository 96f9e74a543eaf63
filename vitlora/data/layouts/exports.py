"""What the export of a labelling tool says of its pictures, made into a Reading."""

import codecs
import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from vitlora.data.archives import open_file
from vitlora.data.layouts.entries import (
    Entry,
    Finder,
    check_labels,
    checked_splits,
    notes_of,
    pictures_of,
    told_of,
)
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading, normal
from vitlora.errors import DataError, a_few, counted, shown

_MOST_FILES = 100  # more .json or .xml than this lie beside their pictures, one for each
_ENDS = 2**16  # bytes at either end by which an export is recognised

Kind = TypeVar("Kind")
Files = dict[str, Path]  # by their names in the place


class Export(ABC):
    """What the exports of labelling tools have in common, as layouts.

    Attributes:
        ending: Of their files, with the dot.
        wanted: What to say where there is none.
    """

    uses: ClassVar[tuple[str, ...]] = ("images",)
    ending: ClassVar[str] = ".json"
    wanted: ClassVar[str]

    @abstractmethod
    def is_one(self, ends: bytes) -> bool:
        """Returns whether a file is such an export.

        Args:
            ends: Its first 64 KiB, from the first character on, and its last.
        """

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """See ``Layout``."""
        return bool(self.files(place))

    def files(self, place: Place) -> Files:
        """Returns the exports in a place; a file that was named is the only one looked at."""
        files = {place.file.name: place.file} if place.file else place.others
        found = {name: path for name, path in files.items() if path.suffix.lower() == self.ending}
        if len(found) > _MOST_FILES:
            return {}
        return {name: path for name, path in found.items() if self.is_one(_ends(path))}

    def found(self, place: Place) -> Files:
        """Returns the same.

        Raises:
            DataError: There are none.
        """
        if not (files := self.files(place)):
            raise DataError(f"{place.root} has no {self.wanted}")
        return files


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
        DataError: No picture has a label; or some have several, a class that is not plain text, a
            split of an unknown name or none where others have one; or some are not there, or are
            there once for several entries. One error lists all of a kind.
    """
    files = tuple(files)
    source = a_few(files, 3)
    before = f"{source}, " if len(files) == 1 else ""
    labelled = [
        one._replace(where=one.where.removeprefix(before), labels=tuple(map(normal, one.labels)))
        for one in entries
        if one.labels
    ]
    if not labelled:
        raise DataError(f"{source}: none of {counted(len(entries), 'picture')} has a label")
    finder = Finder(place, options)
    with told_of(source):
        check_labels(labelled)
        splits = checked_splits(labelled)
        pairs = finder.find(labelled, splits)
        pictures = pictures_of(labelled, pairs, splits)
    return Reading(
        layout,
        source,
        pictures,
        tuple(map(normal, classes)) if classes is not None else None,
        notes=tuple(notes_of(source, finder.place, labelled, pairs)),
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
