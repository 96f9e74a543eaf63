"""The ``fetch`` command: a dataset, public or drawn -> a folder for ``--data.root``."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from vitlora.data.listing import SUFFIXES, list_pictures
from vitlora.data.public import DATASETS, Dataset, File
from vitlora.errors import DataError, UsageError, VitloraError, nearest
from vitlora.files import draft
from vitlora.notes import tell
from vitlora.shell import typed

DRAWN = "waste5-drawn"  # the one dataset that is made, not downloaded

_BLOCK = 2**18  # bytes; huggingface_hub's own 10 MB would be a quarter of a small dataset
_FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(
    dataset: str, *, output: str | Path | None = None, downloads: str | Path | None = None
) -> Fetched:
    """Downloads a public dataset to train on, or draws one.

    Stopped half-way, the same command goes on where it was. Without a network: download the files
    that it names on another machine, put them into one folder, and name that with --downloads.

    Args:
        dataset: trashnet, or waste5-drawn, which is drawn on this machine, offline.
        output: New folder (default: datasets/DATASET).
        downloads: Folder of files that were downloaded by hand, or the .zip among them; what is not
            there is downloaded.

    Returns:
        Where the pictures lie.

    Raises:
        UsageError: An unknown dataset, an output that exists, nothing usable in ``downloads``.
        DataError: A file that is not the one expected.
        VitloraError: No network, the server refuses, or the disk is full.

    Examples:
        $ vitlora fetch trashnet
        $ vitlora fetch trashnet --downloads FOLDER --output photos
    """
    if dataset == DRAWN:
        return _draw(output, downloads)
    known = DATASETS.get(dataset)
    if known is None:
        names = (*DATASETS, DRAWN)
        raise UsageError(
            f"'{dataset}' is not a dataset that vitlora can fetch{nearest(dataset, names)}; "
            f"expected one of: {', '.join(names)}. Others: datasets/README.md"
        )
    folder = Path(output or Path("datasets") / dataset).expanduser()
    if folder.exists() or folder.is_symlink():
        raise UsageError(
            f"output '{folder}' exists, and fetch overwrites nothing; choose another with --output"
        )
    kept = folder.with_name(f".{folder.name}.part")  # of a download cut short
    by_hand = _by_hand(known, downloads) if downloads else {}
    tell("\n".join(_announcement(known, by_hand)))
    try:
        _check_space(known, folder, by_hand, kept)
        paths = {file: by_hand.get(file) or _download(file, kept) for file in known.files}
        _unpack(known, paths, folder)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise VitloraError(_no_room(folder, f"kept for the next try: {kept}")) from error
    shutil.rmtree(kept, ignore_errors=True)
    return Fetched(folder, len(list_pictures(folder).pictures), known.classes)


def _draw(output: str | Path | None, downloads: str | Path | None) -> Fetched:
    """Draws the demo's pictures unless they are there."""
    if downloads:
        raise UsageError(
            f"--downloads is for what is downloaded; {DRAWN} is drawn on this machine: leave it out"
        )
    from vitlora.data.drawn.folder import SIZE, SPLITS, draw_folder
    from vitlora.data.drawn.things import THINGS

    folder = Path(output or Path("datasets") / DRAWN).expanduser()
    count = len(THINGS) * sum(SPLITS.values())
    tell(
        f"{DRAWN}: {count} pictures of {', '.join(THINGS)}, {SIZE} x {SIZE} pixels\n"
        "  drawn on this machine, offline; they show that everything works, no more"
    )
    start = time.perf_counter()
    drew = draw_folder(folder)
    tell(f"drawn in {time.perf_counter() - start:.0f} s" if drew else "drawn before")
    return Fetched(folder, len(list_pictures(folder).pictures), tuple(THINGS), "demo.yaml")


