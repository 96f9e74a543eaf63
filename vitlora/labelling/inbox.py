"""The pictures of an inbox: where they are, what they are called, and which are copies."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitlora.data.archives import check_sealed, is_archive, open_file
from vitlora.data.layouts.lookup import Lookup
from vitlora.data.layouts.reading import LayoutOptions, Place
from vitlora.data.layouts.table_columns import file_column
from vitlora.data.layouts.table_file import ENDINGS, read_table
from vitlora.data.listing import describe, list_pictures
from vitlora.data.waiting import in_threads
from vitlora.errors import DataError, a_few
from vitlora.notes import note


@dataclass(frozen=True)
class Unlabelled:
    """A picture of an inbox.

    Attributes:
        path: The file; it may lie in an archive.
        name: Its name in the inbox, with forward slashes.
        digest: SHA-256 of its bytes, in hex, by which it is known wherever it is moved.
        copies: Other files with the same bytes.
    """

    path: Path
    name: str
    digest: str
    copies: tuple[Path, ...] = ()


def read_inbox(root: Path) -> list[Unlabelled]:
    """Returns the pictures of a folder, archive or table, by name; of equal files the first.

    Raises:
        DataError: There is no such place, or no picture in it, or a part of it may not be read.
    """
    paths = _paths(root)
    folder = root if root.is_dir() or is_archive(root) else root.parent
    digests = in_threads(_digest, paths, f"reading {len(paths):,} pictures")
    found: dict[str, Unlabelled] = {}
    gone: list[str] = []
    for path, digest in zip(paths, digests, strict=True):
        if digest is None:
            gone.append(str(path))
        elif digest in found:
            one = found[digest]
            found[digest] = replace(one, copies=(*one.copies, path))
        else:
            name = Path(os.path.relpath(path, folder)).as_posix()
            found[digest] = Unlabelled(path, name, digest)
    if gone:
        note(f"left out, because they cannot be opened: {a_few(gone, 5)}")
    return list(found.values())


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hex.

    Raises:
        OSError: It cannot be opened.
        DataError: It lies in an archive that is damaged.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str | None:
    try:
        return digest_of(path)
    except (OSError, DataError):
        return None


def _paths(root: Path) -> Sequence[Path]:
    if not root.exists():
        raise DataError(f"--data '{root}': no such folder; expected the folder of new pictures")
    check_sealed(root)
    if root.is_file() and not is_archive(root):
        return _listed(root)
    listing = list_pictures(root)
    listing.check_open()
    others = listing.passed_over.get("other", [])
    if not listing.pictures:
        only = f"; ignored {describe(others)}" if others else ""
        raise DataError(f"--data '{root}': no pictures in this folder{only}")
    if others:
        note(f"ignored {describe(others)}")
    return listing.pictures


def _listed(file: Path) -> Sequence[Path]:
    """Returns the pictures that a table names, in the order of its rows."""
    if file.suffix.lower() not in ENDINGS:
        raise DataError(
            f"--data '{file}' is a file; expected a folder, a .zip or .tar, or a table "
            f"({', '.join(ENDINGS)}) of pictures"
        )
    options, place = LayoutOptions(), Place(file)
    lookup, table = Lookup(place, options), read_table(place, file)

    def find(name: str) -> Path | None:
        found = lookup.find(name, where=str(file)) if name else None
        return found[0] if found else None

    names = table.cells(file_column(table, options, lambda name: find(name) is not None))
    pairs = {name: find(name) for name in names if name}
    if missing := [name for name, path in pairs.items() if path is None]:
        raise DataError(
            f"{file} names {len(missing):,} of {len(pairs):,} pictures that are not there: "
            f"{a_few(missing, 5)}"
        )
    if not pairs:
        raise DataError(f"{file} names no pictures")
    return _distinct(pairs.values())


def _distinct(paths: Iterable[Path | None]) -> list[Path]:
    return [*dict.fromkeys(path for path in paths if path is not None)]
