"""One run for each folder: a second one is refused while the first lives. Needs no torch."""

import os
import socket
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from vitlora.bundle.folder import LOCK
from vitlora.errors import UsageError, printable
from vitlora.files import lock

_MOST = 200  # bytes of a lock file to show


class RunLock:
    """Keeps a folder for the run of this process, from ``take`` to ``release``.

    The operating system releases the lock of a process that was killed. Windows and some network
    drives have no such lock, so nothing is refused there.

    Args:
        folder: Folder of the run; created if needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None
        self._path = folder / LOCK
        self._made: list[Path] = []  # folders, the innermost first
        if hasattr(os, "register_at_fork"):
            mine = weakref.ref(self)  # loader processes may outlive a run that is killed
            os.register_at_fork(after_in_child=lambda: _close(mine()))

    def take(self) -> None:
        """Takes the lock.

        Raises:
            UsageError: Another run has it.
        """
        self._made += [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        while self._handle is None:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if not lock(handle):
                holder = printable(os.read(handle, _MOST).decode("utf-8", "replace")) or "another"
                os.close(handle)
                raise UsageError(
                    f"--output '{self.folder}' belongs to a run that is going on ({holder}); wait "
                    "for it, or choose another folder"
                )
            if _is_still(self._path, handle):
                self._handle = handle
            else:  # the run before removed it in the meantime
                os.close(handle)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def take_again(self, moved: Path) -> None:
        """Takes the lock of the folder's place, after the folder was moved.

        Args:
            moved: Where the folder is now.
        """
        if self._handle is None:
            return
        before, self._handle = self._handle, None
        with suppress(OSError):
            (moved / LOCK).unlink()
        os.close(before)
        self.take()

    def release(self) -> None:
        """Gives the lock back, and removes its file; also folders that were made for nothing."""
        if self._handle is None:
            return
        if sys.platform == "win32":  # which does not remove open files
            _close(self)
        with suppress(OSError):
            self._path.unlink()
        _close(self)
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()


def _is_still(path: Path, handle: int) -> bool:
    """Returns whether a path is that of an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _close(lock: RunLock | None) -> None:
    if lock is not None and lock._handle is not None:
        handle, lock._handle = lock._handle, None
        os.close(handle)
