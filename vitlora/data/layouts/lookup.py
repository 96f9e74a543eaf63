"""The pictures that a table or an export names, found where they lie."""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from vitlora.data.layouts.reading import LayoutOptions, Place, normal, split_of
from vitlora.errors import DataError, UsageError, a_few, printable
from vitlora.files import expanded

# words beside that of a split in the name of its folder: ``train_images``
_WORDS = "images image imgs img photos pictures data set jpg jpeg png"
_NEUTRAL = frozenset(_WORDS.split())


class Lookup:
    """Finds pictures by the names that others gave them.

    A name may be relative to the folder of the pictures or to the file that holds it, absolute,
    written on another machine or in Windows' way, and lack its ending. What a name's last parts
    have in common with exactly one picture is that picture.

    Args:
        place: Where the table or export lies.
        options: ``images`` says where the pictures lie, if elsewhere.
        split: ``train``, ``val`` or ``test`` to leave out pictures in a folder of another split,
            such as ``test/`` or ``test_images/``, unless a name says the folder; empty for none.

    Attributes:
        place: Where the pictures lie.
        pictures: Those to find, by their names in that place.

    Raises:
        UsageError: ``images`` is not there.
    """

    def __init__(self, place: Place, options: LayoutOptions, split: str = "") -> None:
        self.place = place
        if options.images is not None:
            root = expanded(options.images)
            if not root.exists():
                raise UsageError(f"data.images '{root}': no such folder")
            self.place = Place(root)
        self.pictures = self.place.pictures
        if split:
            folders = {name.rpartition("/")[0] for name in self.pictures}
            kept = {folder for folder in folders if split_in(folder) in ("", split)}
            self.pictures = {
                name: path
                for name, path in self.pictures.items()
                if name.rpartition("/")[0] in kept
            }
        self._known = cache(self._by_last_parts)
        self._folder = f"{normal(self.place.folder.absolute().as_posix())}/"

    def find(self, name: str, beside: str = "", where: str = "") -> tuple[Path, str] | None:
        """Returns a picture's path and its name in the place, by ``exact``, else by ``alike``.

        Args:
            name: As it is written.
            beside: Folder of the file that holds the name, relative to the place.
            where: File and row for an error, as in ``labels.csv, line 3``.

        Raises:
            DataError: The name fits several pictures.
        """
        return self.exact(name, beside) or self.alike(name, beside, where)

    def exact(self, name: str, beside: str = "") -> tuple[Path, str] | None:
        """Returns the picture of a name that is relative to ``beside`` or to the place."""
        plain = self._plain(name)
        for full in (f"{beside}/{plain}" if beside else plain, plain):
            if full in (self.place.pictures if "/" in plain else self.pictures):
                return self.place.pictures[full], full
        return None

    def alike(self, name: str, beside: str = "", where: str = "") -> tuple[Path, str] | None:
        """Returns the one picture that agrees with the last parts of a name.

        An ending may lack; where no picture agrees, capital letters do not count either.

        Raises:
            DataError: The name fits several pictures.
        """
        plain = self._plain(name)
        full = f"{beside}/{plain}" if beside else plain
        found = next(filter(None, (self._by_tail(full, cut) for cut in _CUTS)), [])
        if len(found) > 1:
            raise DataError(
                f"{where or self.place.root}: '{printable(plain)}' could be any of "
                f"{a_few(found, 3)}; write the path from {self.place.folder} on"
            )
        return (self.pictures[found[0]], found[0]) if found else None

    def beyond(self, name: str, picture: str) -> str:
        """Returns the leading folders of a written name that the picture it found does not have.

        Empty where the whole name agrees.
        """
        parts, real = self._plain(name).split("/")[:-1], picture.split("/")[:-1]
        while parts and real and parts[-1].casefold() == real[-1].casefold():
            parts, real = parts[:-1], real[:-1]
        return "/".join(parts)

    def elsewhere(self, name: str, picture: str, beside: str = "") -> bool:
        """Returns whether a name says a folder that is there, or a split, and the picture's is not.

        Args:
            name: As it is written.
            picture: The picture it found, by its name in the place.
            beside: Folder of the file that holds the name, relative to the place.
        """
        if not (beyond := self.beyond(name, picture)):
            return False
        written, real = self._plain(name).rpartition("/")[0], picture.rpartition("/")[0]
        if {written, f"{beside}/{written}"} & self._folders:
            return True
        common = len(written) - len(beyond)
        split, found = split_in(beyond.rpartition("/")[2]), split_in(real[: len(real) - common])
        return bool(split and found) and split != found

    @cached_property
    def _folders(self) -> set[str]:
        return {*self.place.folders}

    def _plain(self, name: str) -> str:
        """Returns a name with forward slashes, relative to the place if it lies there."""
        text = normal(name.strip())
        if "\\" in text or text[1:2] == ":":
            text = PureWindowsPath(text).as_posix()
        parts = text.removeprefix(self._folder).split("/")
        return "/".join([part for part in parts if part not in ("", ".")])

    def _by_tail(self, name: str, cut: "_Cut") -> list[str]:
        """Returns the pictures that share the most last parts with a name, after the cut."""
        known, parts = self._known(cut), cut.name(name).split("/")
        length = 2 if "/".join(parts[-2:]) in known else 1
        found = known.get("/".join(parts[-length:]), [])
        while len(found) > 1 and length < len(parts):
            length += 1
            tail = "/".join(parts[-length:])
            nearer = [name for name in found if f"/{cut.picture(name)}".endswith(f"/{tail}")]
            if not nearer:
                break
            found = nearer
        return found

    def _by_last_parts(self, cut: "_Cut") -> dict[str, list[str]]:
        """Returns names by their last part, and by their last two: some repeat in all folders."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.pictures:
            parts = cut.picture(name).rsplit("/", 2)
            for length in range(1, min(len(parts), 2) + 1):
                found["/".join(parts[-length:])].append(name)
        return found


def split_in(folder: str) -> str:
    """Returns the split that a folder's path names: ``train`` for ``photos/train_images/cat``.

    Empty for none: a folder ``test tube`` is more likely a class.
    """
    for part in folder.split("/"):
        words = re.findall(r"[^\W\d_]+", part.casefold())
        splits = [word for word in words if split_of(word)]
        if len(splits) == 1 and {*words} - {*splits} <= _NEUTRAL:
            return split_of(splits[0]) or ""
    return ""


def _without_ending(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0] or last}"


class _Cut(NamedTuple):
    """What of two names is compared: of the one that is looked for, and of a picture's."""

    name: Callable[[str], str]
    picture: Callable[[str], str]


_CUTS = (
    _Cut(str, str),
    _Cut(str, _without_ending),
    _Cut(str.casefold, str.casefold),
    _Cut(str.casefold, lambda name: _without_ending(name).casefold()),
)
