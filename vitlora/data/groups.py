"""Which pictures must stay on one side of a split: a CSV file, or near-duplicates."""

import csv
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from posixpath import normpath

from vitlora.data.duplicates import near_duplicates
from vitlora.data.folder import Folder
from vitlora.data.layouts.reading import Place
from vitlora.errors import DataError, UsageError, nearest
from vitlora.files import expanded
from vitlora.notes import tell

DUPLICATES = "duplicates"
_COLUMNS = ("file", "group")


def groups_of(folder: Folder, source: str | None) -> list[int]:
    """Returns the number of the group of each picture that is not yet split.

    The folder's own groups, such as the patients of a table, always stay together; a source adds
    to them.

    Args:
        folder: Its pictures are those of ``all``.
        source: ``duplicates`` for pictures that look the same, or a CSV file with the columns
            ``file`` (relative to the folder) and ``group``, which names every picture; None for
            no more than the folder's own.

    Raises:
        UsageError: There is no such file.
        DataError: The file is not such a CSV, or its pictures are not those of the folder.
    """
    samples = folder.splits["all"]
    own = [folder.groups.get(folder.name(sample)) for sample in samples]
    asked = list(range(len(samples))) if source is None else _asked_for(folder, source)
    if not folder.groups:
        return asked
    leaders = merged(asked, own)
    numbers = {leader: number for number, leader in enumerate(dict.fromkeys(leaders))}
    return [numbers[leader] for leader in leaders]


def _asked_for(folder: Folder, source: str) -> list[int]:
    """Returns the groups that ``data.groups`` names."""
    samples = folder.splits["all"]
    if source == DUPLICATES:
        tell(f"looking for near-duplicates among {len(samples):,} pictures …")
        return near_duplicates([sample.path for sample in samples])
    file = expanded(source)
    if not file.is_file():
        raise UsageError(
            f"data.groups '{source}': no such file; expected null, {DUPLICATES} or a CSV file with "
            f"the columns file,group{nearest(source, [DUPLICATES])}"
        )
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            listed = _listed(file, csv.DictReader(opened, strict=True))
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV file: {error}") from None
    return _numbers(folder, file, listed)


def merged(groups: Sequence[int], keys: Sequence[Hashable | None]) -> list[int]:
    """Returns the groups of pictures, merged where pictures have the same key.

    Args:
        groups: The number of each picture's group.
        keys: What each picture shares with others; None for nothing.
    """
    leader: dict[int, int] = {}

    def lead(group: int) -> int:
        while (above := leader.get(group, group)) != group:
            group = above
        return group

    first: dict[Hashable, int] = {}
    for group, key in zip(groups, keys, strict=True):
        if key is not None:
            one, other = lead(first.setdefault(key, group)), lead(group)
            if one != other:
                leader[max(one, other)] = min(one, other)
    return [lead(group) for group in groups]


def _listed(file: Path, rows: "csv.DictReader[str]") -> dict[str, str]:
    """Returns the group of each file a CSV names."""
    header = [name.strip() for name in rows.fieldnames or []]
    if not set(_COLUMNS) <= set(header):
        raise DataError(
            f"{file} begins with '{','.join(header)}'; expected the header file,group, its columns "
            "separated by commas"
        )
    rows.fieldnames = header
    listed: dict[str, str] = {}
    for row in rows:
        where = f"{file}, line {rows.line_num}"
        if None in row:
            raise DataError(
                f"{where}: more values than the {len(header)} columns; put a name with a comma "
                'in quotes ("a, b.jpg")'
            )
        name, group = row["file"] or "", (row["group"] or "").strip()
        if not name or not group:
            raise DataError(f"{where}: no {'group' if name else 'file'}; expected both in each row")
        if _key(name) in listed:
            raise DataError(f"{where}: '{name}' is listed twice; expected each picture once")
        listed[_key(name)] = unicodedata.normalize("NFC", group)
    return listed


def _numbers(folder: Folder, file: Path, listed: dict[str, str]) -> list[int]:
    names = [_key(folder.name(sample)) for sample in folder.splits["all"]]
    missing = [name for name in names if name not in listed]
    if missing:
        raise DataError(
            f"{file} does not list {_these(missing)} of the {len(names)} pictures in {folder.root};"
            " expected every one; give a picture that belongs with no other a group of its own"
        )
    unknown = listed.keys() - set(names)
    unknown -= set(_files(folder)) if unknown else set()  # of classes left out, or of other splits
    if unknown:
        raise DataError(
            f"{file} lists {_these(sorted(unknown))} that {folder.root} does not hold; expected "
            "paths relative to that folder"
        )
    numbers: dict[str, int] = {}
    return [numbers.setdefault(listed[name], len(numbers)) for name in names]


def _files(folder: Folder) -> Iterator[str]:
    place = Place(folder.root)
    yield from map(_key, (*place.pictures, *place.others))


def _these(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{names[0]}'{more}"


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", normpath(name.replace("\\", "/")))
