"""What the export of a labelling tool says of its pictures, made into a Reading."""

import codecs
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vitlora.data.archives import open_file
from vitlora.data.layouts.lookup import Lookup
from vitlora.data.layouts.reading import (
    Labelled,
    LayoutOptions,
    Place,
    Reading,
    normal,
    split_of,
)
from vitlora.errors import DataError, UsageError, a_few, counted, printable, shown

_MOST_FILES = 100  # more .json or .xml than this lie beside their pictures, one for each
_ENDS = 2**16  # bytes at either end by which an export is recognised
_LONGEST_LABEL = 300
_SHOWN = 5  # rows that an error names

Kind = TypeVar("Kind")
Files = dict[str, Path]  # by their names in the place


@dataclass(frozen=True)
class Entry:
    """What an export says of one picture.

    Attributes:
        where: File and row, for errors: ``labels.json, image 7``.
        names: How the picture may be called, the likeliest first.
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


def check_options(layout: str, options: LayoutOptions, *used: str) -> None:
    """Refuses options that a layout does not look at.

    Raises:
        UsageError: There are some.
    """
    unused = sorted(options.given().keys() - {"layout", "images", *used})
    if unused:
        raise UsageError(
            f"data.{unused[0]} is given, but the layout {layout} does not use it; leave it out"
        )


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
    lookup: Lookup,
    classes: Sequence[str] | None = None,
) -> Reading:
    """Returns what exports say, each picture found where it lies.

    Args:
        layout: Name of the layout.
        files: The exports, by name.
        entries: What they say of each picture.
        lookup: Finds the pictures.
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
    _check_labels(source, labelled)
    splits = _splits(source, labelled)
    pictures = _found(source, labelled, splits, lookup)
    unused = len(lookup.place.pictures) - len(pictures)
    note = f"{counted(unused, 'picture')} of {lookup.place.folder} not used: no label in {source}"
    return Reading(
        layout,
        source,
        sorted(pictures.values(), key=lambda one: one.name),
        tuple(map(normal, classes)) if classes is not None else None,
        notes=(note,) if unused else (),
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


def _check_labels(source: str, entries: Iterable[Entry]) -> None:
    """Refuses pictures of several classes, and classes that cannot be a line of text.

    Raises:
        DataError: There are some.
    """
    if several := [entry for entry in entries if len(entry.labels) > 1]:
        rows = _rows(several, lambda one: f" ({a_few(map(printable, one.labels), 3)})")
        raise DataError(
            f"{source}: {counted(len(several), 'picture')} with several classes: {rows}; several "
            "classes a picture are not supported yet, leave one"
        )
    known = {entry.labels[0]: entry for entry in entries}
    if wrong := [known[label] for label in known if not _is_line(label)]:
        raise DataError(
            f"{source}: a class must be a line of at most {_LONGEST_LABEL} characters that print; "
            f"found {_rows(wrong, lambda one: f' ({shown(one.labels[0], 40)})')}"
        )


def _is_line(label: str) -> bool:
    return len(label) <= _LONGEST_LABEL and all(c.isprintable() for c in label)


def _splits(source: str, entries: Sequence[Entry]) -> dict[str, str]:
    """Returns ``train``, ``val`` or ``test`` for each name of a split; empty for none.

    Raises:
        DataError: A name is another, or some pictures have a split and others none.
    """
    named = {name: split_of(name) for name in {entry.split for entry in entries} if name}
    if wrong := [one for one in entries if one.split and not named[one.split]]:
        raise DataError(
            f"{source}: expected train, val or test as a split (or training, validation, dev, "
            f"testing ...); found {_rows(wrong, lambda one: f' ({shown(one.split, 40)})')}"
        )
    without = [entry for entry in entries if not entry.split]
    if named and without:
        raise DataError(
            f"{source}: {counted(len(without), 'picture')} without a split where others have one: "
            f"{_rows(without)}; give each picture a split, or none"
        )
    return {"": "", **{name: split or "" for name, split in named.items()}}


def _found(
    source: str, entries: Iterable[Entry], splits: dict[str, str], lookup: Lookup
) -> dict[str, Labelled]:
    """Returns the pictures by their names in the place.

    Raises:
        DataError: Some are not there, or two entries that say different things mean the same one.
    """
    found: dict[str, Labelled] = {}
    missing: list[Entry] = []
    meant: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        split = splits[one.split]
        if (picture := _find(one, split, lookup)) is None:
            missing.append(one)
            continue
        path, name = picture
        found[name] = Labelled(path, name, normal(one.labels[0]), split, one.group)
        meant[name].append(one)
    if missing:
        raise DataError(
            f"{source}: {counted(len(missing), 'picture')} not found in {lookup.place.folder}: "
            f"{_rows(missing, lambda one: f' ({shown(one.names[-1], 60)})')}; put them there, or "
            "name their folder with data.images"
        )
    twice = [same for same in meant.values() if len({_said(one) for one in same}) > 1]
    if twice:
        pairs = [f"{same[0].where} and {same[1].where}" for same in twice]
        raise DataError(
            f"{source}: {counted(len(twice), 'picture')} with two different labels, splits or "
            f"groups: {a_few(pairs, _SHOWN)}; leave one of each"
        )
    return found


def _said(entry: Entry) -> tuple[str, str, str]:
    return normal(entry.labels[0]), entry.split, entry.group


def _find(entry: Entry, split: str, lookup: Lookup) -> tuple[Path, str] | None:
    """Returns a picture's path and name: of the name written, before one that only ends alike."""
    pictures = lookup.place.pictures
    names = [normal(name) for name in entry.names]
    if entry.beside:
        names = [*(f"{entry.beside}/{name}" for name in names), *names]
    for name in names:
        if name in pictures:
            return pictures[name], name
    for name in names:
        found = lookup.find(name, where=entry.where)
        if found is not None and not _of_another_split(found[1], split):
            return found
    return None


def _of_another_split(name: str, split: str) -> bool:
    """Returns whether a picture of one split lies in the folder of another: ``val2017/1.jpg``."""
    folders = name.split("/")[:-1] if split else []
    return any(split_of(part.strip("0123456789_- ")) not in (None, split) for part in folders)


def _rows(entries: Iterable[Entry], say: Callable[[Entry], str] = lambda _: "") -> str:
    return a_few((f"{one.where}{say(one)}" for one in entries), _SHOWN)
