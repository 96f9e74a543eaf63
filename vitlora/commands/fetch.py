"""The ``fetch`` command: downloads or draws a dataset to train on."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from vitlora.arguments import checked
from vitlora.data.download import FULL, difference, download
from vitlora.data.listing import SUFFIXES, list_pictures
from vitlora.data.public import DATASETS, Dataset, File
from vitlora.errors import DataError, UsageError, VitloraError, counted, nearest
from vitlora.files import draft, expanded
from vitlora.notes import tell
from vitlora.shell import typed

DRAWN = "waste5-drawn"  # the one dataset that is drawn, not downloaded
_OTHERWISE = (
    "download the files listed above yourself into one folder and pass it as --downloads FOLDER"
)


@checked
def fetch(
    dataset: str, *, output: str | Path | None = None, downloads: str | Path | None = None
) -> Fetched:
    """Downloads a public dataset to train on, or draws one.

    If it is interrupted, the same command continues. Without a network: download the listed files
    on another machine, put them into one folder, and pass that as --downloads.

    Args:
        dataset: trashnet, or waste5-drawn, which is drawn on this machine, offline.
        output: New folder (default: datasets/DATASET).
        downloads: Folder with files that you downloaded yourself, or the .zip file; missing files
            are downloaded.

    Returns:
        Where the pictures are.

    Raises:
        UsageError: The dataset is unknown, the output exists, or ``downloads`` has no usable file.
        DataError: A file differs from the one expected.
        VitloraError: There is no network, the server refuses, or the disk is full.

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
            f"DATASET is '{dataset}'; expected one of {', '.join(names)}{nearest(dataset, names)}. "
            "datasets/README.md lists others to download yourself"
        )
    folder = expanded(output or Path("datasets") / dataset)
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"output '{folder}' already exists; choose another --output")
    kept = folder.with_name(f".{folder.name}.part")  # files of an interrupted download
    by_hand = _by_hand(known, downloads) if downloads else {}
    tell("\n".join(_announcement(known, by_hand)))
    try:
        _check_space(known, folder, by_hand, kept)
        paths = {
            file: by_hand.get(file) or download(file, kept, _OTHERWISE) for file in known.files
        }
        _unpack(known, paths, folder)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise VitloraError(_no_room(folder, f"finished parts are kept in {kept}")) from error
    shutil.rmtree(kept, ignore_errors=True)
    return Fetched(folder, len(list_pictures(folder).pictures), known.classes)


def _draw(output: str | Path | None, downloads: str | Path | None) -> Fetched:
    """Draws the demo's pictures if they are not there yet."""
    if downloads:
        raise UsageError(
            f"--downloads is not for {DRAWN}, which is drawn on this machine; leave it out"
        )
    from vitlora.data.drawn.folder import SIZE, SPLITS, draw_folder
    from vitlora.data.drawn.things import THINGS

    folder = expanded(output or Path("datasets") / DRAWN)
    count = len(THINGS) * sum(SPLITS.values())
    tell(
        f"{DRAWN}: {count} pictures of {', '.join(THINGS)}, {SIZE} x {SIZE} pixels\n"
        "  drawn on this machine, offline; only for trying vitlora out"
    )
    start = time.perf_counter()
    drew = draw_folder(folder)
    tell(f"drawn in {time.perf_counter() - start:.0f} s" if drew else "already drawn")
    return Fetched(folder, len(list_pictures(folder).pictures), tuple(THINGS), "demo.yaml")


@dataclass(frozen=True)
class Fetched:
    """A dataset on this machine.

    Attributes:
        folder: Its folder.
        pictures: Number of pictures.
        classes: Names of the classes.
        config: The config to train with.
    """

    folder: Path
    pictures: int
    classes: tuple[str, ...]
    config: str = "waste5.yaml"

    def to_text(self) -> str:
        """Returns where the pictures are and the command that trains on them."""
        words = ("--data", self.folder, "--output", Path("checkpoints", self.folder.name))
        return (
            f"{self.pictures:,} pictures of {', '.join(self.classes)} in {self.folder}\n"
            "train on them:\n"
            f"  {typed('vitlora', 'fit', '--config', self.config, *words)}"
        )

    def to_json(self) -> dict[str, object]:
        """Returns the folder, its number of pictures and its classes."""
        about = {"folder": str(self.folder), "pictures": self.pictures}
        return {**about, "classes": list(self.classes)}


def _by_hand(dataset: Dataset, source: str | Path) -> dict[File, Path]:
    """Returns the dataset's files that are in a folder, or beside an archive."""
    path = expanded(source)
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
        if wrong := difference(file, place):
            raise DataError(f"{place} {wrong}; download it again from {file.url}")
    return found


def _announcement(dataset: Dataset, by_hand: Mapping[File, Path]) -> list[str]:
    """Returns lines with the dataset's description, authors, licence and files."""
    lines = [dataset.about, f"  authors  {dataset.authors}", f"  licence  {dataset.licence}"]
    lines += [f"  home     {dataset.home}"]
    for file in dataset.files:
        where = by_hand.get(file, file.url)
        lines += [f"  file     {where}  ({file.size:,} bytes)"]
    return lines


def _check_space(dataset: Dataset, output: Path, by_hand: Mapping[File, Path], kept: Path) -> None:
    """Logs how much disk space is needed, and raises an error if there is less.

    Pictures barely compress, so the unpacked ones take about the archive's size again.
    """
    missing = [file for file in dataset.files if file not in by_hand]
    have = sum((kept / file.name).stat().st_size for file in missing if (kept / file.name).exists())
    need = dataset.archive.size + max(0, sum(file.size for file in missing) - have)
    there = next(folder for folder in output.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    tell(f"  space    {need / 1e6:,.1f} MB needed in {output.parent}, {free / 1e6:,.0f} MB free")
    if free < need:
        raise VitloraError(_no_room(output, f"{need / 1e6:,.1f} MB are needed"))


def _no_room(output: Path, also: str) -> str:
    return (
        f"the disk of {output.absolute().parent} is full ({also}); free some space, or choose "
        "another disk with --output, and run the command again"
    )


def _unpack(dataset: Dataset, paths: Mapping[File, Path], output: Path) -> None:
    """Unpacks all pictures, or none.

    Raises:
        DataError: The archive lacks a picture of the authors' lists.
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
    """Yields each picture and its relative path, which never takes folders from the archive."""
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
            f"{dataset.archive.name} lacks {counted(len(absent), 'picture')} of the authors' "
            f"lists, such as {min(absent)}; download it again"
        )


def _is_picture_name(name: str) -> bool:
    plain = PureWindowsPath(name)  # handles both separators, and drives
    return plain.name == name and not name.startswith(".") and plain.suffix.lower() in SUFFIXES
