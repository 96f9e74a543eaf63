"""What a layout makes of a place: pictures with a class, and a split where the place gives one."""

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol

from vitlora.data.archives import is_archive, open_file
from vitlora.data.hub import hub_name
from vitlora.data.listing import Listing, list_pictures
from vitlora.errors import DataError, UsageError, a_few, nearest, printable
from vitlora.files import expanded

# what people call the parts of a split -> what they are called here
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

COLUMNS = ("file_column", "label_column", "split_column", "group_column")  # options of tables


def split_of(name: str) -> str | None:
    """Returns ``train``, ``val`` or ``test`` for a split's usual names, in any case; else None."""
    return SPLIT_NAMES.get(name.strip().casefold())


def splits_in(text: str) -> set[str]:
    """Returns the splits that words of a text name: ``{"val"}`` for ``instances_val2017``."""
    words = re.findall(r"[^\W\d_]+", text)
    return {split for word in words if (split := split_of(word))}


def split_of_file(name: str) -> str:
    """Returns the split that the name of a file, or else of its folder, says; empty for none."""
    path = PurePosixPath(name)
    found = (splits_in(text) for text in (path.stem, path.parent.name))
    return next((splits.pop() for splits in found if len(splits) == 1), "")


def normal(name: str) -> str:
    """Returns a name in Unicode's composed form (NFC), whatever form the disk writes."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class LayoutOptions:
    """How a place is stored: the options under ``data`` of the same names.

    Attributes:
        layout: Name of a layout; None recognises it.
        images: Folder or archive of the pictures that a table or export names; None where it lies.
        file_column: Of a table: the column that names pictures; None finds it by its name.
        label_column: The same for their classes.
        split_column: The same for their splits.
        group_column: The same for the groups that no split may divide.
        label_names: File with a class name a line, for labels that are numbers from 0.
    """

    layout: str | None = None
    images: str | None = None
    file_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    label_names: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "LayoutOptions":
        """Returns those among all the options under ``data``."""
        return cls(**{one.name: options.get(one.name) for one in fields(cls)})

    @classmethod
    def named(cls, options: Mapping[str, Any]) -> "LayoutOptions":
        """Returns what a command was given besides its own options: ``data.layout``, ``layout``.

        Raises:
            UsageError: Another option is among them.
        """
        given = {name.removeprefix("data."): str(value) for name, value in options.items()}
        names = [one.name for one in fields(cls)]
        for name in given.keys() - names:
            raise UsageError(
                f"'{name}' does not say how pictures are stored{nearest(name, names)}; expected "
                f"{', '.join(names)}"
            )
        return cls(**given)

    @classmethod
    def recorded(cls, split: Mapping[str, Any]) -> "LayoutOptions":
        """Returns those that a bundle's record of its data names.

        Bundles from before there were layouts were trained on class folders.
        """
        return cls.of(split.get("reading", {"layout": "folders"}))

    def absolute(self) -> "LayoutOptions":
        """Returns the same with paths that do not depend on the working folder."""
        places = {name: getattr(self, name) for name in ("images", "label_names")}
        known = {name: place for name, place in places.items() if place is not None}
        return replace(self, **{n: str(expanded(p).resolve()) for n, p in known.items()})

    def check_used(self, layout: "Layout") -> None:
        """Refuses options that a layout does not look at.

        Raises:
            UsageError: There are some.
        """
        if unused := sorted(self.given().keys() - {"layout", *layout.uses}):
            names = a_few(f"data.{name}" for name in unused)
            raise UsageError(f"the layout {layout.name} does not use {names}; leave it out")

    def column(self, role: str, known: Collection[str], where: str) -> str:
        """Returns the column that an option names; empty if it was not given.

        Args:
            role: ``file``, ``label``, ``split`` or ``group``.
            known: The columns there are.
            where: The table, for errors.

        Raises:
            UsageError: There is none of that name.
        """
        name = getattr(self, f"{role}_column")
        if name is not None and name not in known:
            raise UsageError(
                f"data.{role}_column is '{name}'{nearest(name, known)}, which is not a column of "
                f"{where}; found: {a_few(printable(one, 40) for one in known)}"
            )
        return name or ""

    def given(self) -> dict[str, str]:
        """Returns the options that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Labelled:
    """A picture and what a layout says of it.

    Attributes:
        path: The file; it may lie in an archive.
        name: What it is known by in draws and digests: the same wherever the place is moved to.
        label: Its class (NFC).
        split: ``train``, ``val`` or ``test``; empty where the place does not say.
        group: Pictures of one group are never parted by a draw; empty for a picture by itself.
    """

    path: Path
    name: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Reading:
    """All that a layout finds in a place.

    Attributes:
        layout: Its name.
        source: Where the labels come from, in a few words: ``class folders``, ``labels.csv``.
        pictures: In the order of their names.
        classes: Where the place says what classes there are: their names, in label order. None to
            take those that pictures have, sorted: numbers by their value.
        empty: Classes that have a place of their own without pictures, such as an empty class
            folder, by split.
        passed_over: Files that are not pictures, where pictures were looked for.
        notes: What a user should know of how it was read, a line each.
        read_from: Names of the files in the place that were read for labels.
    """

    layout: str
    source: str
    pictures: list[Labelled]
    classes: tuple[str, ...] | None = None
    empty: Mapping[str, list[str]] = field(default_factory=dict)
    passed_over: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    read_from: tuple[str, ...] = ()


