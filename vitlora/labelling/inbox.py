"""The pictures of an inbox: where they are, what they are called, and which are copies."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from vitlora.data.archives import is_there, open_file
from vitlora.data.layouts.row_shards import CACHE as ROWS
from vitlora.data.unlabelled import names_of
from vitlora.data.waiting import in_threads
from vitlora.errors import DataError, a_few
from vitlora.files import cache_folder
from vitlora.notes import note


@dataclass(frozen=True)
class Unlabelled:
    """A picture of an inbox.

    Attributes:
        path: The file; it may lie in an archive.
        name: Its name in the inbox, with forward slashes.
        digest: SHA-256 of its bytes, in hex, by which it is known wherever it is moved.
        copies: Other files with the same bytes.
        table: Where the rows of the inbox are, if this is one, which is read from a copy.
    """

    path: Path
    name: str
    digest: str
    copies: tuple[Path, ...] = ()
    table: Path | None = None

    @property
    def shown(self) -> Path:
        """What it is called in listings."""
        return self.path if self.table is None else self.table / self.name


def read_inbox(root: str | Path, in_place: str = "") -> list[Unlabelled]:
    """Returns the pictures of a place that ``predict`` takes, by name; of equal files the first.

    Args:
        root: A folder, glob, archive or table, or ``hf://owner/name``.
        in_place: Option that needs the files themselves, if one is given.

    Raises:
        DataError: There is no such place, no picture in it, a table names one that is not there, or
            a folder may not be read.
        UsageError: The pictures lie in an archive or in rows, and ``in_place`` needs files.
    """
    names = names_of(root, in_place)
    digests = in_threads(_digest, [*names], f"reading {len(names):,} pictures")
    found: dict[str, Unlabelled] = {}
    rows = cache_folder(ROWS)
    folder = Path(root) if Path(root).is_dir() else Path(root).parent
    gone: list[Path] = []
    for (path, name), digest in zip(names.items(), digests, strict=True):
        if digest is None:
            gone.append(path)
        elif digest in found:
            one = found[digest]
            found[digest] = replace(one, copies=(*one.copies, path))
        else:
            found[digest] = Unlabelled(
                path, name, digest, table=folder if rows in path.parents else None
            )
    if missing := [str(path) for path in gone if not is_there(path)]:
        raise DataError(
            f"{root} names {len(missing):,} of {len(names):,} pictures that are not there: "
            f"{a_few(missing, 5)}"
        )
    if gone:
        note(f"left out, because they cannot be opened: {a_few(map(str, gone), 5)}")
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
