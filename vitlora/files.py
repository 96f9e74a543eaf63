"""Files that are written whole or not at all, whoever else writes there and whatever interrupts."""

import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError

_DRAFT = re.compile(r"\.vitlora-[0-9a-f]{16}\.new")
_START = 4096  # bytes in which a file that vitlora wrote says so
_ABANDONED = 24 * 3600  # seconds after which a draft that nobody finished is litter
# Windows renames over no file that somebody is reading: seconds to wait for that to end
_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0) if sys.platform == "win32" else ()


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a draft to the disk, then gives it the file's name; text is UTF-8.

    Of several processes that write one file, the last one wins, with a whole file. A device or
    a pipe, such as ``/dev/stdout``, is written to as it is.

    Args:
        path: Where it goes; its folder is made if it is not there.
        content: Of the file. Names of files that are no text are written with escapes.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(data)
        except OSError as error:  # of a full device, which names none
            raise _named(error, path) from None
        return
    try:
        with draft(path) as new:
            write_through(new, data)
            rename(new, path)
    except OSError as error:  # of the draft, whose name tells nobody anything
        raise _named(error, path) from None


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yields a name beside ``path`` that nobody else takes, for a file or a folder.

    At the end, what still bears that name is removed. So is, at the start, what processes that were
    killed more than a day ago left in that folder.
    """
    _tidy(path.parent)
    new = path.with_name(f".vitlora-{secrets.token_hex(8)}.new")
    try:
        yield new
    finally:
        _remove(new)


def is_draft(name: str) -> bool:
    """Returns whether ``draft`` could have made a name."""
    return _DRAFT.fullmatch(name) is not None


def write_through(path: Path, data: bytes) -> None:
    """Writes a file and waits until the disk has it; the disk may not have its name yet."""
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk names no file
        raise _named(error, path) from None


def _named(error: OSError, path: Path) -> OSError:
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))


def rename(new: Path, path: Path) -> None:
    """Gives a file another name, even that of a file that is there."""
    for seconds in _WAITS:
        with suppress(PermissionError):
            new.replace(path)
            break
        time.sleep(seconds)
    else:
        new.replace(path)
    keep_names(path.parent)


def keep_names(folder: Path) -> None:
    """Waits until the disk has the names in a folder; Windows has no way to ask for that."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives do not know how
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process or thread is in here for the same folder.

    The lock is the folder's own and ends with the process. Windows and some network drives have no
    such lock: nobody waits there.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_json(fields: dict[str, Any], target: str) -> None:
    """Writes JSON to a file, or to the screen in ASCII, which survives every console and pipe.

    Args:
        fields: What to write.
        target: The file; ``-`` for the screen.
    """
    if target == "-":
        print(json.dumps(fields, indent=1))
    else:
        write_whole(Path(target), json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def check_target(option: str, target: str | Path | None, ending: str, ours: bytes) -> None:
    """Refuses, before the work, a file that cannot be written or that vitlora did not write.

    A slip of the shell's, as in ``--csv photos/*.jpg``, would otherwise cost a photo.

    Args:
        option: That names the file.
        target: The file; ``-`` for the screen; None or nothing where none is asked for.
        ending: That its name must have, such as ``.csv``; devices and pipes need none.
        ours: What stands near the start of such a file if an earlier run wrote it.

    Raises:
        UsageError: Its folder does not exist, it is a folder, or it is another kind of file.
    """
    if not target or str(target) == "-":
        return
    path = Path(target)
    if path.is_dir() or not path.parent.is_dir():
        kind = "is a folder; expected a file" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"{option} '{target}': {kind}")
    if path.suffix.lower() != ending and (path.is_file() or not path.exists()):
        raise UsageError(f"{option} '{target}': expected a file name that ends in {ending}")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if ours not in file.read(_START):
                raise UsageError(
                    f"{option} '{target}' exists and was not written by vitlora; name another file"
                )


def _tidy(folder: Path) -> None:
    with suppress(OSError):
        for entry in os.scandir(folder):
            if is_draft(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                        _remove(Path(entry.path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
