"""What a table or an export says of each picture, checked, and matched with the files there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from vitlora.data.layouts.lookup import Lookup, split_in
from vitlora.data.layouts.reading import Labelled, LayoutOptions, Place, split_of
from vitlora.errors import DataError, a_few, counted, shown

_LONGEST_NAME = 4096
_SHOWN = 5  # entries that an error names

Pair = tuple[Path, str]  # of a picture: its path, and its name in the place


class Entry(NamedTuple):
    """What a table or an export says of one picture.

    Attributes:
        where: File and row, for errors: ``line 3``, ``labels.json, image 7``.
        names: How the picture may be called, the likeliest first, as it is written last.
        labels: Its classes; none for a picture that nobody has labelled.
        split: Name of its split, as it is written; empty for none.
        group: What a split must not part; empty for none.
        beside: Folder of the table or export in the place.
    """

    where: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    split: str = ""
    group: str = ""
    beside: str = ""

    @property
    def written(self) -> str:
        """The picture's name as it is written."""
        return self.names[-1]


@contextmanager
def told_of(source: str) -> Iterator[None]:
    """Puts the name of a table or export before what is wrong with its entries."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def listed(entries: Sequence[Entry], say: Callable[[Entry], object] | None = None) -> str:
    """Returns where the first entries are, each with what is wrong, and how many follow."""
    return a_few((f"{e.where} ({shown(say(e))})" if say else e.where for e in entries), _SHOWN)


def check_labels(entries: Sequence[Entry]) -> None:
    """Refuses pictures of several classes.

    Args:
        entries: Each with a class.

    Raises:
        DataError: There are some.
    """
    if several := [entry for entry in entries if len(entry.labels) > 1]:
        raise DataError(
            f"{counted(len(several), 'picture')} with several classes: "
            f"{listed(several, lambda entry: ', '.join(entry.labels))}; several classes a picture "
            "are not supported yet, leave one"
        )


def checked_splits(entries: Sequence[Entry]) -> list[str]:
    """Returns ``train``, ``val`` or ``test`` for each entry, or nothing for all.

    Raises:
        DataError: An entry names another split, or some name one and others none.
    """
    known = {split: split_of(split) for split in {entry.split for entry in entries}}
    if wrong := [entry for entry in entries if entry.split and not known[entry.split]]:
        raise DataError(
            f"{counted(len(wrong), 'row')} with an unknown split: "
            f"{listed(wrong, lambda entry: entry.split)}; expected train, val or test (or "
            "training, validation, dev, testing ...)"
        )
    without = [entry for entry in entries if not entry.split]
    if without and len(without) < len(entries):
        raise DataError(
            f"{counted(len(without), 'row')} without a split, where others have one: "
            f"{listed(without)}; give each a split, or none"
        )
    return [known[entry.split] or "" for entry in entries]


def folder_splits(entries: Sequence[Entry], pairs: Iterable[Pair]) -> list[str]:
    """Returns the split of the folder that each picture lies in, or nothing for all.

    Raises:
        DataError: Some lie in the folder of a split and others do not.
    """
    split = cache(split_in)
    found = [split(name.rpartition("/")[0]) for _, name in pairs]
    without = [entry for entry, split in zip(entries, found, strict=True) if not split]
    if without and any(found):
        raise DataError(
            f"{counted(len(without), 'picture')} in no train, val or test folder, where others "
            f"are: {listed(without, lambda entry: entry.written)}; say with a column split what "
            "each is"
        )
    return found


class Finder:
    """Finds the pictures that entries name.

    Args:
        place: Where the table or export lies.
        options: ``images`` says where the pictures lie, if elsewhere.
        columns: Whether ``file_column`` can name another column of them, for errors.

    Attributes:
        place: Where the pictures lie.
    """

    def __init__(self, place: Place, options: LayoutOptions, columns: bool = False) -> None:
        self._advice = "their folder with data.images"
        self._advice += ", or their column with data.file_column" * columns
        self._in = cache(lambda split: Lookup(place, options, split))
        self.place = self._in("").place

    def knows(self, name: str) -> bool:
        """Returns whether a name is that of a picture, or of several."""
        try:
            return len(name) <= _LONGEST_NAME and self._in("").find(name) is not None
        except DataError:
            return True

    def find(self, entries: Sequence[Entry], splits: Sequence[str]) -> list[Pair]:
        """Returns the picture of each entry.

        Args:
            entries: They name the pictures.
            splits: Of each; a picture in the folder of another split is not taken.

        Raises:
            DataError: A name fits several pictures, or pictures are not there.
        """
        pairs = [self._one(entry, split) for entry, split in zip(entries, splits, strict=True)]
        # where x/1.jpg is in the folder 1.jpg lies in, x/y/1.jpg is not that picture
        beyond = [
            self._in("").beyond(entry.written, pair[1])
            if pair and ("/" in entry.written or "\\" in entry.written)
            else None
            for entry, pair in zip(entries, pairs, strict=True)
        ]
        roots = {*beyond}
        lost = {root for root in roots if root and _above(root) & roots}
        missing = [
            entry
            for entry, pair, root in zip(entries, pairs, beyond, strict=True)
            if not pair
            or root in lost
            or (root and self._in("").elsewhere(entry.written, pair[1], entry.beside))
        ]
        if missing:
            raise DataError(
                f"{len(missing):,} of {counted(len(entries), 'picture')} not found in "
                f"{self.place.folder}: {listed(missing, lambda entry: entry.written)}; put them "
                f"there, or name {self._advice}"
            )
        return [pair for pair in pairs if pair]

    def _one(self, entry: Entry, split: str) -> Pair | None:
        """Returns a picture by its exact name, before one whose name only ends alike."""
        lookup = self._in(split)
        names = [name for name in entry.names if len(name) <= _LONGEST_NAME]
        exact = (lookup.exact(name, entry.beside) for name in names)
        alike = (lookup.alike(name, entry.beside, entry.where) for name in names)
        return next((pair for pair in chain(exact, alike) if pair), None)


def _above(folder: str) -> set[str]:
    """Returns the folders above one: ``a/b`` and ``a`` and the top for ``a/b/c``."""
    parts = folder.split("/")
    return {"/".join(parts[:length]) for length in range(len(parts))}


def pictures_of(
    entries: Sequence[Entry], pairs: Sequence[Pair], splits: Sequence[str]
) -> list[Labelled]:
    """Returns the pictures in the order of their names.

    Raises:
        DataError: Entries that say different things name the same picture.
    """
    found: dict[str, Labelled] = {}
    first: dict[str, Entry] = {}
    different: list[str] = []
    for entry, (path, name), split in zip(entries, pairs, splits, strict=True):
        one = Labelled(path, name, entry.labels[0], split, entry.group)
        if (other := found.setdefault(name, one)) == one:
            first.setdefault(name, entry)
        else:
            what = f"{shown(entry.written)}: {_differs(other, one)}"
            different.append(f"{first[name].where} and {entry.where} ({what})")
    if different:
        raise DataError(
            f"{counted(len(different), 'picture')} listed twice, with different values: "
            f"{a_few(different, _SHOWN)}; leave one row of each: a picture can have one class only"
        )
    return sorted(found.values(), key=lambda one: one.name)


def _differs(one: Labelled, other: Labelled) -> str:
    """Returns what two entries say differently of a picture."""
    kinds = ("label", "split", "group")
    said = ((kind, getattr(one, kind), getattr(other, kind)) for kind in kinds)
    return next(f"{kind} {shown(a)} or {shown(b)}" for kind, a, b in said if a != b)


def notes_of(
    source: str, place: Place, entries: Sequence[Entry], pairs: Sequence[Pair], bare: int = 0
) -> Iterator[str]:
    """Yields what a user should know of how entries and pictures match, a line each.

    Args:
        source: The table or export.
        place: Where the pictures lie.
        entries: Each with a class.
        pairs: The picture of each.
        bare: Number of rows without a class, where each row stands for a picture.
    """
    used = len({name for _, name in pairs})
    empty = f" ({counted(bare, 'row')} with an empty one)" if bare else ""
    if unused := len(place.pictures) - used:
        where = f"{counted(unused, 'picture')} in {place.folder}"
        yield f"{where} not used: no class in {source}{empty}"
    elif bare:
        yield f"{counted(bare, 'row')} of {source} not used: no class"
    if repeated := len(entries) - used:
        yield f"{source} names {counted(repeated, 'picture')} again, with the same class"
    names = ((entry.written, name) for entry, (_, name) in zip(entries, pairs, strict=True))
    if other := [f"{wrote} is {name}" for wrote, name in names if _in_other_case(wrote, name)]:
        yield (
            f"{counted(len(other), 'picture')} named in {source} with other capital letters than "
            f"on the disk: {a_few(other, 3)}"
        )


def _in_other_case(written: str, name: str) -> bool:
    """Returns whether the ends of two names are the same but for their case."""
    one, other = (Path(text.replace("\\", "/")).name for text in (written, name))
    other = other[: len(one)]
    return one != other and one.casefold() == other.casefold()