class Layout(Protocol):
    """A way in which people store labelled pictures. One file of this folder each.

    Attributes:
        name: What ``data.layout`` calls it.
        what: What it reads, in a few words, for messages and help.
        uses: The options that it looks at; the others are refused.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    uses: ClassVar[tuple[str, ...]]

    def recognises(self, place: "Place", options: LayoutOptions) -> bool:
        """Returns whether a place looks as if it were stored in this way; reports nothing."""
        ...

    def read(self, place: "Place", options: LayoutOptions) -> Reading:
        """Reads a place.

        Raises:
            DataError: Something in it is wrong, missing, or can be read in two ways; the line
                names the file, and the row where there is one.
        """
        ...


class Place:
    """A folder, an archive, or the one file that lists the pictures.

    Args:
        root: Where it is.

    Attributes:
        root: The same.
        folder: What is looked through: ``root``, or the folder its file lies in.
        file: The file that was named, if one was; an archive is none.
        hub: Its name if it is a dataset on the Hugging Face hub, where no file can be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hub = hub_name(root)
        self.file = root if root.is_file() and not is_archive(root) else None
        self.folder = root.parent if self.file else root

    @cached_property
    def listing(self) -> Listing:
        """Everything in the folder and below, listed once."""
        return Listing() if self.hub else list_pictures(self.folder)

    @cached_property
    def pictures(self) -> dict[str, Path]:
        """Its pictures by their names in it (NFC, forward slashes), sorted.

        Raises:
            DataError: Names of two differ only in how Unicode writes their accents.
        """
        found: dict[str, Path] = {}
        for path in self.listing.pictures:
            name = self.name(path)
            if (other := found.setdefault(name, path)) != path:
                folders = other.parent != path.parent
                shared = name.rpartition("/")[0] if folders else name
                raise DataError(
                    f"{self.folder} holds two {'folders' if folders else 'pictures'} named "
                    f"'{printable(shared)}', their accents written in different Unicode forms; "
                    "rename or remove one"
                )
        return found

    @cached_property
    def others(self) -> dict[str, Path]:
        """Its files that are not pictures, by their names in it, sorted."""
        others = self.listing.passed_over.get("other", [])
        return {self.name(path): path for path in sorted(others)}

    @cached_property
    def folders(self) -> list[str]:
        """Names of all folders in it, the empty ones too, sorted."""
        return [self.name(path) for path in self.listing.folders]

    def name(self, path: Path) -> str:
        """Returns a path's name in the folder (NFC, forward slashes)."""
        return normal(path.relative_to(self.folder).as_posix())

    def read_text(self, path: Path) -> str:
        """Returns a text file of the place, which may lie in an archive.

        Raises:
            DataError: It is not UTF-8.
        """
        with open_file(path) as opened:
            data = opened.read()
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line}: not UTF-8; save the file as UTF-8 and try again"
            ) from None
