"""Which files of a folder are pictures, and what is passed over."""

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from vitlora.data.archives import is_archive, members, open_file
from vitlora.data.jpeg_xl import BOXED
from vitlora.data.picture_file import HEIC, JPEG, PNG
from vitlora.errors import DataError, a_few, counted

Kind = Literal["other", "hidden", "linked", "closed"]

# Files with these endings are pictures, unopened. Those that need a further package are here so
# that they are reported where they cannot be read, never silently passed over.
_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pnm .pfm .avif .avifs .jp2 "
    ".j2k .jpx .jpf .j2c .heic .heics .heif .heifs .hif .jxl"
)
SUFFIXES = frozenset(_SUFFIXES.split())
# Camera raw: some of it is a TIFF inside, of a thumbnail.
_RAW_SUFFIXES = ".dng .cr2 .cr3 .nef .nrw .arw .raf .orf .rw2 .pef .srw .3fr .iiq .x3f"
_RAW = frozenset(_RAW_SUFFIXES.split())
# Files that often lie beside pictures in thousands; their endings are enough to know them.
_NO_SUFFIXES = ".txt .json .xml .csv .tsv .yaml .yml .md .html .py .npy .npz .pt .cls"
_NONE = frozenset(_NO_SUFFIXES.split())
_SYSTEM = ("__MACOSX", "__pycache__")  # folders that programs leave behind
_KNOWN = SUFFIXES | _RAW | _NONE
_STARTS = (
    (0, JPEG),
    (0, PNG),
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    (8, b"WEBP"),
    (0, b"II*\0"),  # TIFF
    (0, b"MM\0*"),
    (0, b"II+\0"),  # BigTIFF
    (0, b"MM\0+"),
    *((4, b"ftyp" + brand) for brand in (b"avif", b"avis", *HEIC)),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n"),  # JPEG 2000
    (0, b"\xff\x4f\xff\x51"),
    (0, BOXED),  # JPEG XL
)


@dataclass
class Listing:
    """What lies below a folder.

    Attributes:
        pictures: The files taken for pictures, sorted.
        passed_over: The other files and folders by kind: ``other`` (files that are no pictures),
            ``hidden``, ``linked`` (links to folders that are looked through anyway, or to a folder
            above), ``closed`` (folders that may not be read).
        folders: Those looked through, the empty ones too, but not the one that was listed.
    """

    pictures: list[Path] = field(default_factory=list)
    passed_over: dict[Kind, list[Path]] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def note(self, kind: Kind, path: Path) -> None:
        """Records a file or folder as passed over."""
        self.passed_over.setdefault(kind, []).append(path)

    def check_open(self) -> None:
        """Refuses folders that may not be read; see ``check_closed``."""
        check_closed(self.passed_over.get("closed", ()))


def check_closed(folders: Sequence[Path]) -> None:
    """Refuses folders that may not be read: nobody knows what pictures they hold.

    Raises:
        DataError: There are some.
    """
    if folders:
        raise DataError(
            f"{counted(len(folders), 'folder')} may not be read: {a_few(map(str, folders))}; "
            "give yourself the right to read them, or move them elsewhere"
        )


def list_pictures(folder: Path) -> Listing:
    """Returns all pictures below a folder, and what is passed over.

    A file is a picture by its ending, or, where it has none or an unknown one, by its first bytes.
    Links to files and folders are followed, each folder once, under its own name where it has one.
    Hidden files and folders hold copies (.ipynb_checkpoints …) and are left alone; a folder, pipe,
    socket or device is never a picture, whatever its name.
    """
    if is_archive(folder):
        return _list_archive(folder)
    found = Listing()
    links = list(_walk(folder, found, seen := _and_above(folder)))
    while links:  # after all that is really there, so that a new link renames no picture
        link = links.pop(0)
        if (real := os.path.realpath(link)) in seen:
            found.note("linked", link)
            continue
        seen.add(real)
        found.folders.append(link)
        links += _walk(link, found, seen)
    found.pictures.sort()
    found.folders.sort()
    return found


def _list_archive(archive: Path) -> Listing:
    """Returns what lies in an archive, as if it were a folder."""
    found, folders = Listing(), set[PurePosixPath]()
    for name in members(archive):
        inside, path = PurePosixPath(name), archive / name
        if any(map(is_hidden, inside.parts)):
            found.note("hidden", path)
            continue
        folders.update(inside.parents)
        if _named_as_picture(path) or (_unknown(path) and _starts_as_picture(path)):
            found.pictures.append(path)
        else:
            found.note("other", path)
    found.folders = [archive / folder for folder in sorted(folders) if folder.name]
    return found


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is passed over."""
    return name.startswith(".") or name in _SYSTEM


def is_picture(file: Path) -> bool:
    """Returns whether a file is taken for a picture: by its ending, else by its first bytes.

    A broken link counts by its ending, so that it is reported. A pipe or a socket never counts: it
    would block its reader.
    """
    if file.name.startswith(".") or not (_named_as_picture(file) or _unknown(file)):
        return False
    return not _is_special(file) and (_named_as_picture(file) or _starts_as_picture(file))


def _named_as_picture(file: PurePath) -> bool:
    return file.suffix.lower() in SUFFIXES


def _unknown(file: PurePath) -> bool:
    """Returns whether the ending leaves open whether it is a picture."""
    return file.suffix.lower() not in _KNOWN


def describe(passed_over: Collection[PurePath]) -> str:
    """Returns how many files were passed over, in words: ``3 files: 2 .db, 1 .dng (…)``."""
    total = len(passed_over)
    return f"{total:,} {'file' if total == 1 else 'files'}: {by_ending(passed_over)}"


def by_ending(passed_over: Iterable[PurePath]) -> str:
    """Returns the number of files of each ending, the commonest first."""
    count = Counter(path.suffix.lower() or "without an ending" for path in passed_over)
    parts = [f"{n:,} {name}" for name, n in count.most_common() if name not in _RAW]
    raw = [f"{n:,} {name}" for name, n in count.most_common() if name in _RAW]
    if raw:
        parts.append(f"{', '.join(raw)} (camera raw is not read; export as JPEG)")
    return ", ".join(parts)


def _and_above(folder: Path) -> set[str]:
    """Returns the real paths of a folder and those above it: a link to one of them is a loop."""
    real = Path(os.path.realpath(folder))
    return {str(path) for path in (real, *real.parents)}


def _walk(folder: Path, found: Listing, seen: set[str]) -> Iterator[Path]:
    """Notes all that lies below a folder; yields the links to other folders, in order."""
    below = [folder]
    while below:
        parent = below.pop()
        try:
            with os.scandir(parent) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            found.note("closed", parent)
            continue
        for entry in listed:
            path = Path(entry.path)
            if is_hidden(entry.name):
                found.note("hidden", path)
            elif not _is_folder(entry):
                # a plain file needs no further system call
                plain = entry.is_file(follow_symlinks=False) and _named_as_picture(path)
                yes = plain or is_picture(path)
                found.pictures.append(path) if yes else found.note("other", path)
            elif entry.is_symlink():
                yield path
            elif (real := os.path.realpath(path)) in seen:
                found.note("linked", path)
            else:
                seen.add(real)
                found.folders.append(path)
                below.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(file: Path) -> bool:
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:  # a broken link, say: its name decides
        return False


def _starts_as_picture(file: Path) -> bool:
    try:
        with open_file(file) as opened:
            start = opened.read(16)
    except (OSError, DataError):
        return False
    return any(start[place:].startswith(known) for place, known in _STARTS)