@dataclass(frozen=True)
class Fetched:
    """A dataset that is there now.

    Attributes:
        folder: Where its pictures lie.
        pictures: How many.
        classes: What they show.
        config: That suits them.
    """

    folder: Path
    pictures: int
    classes: tuple[str, ...]
    config: str = "waste5.yaml"

    def to_text(self) -> str:
        """Returns what lies where now, and the command that trains on it."""
        words = ("--data", self.folder, "--output", Path("checkpoints", self.folder.name))
        return (
            f"{self.pictures:,} pictures of {', '.join(self.classes)} in {self.folder}\n"
            "train on them:\n"
            f"  {typed('vitlora', 'fit', '--config', self.config, *words)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the folder, and what is in it."""
        about = {"folder": str(self.folder), "pictures": self.pictures}
        return {**about, "classes": list(self.classes)}


def _by_hand(dataset: Dataset, source: str | Path) -> dict[File, Path]:
    """Returns those of the dataset's files that lie in a folder, or beside an archive."""
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(f"--downloads '{path}': no such file or folder")
    folder = path.parent if path.is_file() else path
    found = {file: folder / file.name for file in dataset.files if (folder / file.name).is_file()}
    if path.is_file() and path not in found.values():
        found[dataset.archive] = path  # a browser may have changed its name
    if not found:
        names = ", ".join(file.name for file in dataset.files)
        raise UsageError(f"--downloads '{path}' has none of {names}")
    for file, place in found.items():
        if wrong := _difference(file, place):
            raise DataError(f"{place} {wrong}; download {file.url} again")
    return found


def _announcement(dataset: Dataset, by_hand: Mapping[File, Path]) -> list[str]:
    """Returns lines that say what is fetched, from where, who made it and under what terms."""
    lines = [dataset.about, f"  authors  {dataset.authors}", f"  licence  {dataset.licence}"]
    lines += [f"  home     {dataset.home}"]
    for file in dataset.files:
        where = by_hand.get(file, file.url)
        lines += [f"  file     {where}  ({file.size:,} bytes)"]
    return lines


def _check_space(dataset: Dataset, output: Path, by_hand: Mapping[File, Path], kept: Path) -> None:
    """Says how much disk space is needed, and raises if there is less.

    Pictures hardly shrink in an archive: unpacked they take about its size again.
    """
    missing = [file for file in dataset.files if file not in by_hand]
    have = sum((kept / file.name).stat().st_size for file in missing if (kept / file.name).exists())
    need = dataset.archive.size + max(0, sum(file.size for file in missing) - have)
    there = next(folder for folder in output.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    tell(f"  space    {need / 1e6:,.1f} MB in {output.parent}; {free / 1e6:,.0f} MB are free")
    if free < need:
        raise VitloraError(_no_room(output, f"{need / 1e6:,.1f} MB are needed"))


def _no_room(output: Path, also: str) -> str:
    return (
        f"the disk of {output.absolute().parent} is full ({also}); make room, or choose another "
        "with --output, and type the command again"
    )


def _download(file: File, folder: Path) -> Path:
    """Returns where a verified copy lies, downloading whatever of it is not there yet.

    Raises:
        DataError: What came is not the file; it is deleted.
        VitloraError: No network, or the server refuses; what came so far is kept.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    constants.DOWNLOAD_CHUNK_SIZE = _BLOCK  # as much is lost where a connection breaks
    # it resumes and tries again by itself, warning each time; if it gives up, the error says why
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
                headers={"Accept-Encoding": "identity"},  # a resumed file is counted in its bytes
                expected_size=file.size,
                displayed_filename=file.name,
            )
    # the HTTP client raises many kinds of error, others in each version
    except Exception as error:
        if getattr(error, "errno", None) in _FULL:
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        # of no use for going on: nothing, or not as large as the server (or the table) says
        if status == 416 or type(error) is OSError or not part.stat().st_size:
            _discard(part)
        raise VitloraError(_in_words(error, status, file)) from error
    if wrong := _difference(file, part):
        _discard(part)
        raise DataError(f"{file.url} {wrong}; it was deleted. Try again, or see --downloads")
    return part


def _discard(part: Path) -> None:
    part.unlink()
    if not any(part.parent.iterdir()):
        part.parent.rmdir()


def _in_words(error: Exception, status: int | None, file: File) -> str:
    """Returns in one line why a download failed, and what to do about it."""
    reason = f"status {status}" if status else f"{type(error).__name__}: {error}"
    again = "" if status and status < 500 else "the same command goes on where this stopped; "
    return " ".join(
        f"{file.url} could not be downloaded ({reason}); {again}or get the files listed above by "
        "other means, put them into one folder and pass it as --downloads FOLDER".split()
    )


def _difference(file: File, path: Path) -> str:
    """Returns how a file on disk differs from the one expected; empty if it does not."""
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes; expected {file.size:,}"
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return "" if digest == file.sha256 else f"has the SHA-256 {digest}; expected {file.sha256}"


def _unpack(dataset: Dataset, paths: Mapping[File, Path], output: Path) -> None:
    """Writes the pictures to their places: all of them, or none.

    Raises:
        DataError: The archive lacks a picture that a list names.
    """
    with draft(output) as fresh:
        with zipfile.ZipFile(paths[dataset.archive]) as archive:
            for member, place in _places(dataset, paths, archive):
                (fresh / place).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, (fresh / place).open("xb") as target:
                    shutil.copyfileobj(source, target)
        lines = [*_announcement(dataset, {}), *(f"  sha256   {f.sha256}" for f in dataset.files)]
        (fresh / "SOURCE.txt").write_text("\n".join(lines) + "\n", "utf-8")
        fresh.rename(output)


def _places(
    dataset: Dataset, paths: Mapping[File, Path], archive: zipfile.ZipFile
) -> Iterator[tuple[zipfile.ZipInfo, Path]]:
    """Yields each picture to take and its relative path; no path comes out of the archive whole."""
    split_of = {
        line.split()[0]: split
        for split, file in dataset.lists.items()
        for line in paths[file].read_text("utf-8").splitlines()
        if line.strip()
    }
    absent = set(split_of)
    for member in archive.infolist():
        folder, _, name = member.filename.rpartition("/")
        label = folder.removeprefix(f"{dataset.inside}/")
        if label not in dataset.classes or not _is_picture_name(name):
            continue
        if not split_of:
            yield member, Path(label, name)
        elif name in split_of:
            absent.discard(name)
            yield member, Path(split_of[name], label, name)
    if absent:
        raise DataError(
            f"{dataset.archive.name} lacks {len(absent)} of the pictures that the authors' lists "
            f"name, such as {min(absent)}"
        )


def _is_picture_name(name: str) -> bool:
    plain = PureWindowsPath(name)  # knows every separator, and drives
    return plain.name == name and not name.startswith(".") and plain.suffix.lower() in SUFFIXES
