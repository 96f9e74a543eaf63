"""A folder of class folders -> named classes and reproducible splits."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlora.data.listing import describe, list_pictures
from vitlora.data.splits import Wanted, deal, wanted_folds, wanted_shares
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
        passed_over: Files in class folders that are no pictures; known of a folder as it was read.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, list[Sample]]
    passed_over: tuple[Path, ...] = ()

    def counts(self, split: str) -> list[int]:
        """Returns the number of pictures of each class in a split."""
        found = Counter(sample.label for sample in self.splits.get(split, []))
        return [found[index] for index in range(len(self.classes))]

    def digest(self, split: str) -> str:
        """Returns a SHA-256 over the relative paths (NFC) of a split's pictures."""
        names = sorted(self.name(sample) for sample in self.splits[split])
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def pooled(self) -> "Folder":
        """Returns the folder with the pictures of all its splits together, not yet split."""
        samples = [sample for part in self.splits.values() for sample in part]
        return Folder(self.root, self.classes, {"all": samples})

    def split(
        self,
        val: float,
        test: float,
        seed: int,
        groups: Sequence[int] | None = None,
        folds: int | None = None,
        fold: int = 0,
    ) -> "Folder":
        """Returns class folders divided into train, val and (where ``test`` > 0) test.

        Every class is divided by the same shares; with ``test`` 1 all of it is for testing. Which
        side a picture falls on depends on the seed, the paths and the groups alone: the same on
        every machine.

        Args:
            val: Share of each class for validation; of no account with ``folds``.
            test: Share of each class for testing.
            seed: Of the draw.
            groups: The group of each picture of ``all``, in that order: a group is never divided.
                None where every picture stands for itself.
            folds: Divide what is not for testing into so many parts of equal size.
            fold: The part to validate on, ``0 <= fold < folds``; the others are for training.

        Raises:
            DataError: A class has too few pictures, or groups, to have one in each split.
        """
        samples, counts = self.splits["all"], self.counts("all")
        if test == 1:
            return Folder(self.root, self.classes, {"test": samples})
        if folds is None:
            parts, wanted = wanted_shares(counts, val, test)
        else:
            parts, wanted = wanted_folds(counts, folds, fold, test)
        whole = self._whole_groups(range(len(samples)) if groups is None else groups, seed)
        sizes = [Counter(sample.label for sample in group) for group in whole]
        into = "train, val and test"
        if folds is not None:
            into = f"{folds} folds" + (" and test" if test else "")
        self._check_enough(wanted, sizes, into)
        dealt: list[list[Sample]] = [[] for _ in parts]
        for group, side in zip(whole, deal(sizes, wanted), strict=True):
            dealt[side] += group
        self._check_everywhere(dealt, into)
        splits: dict[str, list[Sample]] = {part: [] for part in SPLITS}
        for part, some in zip(parts, dealt, strict=True):
            splits[part] += some
        splits = {part: sorted(s, key=self.name) for part, s in splits.items() if s}
        return Folder(self.root, self.classes, splits)

    def _whole_groups(self, groups: Sequence[int], seed: int) -> list[list[Sample]]:
        """Returns the pictures of each group, the groups in the order of the draw.

        The picture whose name sorts first draws for its group, so that large groups are not early.
        """
        found: dict[int, list[Sample]] = {}
        for sample, group in zip(self.splits["all"], groups, strict=True):
            found.setdefault(group, []).append(sample)
        whole = [sorted(group, key=self.name) for group in found.values()]
        return sorted(whole, key=lambda group: self._draw(group[0], seed))

    def _check_enough(self, wanted: Wanted, sizes: Sequence[Counter[int]], into: str) -> None:
        in_groups = Counter(label for size in sizes for label in size)
        for label, name in enumerate(self.classes):
            shares = [part[label] for part in wanted]
            count, groups = sum(shares), in_groups[label]
            if not count:  # a known class without a folder
                continue
            if min(shares) < 1:  # a share to hold out is never less than one: one more, at least
                least = sum(max(share, 1) for share in shares)
                raise DataError(
                    f"class '{name}' has {count} pictures; expected at least {least} to split into "
                    f"{into}. Add pictures or leave it out of data.classes"
                )
            if groups < len(wanted):
                raise DataError(
                    f"class '{name}' has {count} pictures in {groups} "
                    f"{'group' if groups == 1 else 'groups'}, which data.groups keeps whole; "
                    f"expected at least {len(wanted)} groups to split into {into}. Add pictures "
                    "that belong to none of them, or leave it out of data.classes"
                )

    def _check_everywhere(self, dealt: Sequence[Sequence[Sample]], into: str) -> None:
        counts = self.counts("all")
        for samples in dealt:
            present = {sample.label for sample in samples}
            for label, name in enumerate(self.classes):
                if counts[label] and label not in present:
                    raise DataError(
                        f"class '{name}' found no place in each part when split into {into}: its "
                        "groups hold other classes too, and data.groups divides none. Make groups "
                        "smaller, ask for other shares, or leave it out of data.classes"
                    )

    def grouping_digest(self, groups: Sequence[int]) -> str:
        """Returns a SHA-256 over which pictures of ``all`` stand together."""
        together: dict[int, list[str]] = {}
        for sample, group in zip(self.splits["all"], groups, strict=True):
            together.setdefault(group, []).append(self.name(sample))
        lines = sorted(json.dumps(sorted(names)) for names in together.values())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _draw(self, sample: Sample, seed: int) -> bytes:
        return hashlib.sha256(f"{seed}/{self.name(sample)}".encode()).digest()

    def name(self, sample: Sample) -> str:
        """Returns a picture's path below the root, with forward slashes (NFC)."""
        # a Mac writes "é" as two characters where Linux writes one: the name must not depend on it
        return unicodedata.normalize("NFC", sample.path.relative_to(self.root).as_posix())


