"""A public file -> this machine, resumed where it broke off and checked."""

import errno
import hashlib
import logging
from pathlib import Path

from vitlora.data.public import File
from vitlora.errors import DataError, VitloraError

FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 2**18  # bytes; huggingface_hub's 10 MB would be a quarter of a small dataset


def download(file: File, folder: Path, otherwise: str) -> Path:
    """Downloads the missing part of a file, checks the file and returns its path.

    Args:
        file: The file.
        folder: Where it goes, and where an unfinished part is kept.
        otherwise: What to do if the download fails, for the error.

    Raises:
        DataError: The file is not the one expected; it is deleted.
        VitloraError: There is no network, or the server refuses; the part so far is kept.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    constants.DOWNLOAD_CHUNK_SIZE = _BLOCK  # a broken connection loses up to this much
    # it retries by itself and warns each time; if it gives up, its error has the reason
    logging.getLogger(http_get.__module__).setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / file.name
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    try:
        with part.open("ab") as stream:
            http_get(
                file.url,
                stream,
                resume_size=stream.tell(),
                headers={"Accept-Encoding": "identity"},  # resuming needs the uncompressed bytes
                expected_size=file.size,
                displayed_filename=file.name,
            )
    # the HTTP client's errors differ between versions
    except Exception as error:
        if getattr(error, "errno", None) in FULL:
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        # cannot be resumed: empty, or not of the size that the server or our table gives
        if status == 416 or type(error) is OSError or not part.stat().st_size:
            _discard(part)
        raise VitloraError(_in_words(error, status, file, otherwise)) from error
    if wrong := difference(file, part):
        _discard(part)
        raise DataError(f"{file.url} {wrong}; the download was deleted. Try again, or {otherwise}")
    return part


def difference(file: File, path: Path) -> str:
    """Returns how a file differs from the one expected; empty if it does not."""
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes; expected {file.size:,}"
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return "" if digest == file.sha256 else f"has the SHA-256 {digest}; expected {file.sha256}"


def _discard(part: Path) -> None:
    part.unlink()
    if not any(part.parent.iterdir()):
        part.parent.rmdir()


def _in_words(error: Exception, status: int | None, file: File, otherwise: str) -> str:
    """Returns in one line why a download failed and what to do."""
    reason = f"status {status}" if status else f"{type(error).__name__}: {error}"
    again = "" if status and status < 500 else "run the same command again to continue, or "
    return " ".join(f"{file.url} could not be downloaded ({reason}); {again}{otherwise}".split())
