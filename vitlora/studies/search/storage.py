"""Opens the storage of a sweep: a journal file, or a database for many machines."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError

URL = "VITLORA_SWEEP_STORAGE"  # tells workers the address, which may hold a password
_JOURNAL = "journal.log"


def check_storage(url: str | None) -> None:
    """Refuses an address that is not that of a database.

    Raises:
        UsageError: It is not.
    """
    if url is None:
        return
    scheme, slashes, _ = url.partition("://")
    if not slashes or not scheme:
        raise UsageError(
            f"--storage is '{url}'; expected the address of a database, such as "
            "sqlite:///sweep.db or postgresql://user@host/name"
        )
    if scheme.startswith("redis"):
        raise UsageError(
            "--storage: in Redis, Optuna keeps pickles, which can run code; use a database such as "
            "PostgreSQL or MySQL"
        )


def open_storage(folder: Path, url: str | None) -> Any:
    """Returns Optuna's storage: the folder's journal file, or the database at an address.

    Raises:
        UsageError: The database does not answer, or has tables of another program.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        file = str((folder / _JOURNAL).resolve())
        lock: Any = JournalFileOpenLock(file) if sys.platform == "win32" else _Lock(file)
        return JournalStorage(JournalFileBackend(file, lock_obj=lock))
    try:
        return RDBStorage(url)
    except Exception as error:  # of any database's library
        raise _unusable(url, error) from None


@contextmanager
def explained(url: str | None) -> Iterator[None]:
    """Tells in one line that a database failed while it was used.

    Raises:
        UsageError: It did.
    """
    try:
        yield
    except Exception as error:
        known = type(error).__name__ == "StorageInternalError"  # Optuna's, of its database
        if url is None or not (known or type(error).__module__.startswith("sqlalchemy.")):
            raise
        raise _unusable(url, error) from None


def _unusable(url: str, error: BaseException) -> UsageError:
    """Returns the error of a database, in the words of the database alone."""
    if type(error).__name__ == "NoSuchModuleError":  # SQLAlchemy's
        reason = f"there is no kind of database '{url.partition(':')[0]}'"
    else:
        while error.__cause__ is not None:  # Optuna and SQLAlchemy wrap what its driver says
            error = error.__cause__
        reason = " ".join(str(error).split())
    if isinstance(error, ImportError):
        reason += "; install the database's driver with pip"
    return UsageError(f"--storage {without_password(url)} cannot be used: {reason}")


def without_password(url: str) -> str:
    """Returns an address without the password in it."""
    scheme, slashes, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}{user.partition(':')[0]}{at}{host}"


class _Lock:
    """A lock of a journal that the system frees when its process dies.

    Optuna's own are files. With optuna 5.0, after a process that held one was killed, others wait
    half a minute; if the journal's path was relative, for ever, at full speed.
    """

    def __init__(self, file: str) -> None:
        self._file = f"{file}.flock"

    def acquire(self) -> bool:
        """Waits for the lock."""
        import fcntl

        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Frees it."""
        os.close(self._handle)


def quiet() -> None:
    """Keeps Optuna's log and its warnings about experimental parts to itself."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with suppress(AttributeError):
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
