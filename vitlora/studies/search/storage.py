"""Opens the storage of a sweep: a journal file, or a database for many machines."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError

URL = "VITLORA_SWEEP_STORAGE"  # tells workers the address, which may hold a password
HALTED = 75  # exit status of a worker that has said why no other could go on
_JOURNAL = "journal.log"
# what SQLite says -> what to do
_TODO = {
    "database is locked": "end the program that has it locked",
    "disk is full": "make room",
    "disk I/O error": "see that its disk has room",
    "readonly database": "make the file and its folder writable",
}


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
        VitloraError: The journal cannot be used.
    """
    from optuna.storages import JournalStorage, RDBStorage

    from vitlora.studies.search import journal

    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(journal.Journal((folder / _JOURNAL).resolve()))
    options = {"connect_args": {"timeout": journal.PATIENCE}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs=options)
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
    if todo := next((todo for part, todo in _TODO.items() if part in reason), ""):
        reason += f"; {todo}, and the same command continues"
    return UsageError(f"--storage {without_password(url)} cannot be used: {reason}")


def without_password(url: str) -> str:
    """Returns an address without the password in it."""
    scheme, slashes, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}{user.partition(':')[0]}{at}{host}"


def quiet() -> None:
    """Keeps Optuna's log and its warnings about experimental parts to itself."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with suppress(AttributeError):
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
