"""Puts pictures into the folder of their class: whole or not at all, and never over another."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from vitlora.data.archives import open_file
from vitlora.data.layouts.reading import split_of
from vitlora.data.listing import SUFFIXES
from vitlora.errors import DataError, UsageError
from vitlora.files import check_writable, draft, keep_names, write_through
from vitlora.labelling.inbox import Unlabelled

_ENDINGS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
}
_FORMATS = [kind for kind in _ENDINGS if kind != "MPO"]  # whose pictures are opened as JPEG
_LONGEST = 200  # bytes of a name, which leaves room for a number


def check_folders(output: Path, data: Path) -> None:
    """Refuses folders in which new and labelled pictures would get mixed up.

    Args:
        output: Folder for the labelled pictures.
        data: The inbox.

    Raises:
        UsageError: They are such folders.
    """
    check_labelled(output, "--output")
    folder, inbox = output.resolve(), data.resolve()
    if folder == inbox or folder in inbox.parents or inbox in folder.parents:
        raise UsageError(
            f"--output '{output}' and --data '{data}' lie in one another; labelled pictures need a "
            "folder of their own"
        )


def check_labelled(folder: Path, option: str) -> None:
    """Refuses a folder that cannot get folders of classes.

    Args:
        folder: Folder for labelled pictures; it need not exist.
        option: Who named it.

    Raises:
        UsageError: It is a file or below one, has folders of splits, or cannot be written to.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise UsageError(f"{option}: '{there}' is a file; expected a folder")
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if splits := [name for name in inside if split_of(name) and (folder / name).is_dir()]:
        raise UsageError(
            f"{option} '{folder}' has the split {splits[0]}; name the folder in which the classes "
            f"are to be: {folder / splits[0]}, or a new one"
        )
    check_writable(option, folder)


def file_picture(one: Unlabelled, label: str, labelled: Path, move: bool) -> str:
    """Copies or moves a picture into its class's folder; returns its place, relative to the folder.

    A name that is taken gets a number. If the picture is there already, it stays as it is.

    Args:
        one: The picture.
        label: Its class, a name that a folder can have.
        labelled: Folder of the classes.
        move: Remove the picture from its old place once it is safe in the new one.

    Raises:
        DataError: It is not what was shown any more, or the class's folder is a link.
        OSError: It cannot be read or written.
    """
    with open_file(one.path) as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != one.digest:
        raise DataError(f"{one.path} has changed since it was shown")
    here = one.path if one.path.exists() else None  # not in an archive
    target = file_content(data, PurePosixPath(one.name).name, label, labelled, here)
    if move and not one.path.samefile(target):  # else it is the only copy
        one.path.unlink()
        keep_names(one.path.parent)
    return target.relative_to(labelled).as_posix()


def file_content(
    data: bytes, name: str, label: str, labelled: Path, like: Path | None = None
) -> Path:
    """Writes a picture's bytes into its class's folder; returns the file.

    A name that is taken gets a number. If the picture is there already, it stays as it is.

    Args:
        data: The bytes of the file.
        name: Its name.
        label: Its class, a name that a folder can have.
        labelled: Folder of the classes.
        like: A file whose times and rights it gets.

    Raises:
        DataError: The class's folder is a link.
        OSError: It cannot be written.
    """
    folder = labelled / label
    if folder.is_symlink():
        raise DataError(f"{folder} is a link; nothing is written outside of {labelled}")
    folder.mkdir(parents=True, exist_ok=True)
    if Path(name).suffix.lower() not in SUFFIXES:
        name += _ending(data)
    with draft(folder / name) as new:
        for target in _names(Path(name), folder):
            if target.exists() or target.is_symlink():
                if _holds(target, data):
                    return target  # an earlier run was interrupted behind this
                continue
            if not new.exists():
                write_through(new, data)
                if like is not None:
                    shutil.copystat(like, new)
            if _renamed(new, target):
                keep_names(folder)
                return target
    raise AssertionError("names never end")


def _ending(data: bytes) -> str:
    """Returns the ending of a picture's kind; empty if it is not a common one."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _ENDINGS[str(image.format)]
    except (OSError, Image.DecompressionBombError):
        return ""


def _holds(file: Path, data: bytes) -> bool:
    """Returns whether a file, and no link to one, has this content."""
    if file.is_symlink() or not file.is_file() or file.stat().st_size != len(data):
        return False  # a phone calls all its photos image.jpg, so most are not read
    return file.read_bytes() == data


def _names(path: Path, folder: Path) -> Iterator[Path]:
    """Yields names for a picture: its own, then with a number."""
    ending = path.suffix if len(path.suffix.encode()) < 20 else ""
    stem = path.stem
    while len((stem + ending).encode("utf-8", "surrogateescape")) > _LONGEST:
        stem = stem[:-1]
    number = 0
    while True:
        yield folder / f"{stem}{f'-{number}' if number else ''}{ending}"
        number += 1


def _renamed(new: Path, target: Path) -> bool:
    """Renames a file unless there is one of that name; returns whether it did."""
    try:
        os.link(new, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if target.exists():
            return False
        new.rename(target)
        return True
    new.unlink()
    return True
