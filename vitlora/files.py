"""Files that are written completely or not at all, even when a write is interrupted."""

import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from vitlora.errors import UsageError, either

_DRAFT = re.compile(r"\.vitlora-[0-9a-f]{16}\.new")
_START = 4096  # bytes in which a file that vitlora wrote says so
_ABANDONED = 24 * 3600  # seconds after which an unfinished draft is removed
# Windows cannot replace a file while it is being read: seconds to wait between attempts
_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0) if sys.platform == "win32" else ()


def expanded(path: str | Path) -> Path:
    """Returns a path with the home folder in the place of ``~`` or ``~USER``.

    As in a shell, it stays as it is if there is no such user.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for such a user


def cache_folder(kind: str) -> Path:
    """Returns the folder for files of a kind that can be made anew; the user may delete it.

    It lies below ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vitlora" / kind


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a draft to the disk, then renames it to ``path``; text is encoded as UTF-8.

    When several processes write the same file, the last one wins, and the file is complete. A
    device or a pipe, such as ``/dev/stdout``, is written to directly.

    Args:
        path: The file; its folder is created if needed.
        content: The new content. Characters that UTF-8 cannot encode are escaped.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(data)
        except OSError as error:  # a full device does not name the file
            raise _named(error, path) from None
        return
    try:
        with draft(path) as new:
            write_through(new, data)
            rename(new, path)
    except OSError as error:  # it names the draft, which means nothing to the user
        raise _named(error, path) from None


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yields a unique path beside ``path``, for a file or a folder.

    Whatever is still there at the end is removed. Drafts that are more than a day old, left by
    processes that were killed, are removed at the start.
    """
    _tidy(path.parent)
    new = path.with_name(f".vitlora-{secrets.token_hex(8)}.new")
    try:
        yield new
    finally:
        _remove(new)


def is_draft(name: str) -> bool:
    """Returns whether a name has the form that ``draft`` gives."""
    return _DRAFT.fullmatch(name) is not None


def write_through(path: Path, data: bytes) -> None:
    """Writes a file and waits until its content is on the disk; its name may not be there yet."""
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk does not name the file
        raise _named(error, path) from None


def keep_content(path: Path) -> None:
    """Waits until the content of a file that another library wrote is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _named(error: OSError, path: Path) -> OSError:
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))


def rename(new: Path, path: Path) -> None:
    """Renames a file, replacing ``path`` if it exists."""
    for seconds in _WAITS:
        with suppress(PermissionError):
            new.replace(path)
            break
        time.sleep(seconds)
    else:
        new.replace(path)
    keep_names(path.parent)


def keep_names(folder: Path) -> None:
    """Waits until a folder's file names are on the disk; does nothing on Windows."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives do not support it
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes and threads that do the same.

    The operating system releases the lock when the process ends. Windows and some network drives
    have no such lock, so there is no waiting there.
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


def lock(handle: int) -> bool:
    """Locks an open file until it is closed; returns False if another process has it locked.

    Windows and some network drives have no such lock, so there the answer is True.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a drive without locks
        return True
    return True


def write_json(fields: Mapping[str, object], target: str) -> None:
    """Writes JSON to a file, or to stdout in ASCII, which every console and pipe can show.

    Args:
        fields: What to write.
        target: The file; ``-`` for stdout.
    """
    if target == "-":
        print(json.dumps(fields, indent=1))
    else:
        write_whole(Path(target), json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def check_target(
    option: str, target: str | Path | None, endings: tuple[str, ...], ours: bytes
) -> None:
    """Refuses, before the work starts, a file that cannot be written or that is not vitlora's.

    A mistake such as ``--csv photos/*.jpg`` would otherwise overwrite a photo.

    Args:
        option: The option that names the file.
        target: The file; ``-`` for stdout; None or empty if no file is asked for.
        endings: Suffixes of which its name must have one, such as ``.csv``; devices and pipes need
            none.
        ours: What stands near the start of such a file if an earlier run wrote it.

    Raises:
        UsageError: Its folder does not exist or cannot be written to, it is a folder, or it is
            another kind of file.
    """
    if not target or str(target) == "-":
        return
    path = Path(target)
    if path.is_dir() or not path.parent.is_dir():
        kind = "is a folder; expected a file" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"{option} '{target}': {kind}")
    if path.suffix.lower() not in endings and (path.is_file() or not path.exists()):
        raise UsageError(
            f"{option} '{target}': expected a file name that ends in {either(endings)}"
        )
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if ours not in file.read(_START):
                raise UsageError(
                    f"{option} '{target}' exists and was not written by vitlora; name another file"
                )
    if path.is_file() or not path.exists():
        check_writable(option, path.parent)


def check_writable(option: str, folder: Path) -> None:
    """Refuses, before the work starts, a folder in which nothing can be written.

    Args:
        option: The option that names it.
        folder: The folder; if it is not there, the nearest one above that is.

    Raises:
        UsageError: No file can be made there.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"{option}: '{there.absolute()}' cannot be written to; choose another folder"
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
