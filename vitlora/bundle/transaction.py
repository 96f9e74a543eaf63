"""A bundle's files on the disk: all of them take effect together, even after an interruption.

They are first written under pending names that contain their digests. ``vitlora.json`` lists the
digests, so it identifies its pending files, which are read under those names until they are
renamed.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitlora.bundle.folder import (
    CARD,
    FILES,
    PEFT_CONFIG,
    PICTURES,
    RECORD,
    REFERENCE,
    RUN_CONFIG,
    TENSORS,
    check_there,
)
from vitlora.errors import BundleError, shown
from vitlora.files import is_draft, keep_names, rename, write_through

FORMAT = 1
_SUMMED = (TENSORS, PEFT_CONFIG, RUN_CONFIG, REFERENCE, PICTURES)
# the name of a pending file contains a digest, except in older versions of vitlora
_PENDING = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})(\.[0-9a-f]{{16}})?\.new")
_TRIES = 10  # attempts to read a bundle while others write it


def is_leftover(name: str) -> bool:
    """Returns whether an interrupted save may leave a file of this name."""
    return is_draft(name) or _PENDING.fullmatch(name) is not None


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns a record's fields, and the checked bytes of its files and of itself."""
    record, fields = read_record(folder)
    for _ in range(_TRIES):
        try:
            contents = {n: _read_checked(folder / n, d) for n, d in fields["files"].items()}
            return fields, {RECORD: record, **contents}
        except BundleError:
            before = record
            record, fields = read_record(folder)
            if record == before:
                raise
    raise BundleError(f"{folder} is written to again and again; read it when that has ended")


def read_record(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes of ``vitlora.json`` and its checked fields."""
    record = (check_there(folder) / RECORD).read_bytes()
    try:
        fields = json.loads(record.decode("utf-8"))
        digest = fields["digest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{folder / RECORD} is torn or not a bundle's; train again") from None
    if fields.get("format") != FORMAT:
        raise BundleError(
            f"{folder} is a bundle of format {shown(fields.get('format'))}; this vitlora reads "
            f"format {FORMAT}. Install a newer vitlora"
        )
    files = fields.get("files")
    if digest != fields_digest(fields) or not isinstance(files, dict) or files.keys() - _SUMMED:
        raise BundleError(f"{folder / RECORD} was changed after it was written; train again")
    return record, fields


def _read_checked(path: Path, digest: object) -> bytes:
    found = False
    for candidate in _candidates(path, digest):
        with suppress(FileNotFoundError):
            content, found = candidate.read_bytes(), True
            if hashlib.sha256(content).hexdigest() == digest:
                return content
    if not found:
        raise BundleError(f"{path.parent} is torn: {path.name} is missing; train again")
    raise BundleError(
        f"{path} was truncated or changed after it was written; train again or restore it"
    )


def _candidates(path: Path, digest: object) -> Iterator[Path]:
    """Yields the paths where a bundle's file may be, before and after its renaming."""
    yield pending_path(path, digest)
    yield path
    yield path.with_name(f".{path.name}.new")  # an older vitlora's


def pending_path(path: Path, digest: object) -> Path:
    """Returns the path of a file with this digest until it is renamed."""
    short = digest[:16] if isinstance(digest, str) and re.match("[0-9a-f]{16}", digest) else "none"
    return path.with_name(f".{path.name}.{short}.new")


def write_pending(folder: Path, files: Mapping[str, bytes], pending: Mapping[str, Path]) -> None:
    """Writes files under pending names through to the disk; on an error, all or none are there.

    Args:
        folder: The bundle's.
        files: Content by name.
        pending: Pending path by name.

    Raises:
        OSError: One cannot be written; it names the file that was to be.
    """
    for name, content in files.items():
        half = pending_path(folder / name, hashlib.sha256(content).hexdigest())
        try:
            write_through(half, content)
            if half != pending[name]:  # no sum is kept of the card: half of it must not be read
                rename(half, pending[name])
        except OSError as error:
            for path in (half, *pending.values()):  # a full disk needs the room
                with suppress(OSError):
                    path.unlink()
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(folder / name)) from None
    keep_names(folder)


def finish_save(folder: Path) -> None:
    """Finishes an interrupted save: renames the pending files of the bundle, removes others.

    Without a valid record, it changes nothing.
    """
    left = [path for path in folder.iterdir() if _PENDING.fullmatch(path.name)]
    try:
        fields = read_record(folder)[1]
    except BundleError:
        return
    if not left:
        return
    for name, digest in fields["files"].items():
        there = next((p for p in _candidates(folder / name, digest) if _sum(p) == digest), None)
        if there not in (None, folder / name):
            rename(there, folder / name)
    with suppress(FileNotFoundError):
        rename(pending_path(folder / CARD, fields["digest"]), folder / CARD)
    others = [folder / name for name in _SUMMED if name not in fields["files"]]
    for path in (*left, *others):
        with suppress(OSError):  # gone, or somebody reads it
            path.unlink()


def _sum(path: Path) -> str | None:
    """Returns the SHA-256 of a file; None if it does not exist."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def fields_digest(fields: Mapping[str, object]) -> str:
    """Returns the digest of a record's fields, without the field ``digest``."""
    fields = {name: value for name, value in fields.items() if name != "digest"}
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
