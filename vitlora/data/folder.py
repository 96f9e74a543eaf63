"""A folder of class folders -> named classes and reproducible splits."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlora.data.images import is_image_file
from vitlora.errors import DataError, UsageError, nearest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One picture file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Folder:
    """An image folder, read but not opened.

    Attributes:
        root: The folder.
        classes: Class names in label order, Unicode-normalised (NFC).
        splits: ``train``, ``val`` and ``test`` as far as they exist, or ``all`` for class folders
            that have not been split.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, list[Sample]]

    def counts(self, split: str) -> list[int]:
        """Returns the number of pictures of each class in a split."""
        labels = [sample.label for sample in self.splits.get(split, [])]
        return [labels.count(index) for index in range(len(self.classes))]

    def digest(self, split: str) -> str:
        """Returns a SHA-256 over the relative paths (NFC) of a split's pictures."""
        names = sorted(self._name(sample) for sample in self.splits[split])
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def split(self, val: float, test: float, seed: int) -> "Folder":
        """Returns class folders divided into train, val and (where ``test`` > 0) test.

        Every class is divided by the same shares; with ``test`` 1 all of it is for testing. Which
        side a picture falls on depends on the seed and the paths alone: the same on every machine.

        Raises:
            DataError: A class has too few pictures to have one in each split.
        """
        if test == 1:
            return Folder(self.root, self.classes, {"test": self.splits["all"]})
        shares = {"val": val, "test": test}
        splits: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
        for label, name in enumerate(self.classes):
            samples = [sample for sample in self.splits["all"] if sample.label == label]
            samples.sort(key=lambda sample: self._draw(sample, seed))
            taken = 0
            for part, share in shares.items():
                count = max(1, round(share * len(samples))) if share else 0
                splits[part] += samples[taken : taken + count]
                taken += count
            if taken >= len(samples):
                raise DataError(
                    f"class '{name}' has {len(samples)} pictures; expected at least {taken + 1} to "
                    "split into train, val and test. Add pictures or leave it out of data.classes"
                )
            splits["train"] += samples[taken:]
        splits = {part: sorted(s, key=self._name) for part, s in splits.items() if s}
        return Folder(self.root, self.classes, splits)

    def _draw(self, sample: Sample, seed: int) -> bytes:
        return hashlib.sha256(f"{seed}/{self._name(sample)}".encode()).digest()

    def _name(self, sample: Sample) -> str:
        # a Mac writes "é" as two characters where Linux writes one: the name must not depend on it
        return unicodedata.normalize("NFC", sample.path.relative_to(self.root).as_posix())


def read_folder(root: str | Path, classes: Sequence[str] | None = None) -> Folder:
    """Returns what lies in an image folder.

    Args:
        root: Holds ``train/`` and ``val/`` (and ``test/``) with a folder for each class, or the
            class folders themselves.
        classes: The classes to use, in label order; None for all, sorted by name.

    Raises:
        DataError: The folder is missing, a class is missing, empty or unknown.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data.root '{root}': no such folder; expected train/ and val/ with a folder for each "
            "class, or class folders"
        )
    parts = {name: root / name for name in SPLITS if (root / name).is_dir()}
    parts = parts or {"all": root}
    names = _class_names(root, parts, classes)
    splits = {part: _samples(folder, names) for part, folder in parts.items()}
    return Folder(root, names, splits)


def _class_names(
    root: Path, parts: dict[str, Path], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    present = {part: set(_class_folders(folder)) for part, folder in parts.items()}
    everywhere = sorted(set().union(*present.values()))
    if wanted is not None:
        names = [unicodedata.normalize("NFC", name) for name in wanted]
        if len(set(names)) != len(names):
            raise UsageError(f"data.classes names a class twice: {', '.join(names)}")
        for name in names:
            if name not in everywhere:
                raise UsageError(
                    f"data.classes has '{name}', which is no folder under {root}"
                    f"{nearest(name, everywhere)}; found: {', '.join(everywhere) or 'none'}"
                )
    else:
        names = everywhere
    for part, found in present.items():
        for name in names:
            if name not in found:
                where = root if part == "all" else root / part
                raise DataError(f"{where} has no class folder '{name}', but other splits do")
    if len(names) < 2:
        raise DataError(
            f"{root} has {len(names)} class folders ({', '.join(names) or 'none'}); expected at "
            "least 2, each holding the pictures of one class"
        )
    return tuple(names)


def _class_folders(folder: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith((".", "__")):
            continue
        name = unicodedata.normalize("NFC", child.name)
        if name in folders:
            raise DataError(
                f"{folder} has two folders named '{name}', their accents written in different "
                "Unicode forms; move the pictures of one into the other"
            )
        folders[name] = child
    return folders


def _samples(folder: Path, classes: Sequence[str]) -> list[Sample]:
    folders = _class_folders(folder)
    samples: list[Sample] = []
    for label, name in enumerate(classes):
        paths = _pictures(folders[name])
        if not paths:
            raise DataError(
                f"class folder {folders[name]} has no pictures; add some, or leave '{name}' out "
                "with data.classes"
            )
        samples += [Sample(path, label) for path in paths]
    return samples


def _pictures(folder: Path) -> list[Path]:
    """Returns the pictures below a folder; hidden folders hold copies (.ipynb_checkpoints …)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if is_image_file(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def split_record(
    folder: Folder, digests: dict[str, str], drawn: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns what a bundle says of its data: enough to draw the same split and to notice change.

    Args:
        folder: Already split.
        digests: Of the splits before unreadable pictures were left out.
        drawn: Shares and seed of the draw; None where the splits were found as folders.
    """
    record: dict[str, Any] = {
        "root": str(folder.root.resolve()),
        "counts": {part: folder.counts(part) for part in folder.splits},
        "digests": digests,
    }
    return record if drawn is None else {**record, "drawn": drawn}
