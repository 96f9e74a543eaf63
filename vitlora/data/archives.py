"""Files inside zip and tar archives, under the names they would have if the archive were a folder.

``photos.zip/cat/1.jpg`` is a path as good as any other: what opens pictures opens it here. Nothing
is unpacked to the disk. A picture in a row of an Arrow file has such a path too:
``train.arrow/image/17``. ``InMemory`` takes the place of a path where the bytes are at hand.
"""

import errno
import io
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from vitlora.data.rows import Rows
from vitlora.errors import DataError, a_few, printable

ENDINGS = (".zip", ".tar")
# these would have to be unpacked from the start for every picture
_LONGEST, _DEEPEST = 4096, 100  # characters and folders of a name in an archive
_SEALED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_MOST_BYTES = 2**30  # of a file inside, unpacked
# what a path into an archive is to the system
_NO_FILE = (errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class InMemory:
    """A file that is in memory instead of on the disk.

    Attributes:
        content: Its bytes.
        name: What messages call it.
    """

    content: bytes = field(repr=False)
    name: str

    def __str__(self) -> str:
        return self.name


Stored = Path | InMemory


class Archive(Protocol):
    """An opened archive."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file by its name in the archive, unpacked."""
        ...

    def read(self, name: str) -> bytes:
        """Returns a file's bytes."""
        ...


def is_archive(path: Path) -> bool:
    """Returns whether a path is an archive's, by its ending; a folder never is."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def check_sealed(path: Path) -> None:
    """Refuses an archive whose files cannot be reached one by one.

    Raises:
        DataError: It is one.
    """
    ending = next((end for end in _SEALED if path.name.lower().endswith(end)), None)
    if ending is not None and path.is_file():
        raise DataError(
            f"{path} is compressed as a whole, so no picture in it can be read without unpacking "
            "all: unpack it and name the folder, or pack it as .zip or .tar"
        )


def open_file(path: str | os.PathLike[str] | InMemory) -> io.BufferedReader | io.BytesIO:
    """Opens a file for reading, also one inside an archive or in memory.

    Raises:
        OSError: It is not there or may not be read.
        DataError: The archive is damaged.
    """
    if isinstance(path, InMemory):
        return io.BytesIO(path.content)
    path = Path(path)
    try:
        return path.open("rb")
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        return io.BytesIO(_read(*_parted(path)))


def size_and_time(path: Stored) -> tuple[int, int]:
    """Returns the bytes of a file and when it was last written, in nanoseconds.

    Of a file inside an archive, when the archive was; of one in memory, 0.

    Raises:
        OSError: It is not there.
    """
    if isinstance(path, InMemory):
        return len(path.content), 0
    try:
        state = path.stat()
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        archive, name = _parted(path)
        return _opened(archive).sizes[name], archive.stat().st_mtime_ns
    return state.st_size, state.st_mtime_ns


def is_there(path: Path) -> bool:
    """Returns whether there is such a file, also inside an archive."""
    try:
        size_and_time(path)
    except OSError:
        return False
    return not path.is_dir()


def members(archive: Path) -> list[str]:
    """Returns the names of the files in an archive, sorted, with forward slashes.

    Raises:
        DataError: It is damaged or encrypted, or a name in it could point outside or occurs twice.
    """
    return sorted(_opened(archive).sizes)


def read_files(archive: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Yields files of an archive, without looking for the archive each time.

    Raises:
        DataError: It is damaged.
    """
    opened = _opened(archive)
    return (_checked(archive, opened, name) for name in names)


def _parted(path: Path) -> tuple[Path, str]:
    """Returns an archive and the name of a file in it.

    Raises:
        FileNotFoundError: There is no such file.
    """
    known = (above for above in path.parents if above.suffix.lower() in _KINDS)
    archive = next((above for above in known if above.is_file()), None)
    if archive is not None:
        name = path.relative_to(archive).as_posix()
        if name in _opened(archive).sizes:
            return archive, name
    raise FileNotFoundError(2, "No such file or directory", str(path))


def _read(archive: Path, name: str) -> bytes:
    return _checked(archive, _opened(archive), name)


def _checked(archive: Path, opened: Archive, name: str) -> bytes:
    if opened.sizes[name] > _MOST_BYTES:
        raise DataError(f"{archive / name}: larger than {_MOST_BYTES // 2**30} GiB unpacked")
    try:
        return opened.read(name)
    except Exception as error:  # zlib, lzma and bz2 have an error each, zipfile several
        said = printable(str(error) or type(error).__name__)
        raise DataError(f"{archive / name}: damaged in the archive ({said})") from None


def _opened(archive: Path) -> Archive:
    """Returns an opened archive, anew when the file was written anew; a zip, for each process."""
    state = archive.stat()
    process = os.getpid() if archive.suffix.lower() == ".zip" else 0
    return _open(str(archive), state.st_size, state.st_mtime_ns, process)


@lru_cache(maxsize=4096)  # shards of one dataset, read in random order
def _open(archive: str, size: int, written: int, process: int) -> Archive:
    kind = _KINDS[Path(archive).suffix.lower()]
    try:
        return kind(archive)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{archive} is not a whole archive ({printable(str(error))})") from None


class _Zip:
    """A zip file; several threads may read it at once."""

    def __init__(self, archive: str) -> None:
        self._zip = zipfile.ZipFile(archive)
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if any(info.flag_bits & 1 for info in infos):
            raise DataError(f"{archive} is protected by a password; unpack it and name the folder")
        links = [i.filename for i in infos if stat.S_ISLNK(i.external_attr >> 16)]
        _check_names(archive, [info.filename for info in infos], links)
        self.sizes = {info.filename: info.file_size for info in infos}

    def read(self, name: str) -> bytes:
        return self._zip.read(name)


class _Tar:
    """A plain tar file: its files are read by their place."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        with tarfile.open(archive, "r:") as opened:
            infos = opened.getmembers()
        files = [info for info in infos if info.isreg()]
        self._places = {_plain(info.name): (info.offset_data, info.size) for info in files}
        names, others = [_plain(info.name) for info in files], list[str]()
        for info in infos:
            if info.islnk() and _plain(info.linkname) in self._places:  # a file packed before it
                names.append(_plain(info.name))
                self._places[names[-1]] = self._places[_plain(info.linkname)]
            elif not info.isreg() and not info.isdir():
                others.append(info.name)
        _check_names(archive, names, others)
        self.sizes = {name: size for name, (_, size) in self._places.items()}

    def read(self, name: str) -> bytes:
        start, size = self._places[name]
        with Path(self._archive).open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise EOFError("it ends too early")
        return data


_KINDS: Mapping[str, Callable[[str], Archive]] = {".zip": _Zip, ".tar": _Tar, ".arrow": Rows}


def _plain(name: str) -> str:
    """Returns a name without the ``./`` that ``tar cf x.tar .`` writes."""
    return name.removeprefix("./")


def _check_names(archive: str, names: list[str], links: list[str]) -> None:
    """Refuses an archive that means other files than it holds, or one name for two files.

    Names as deep or long as no disk has are refused as well: reading them takes minutes.
    """
    strange = [n for n in names if n.startswith("/") or ".." in PurePosixPath(n).parts]
    strange += [n for n in names if "\\" in n or "\0" in n or PurePosixPath(n).as_posix() != n]
    endless = [n for n in names if len(n) > _LONGEST or n.count("/") > _DEEPEST]
    kinds = {
        "names that lead outside it or have backslashes": strange,
        "links or devices": links,
        f"names of more than {_LONGEST:,} characters or {_DEEPEST} folders": endless,
    }
    for what, found in kinds.items():
        if found:
            some = a_few((printable(name[:200]) for name in found), 3)
            raise DataError(
                f"{archive} holds {what} ({some}); such an archive is not read: unpack it with a "
                "tool you trust and name the folder"
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        some = a_few(map(printable, twice), 3)
        raise DataError(f"{archive} holds two files under one name ({some}); pack it anew")
