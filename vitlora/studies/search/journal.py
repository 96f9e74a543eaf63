"""The journal of a sweep: a file of lines that stays readable whatever ends a write."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from vitlora.errors import VitloraError
from vitlora.files import lock

PATIENCE = 30.0  # seconds to wait for a lock, which is held for milliseconds
_WAIT = 0.01  # seconds


class Journal(JournalFileBackend):
    """Optuna's journal file, without its torn lines.

    With optuna 5.0, a line that a full disk or a kill cut short is joined to the next, and no
    process can read the journal again.

    Args:
        path: The file; created if needed.

    Raises:
        VitloraError: It cannot be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = (
            JournalFileOpenLock(str(path)) if sys.platform == "win32" else JournalLock(path)
        )
        try:
            super().__init__(str(path), lock_obj=self._held)
        except OSError as error:
            raise _unusable(path, "written", error) from None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # pyright: ignore
        """Yields the records from a number on.

        Raises:
            VitloraError: The file is damaged, or cannot be read.
        """
        try:
            yield from super().read_logs(log_number_from)
        except OSError as error:
            raise _unusable(self._path, "read", error) from None
        except ValueError as error:
            raise VitloraError(
                f"{self._path} is damaged ({error}); choose another --output to start again"
            ) from None

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:  # pyright: ignore
        """Appends records: all of them, or none if it fails.

        Raises:
            VitloraError: They cannot be written.
        """
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            self._held.acquire()
            try:
                with self._path.open("r+b", buffering=0) as file:
                    end = _end_of_lines(file)
                    try:
                        file.truncate(end)
                        file.seek(end)
                        while data:
                            data = data[file.write(data) :]
                        os.fsync(file.fileno())
                    except BaseException:
                        with suppress(OSError):
                            file.truncate(end)
                        raise
            finally:
                self._held.release()
        except OSError as error:
            raise _unusable(self._path, "written", error) from None


class JournalLock:
    """A lock of a journal that the system frees when its process dies.

    Optuna's own are files. With optuna 5.0, after a process that held one was killed, others wait
    half a minute; if the journal's path was relative, for ever, at full speed.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self._file = Path(f"{path}.flock")

    def acquire(self) -> bool:
        """Waits for the lock.

        Raises:
            OSError: The file cannot be opened.
            VitloraError: Another process keeps it.
        """
        until = time.monotonic() + PATIENCE
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        while not lock(self._handle):
            if time.monotonic() > until:
                os.close(self._handle)
                raise VitloraError(
                    f"{self._file} has been locked by another process for {PATIENCE:g} seconds; "
                    "end that process, and the same command continues"
                )
            time.sleep(_WAIT)
        return True

    def release(self) -> None:
        """Frees it."""
        os.close(self._handle)


def _end_of_lines(file: IO[bytes]) -> int:
    """Returns where the last whole line ends."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _unusable(path: Path, done: str, error: OSError) -> VitloraError:
    return VitloraError(
        f"{error.filename or path} cannot be {done} ({error.strerror}); once that is mended, the "
        "same command continues"
    )
