"""Who still works: a file that a worker keeps locked, which the system frees when it dies."""

import os
import platform
import secrets
import sys
from contextlib import suppress
from pathlib import Path


class Holds:
    """The locked files of the workers in a folder.

    Args:
        folder: Folder of the files, on a disk of this machine or on a shared one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self) -> "Hold":
        """Returns a new locked file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Hold(self.folder, secrets.token_hex(8))

    def ended(self, mark: str | None) -> bool | None:
        """Returns whether the processes of a hold have ended; None if this machine cannot tell.

        Args:
            mark: The hold's.
        """
        host, _, token = (mark or "").rpartition("/")
        if not token or host != platform.node() or sys.platform == "win32":
            return None
        import fcntl

        try:
            handle = os.open(self.folder / f"{token}.lock", os.O_RDWR)
        except OSError:  # a folder of another machine with the same name
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a drive without locks
            return None
        finally:
            os.close(handle)
        return True


class Hold:
    """A locked file; processes to which its handle is passed hold it, too.

    Attributes:
        mark: Names it in the storage.
        handle: Of the open file.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self.mark = f"{platform.node()}/{token}"
        self._path = folder / f"{token}.lock"
        self.handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if sys.platform != "win32":
            import fcntl

            with suppress(OSError):  # a drive without locks
                fcntl.flock(self.handle, fcntl.LOCK_EX)

    def release(self) -> None:
        """Closes and removes the file."""
        os.close(self.handle)
        self._path.unlink(missing_ok=True)