def read_folder(
    root: str | Path, classes: Sequence[str] | None = None, known: Sequence[str] = ()
) -> Folder:
    """Returns what lies in an image folder.

    Args:
        root: Holds ``train/`` and ``val/`` (and ``test/``) with a folder for each class, or the
            class folders themselves.
        classes: The classes to use, in label order; None for all, sorted by name.
        known: Classes that come first, in this order, and need no folder.

    Raises:
        DataError: The folder is missing, a class is missing, empty or unknown.
        UsageError: ``classes`` does not begin with those known, or names a class that is not there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data.root '{root}': no such folder; expected train/ and val/ with a folder for each "
            "class, or class folders"
        )
    parts = {name: root / name for name in SPLITS if (root / name).is_dir()}
    parts = parts or {"all": root}
    names = _class_names(root, parts, classes, known)
    passed_over: list[Path] = []
    splits = {part: _samples(folder, names, passed_over) for part, folder in parts.items()}
    return Folder(root, names, splits, tuple(passed_over))


def _class_names(
    root: Path, parts: dict[str, Path], wanted: Sequence[str] | None, known: Sequence[str]
) -> tuple[str, ...]:
    present = {part: set(_class_folders(folder)) for part, folder in parts.items()}
    everywhere = sorted(set().union(*present.values()))
    if wanted is not None:
        names = [unicodedata.normalize("NFC", name) for name in wanted]
        if len(set(names)) != len(names):
            raise UsageError(f"data.classes names a class twice: {', '.join(names)}")
        if names[: len(known)] != list(known):
            raise UsageError(
                f"data.classes is {', '.join(names)}; expected it to begin with the classes known "
                f"already, in their order: {', '.join(known)}. Add new ones behind, or leave it out"
            )
        for name in names[len(known) :]:
            if name not in everywhere:
                raise UsageError(
                    f"data.classes has '{name}', which is no folder under {root}"
                    f"{nearest(name, everywhere)}; found: {', '.join(everywhere) or 'none'}"
                )
    else:
        names = [*known, *(name for name in everywhere if name not in known)]
    for part, found in present.items():
        where = root if part == "all" else root / part
        if known and not found & set(names):
            raise DataError(f"{where} has no class folders; expected some of {', '.join(names)}")
        for name in names[len(known) :]:
            if name not in found:
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


def _samples(folder: Path, classes: Sequence[str], passed_over: list[Path]) -> list[Sample]:
    """Returns the pictures of a split's class folders; adds the others to those passed over."""
    folders = _class_folders(folder)
    samples: list[Sample] = []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        found = list_pictures(folders[name])
        passed_over += (others := found.passed_over.get("other", []))
        if not found.pictures:
            only = f" (passed over {describe(others)})" if others else ""
            raise DataError(
                f"class folder {folders[name]} has no pictures{only}; add some, or leave '{name}' "
                "out with data.classes"
            )
        samples += [Sample(path, label) for path in found.pictures]
    return samples


def split_record(
    folder: Folder,
    digests: dict[str, str],
    drawn: dict[str, Any] | None,
    grouping: str | None = None,
) -> dict[str, Any]:
    """Returns what a bundle says of its data: enough to draw the same split and to notice change.

    Args:
        folder: Already split.
        digests: Of the splits before unreadable pictures were left out.
        drawn: Shares and seed of the draw; None where the splits were found as folders.
        grouping: Digest of the groups the draw kept together; None where there were none.
    """
    record: dict[str, Any] = {
        "root": str(folder.root.resolve()),
        "counts": {part: folder.counts(part) for part in folder.splits},
        "digests": digests,
    }
    record |= {} if drawn is None else {"drawn": drawn}
    return record if grouping is None else {**record, "grouping": grouping}
