"""A folder of class folders -> named classes and reproducible splits."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitlora.data.splits import Wanted, deal, wanted_folds, wanted_shares
from vitlora.errors import DataError, a_few, counted

SPLITS = ("train", "val", "test")
# a bundle's record of a draw -> the option under ``data`` that sets it
DRAW = {
    "val": "val_fraction",
    "test": "test_fraction",
    "seed": "split_seed",
    "groups": "groups",
    "resplit": "resplit",
    "folds": "folds",
    "fold": "fold",
}
VAL_FRACTION = 0.2  # of class folders, held out by default


@dataclass(frozen=True)
class Sample:
    """One picture file and the index of its class.

    Attributes:
        path: The file; it may lie in an archive.
        label: Index of its class.
        name: Its name in draws and digests; empty for its path below the folder.
    """

    path: Path
    label: int
    name: str = ""


@dataclass(frozen=True)
class Origin:
    """How a place was read.

    Attributes:
        layout: Name of its layout.
        labels: Where its labels come from, in a few words.
        classes: All classes that pictures have there, sorted, unused ones included.
        notes: What a user should know about it, a line each.
    """

    layout: str
    labels: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """An image folder, read but not opened.

    Attributes:
        root: The folder, archive, or file that lists the pictures.
        classes: Class names in label order, Unicode-normalised (NFC).
        splits: ``train``, ``val`` and ``test`` as far as they exist, and ``all`` for pictures that
            are still to be split.
        groups: Group of each picture, by name, where the folder itself defines groups.
        source: How it was read.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, list[Sample]]
    groups: Mapping[str, str] = field(default_factory=dict)
    source: Origin = Origin("folders", "class folders")

    def counts(self, split: str) -> list[int]:
        """Returns the number of pictures of each class in a split."""
        found = Counter(sample.label for sample in self.splits.get(split, []))
        return [found[index] for index in range(len(self.classes))]

    def summary(self) -> str:
        """Returns how many pictures and classes there are, and where the classes come from."""
        total = counted(sum(map(len, self.splits.values())), "picture")
        counts = ", ".join(f"{part} {len(samples):,}" for part, samples in self.splits.items())
        classes = counted(len(self.classes), "class")
        return f"{total} in {classes}, labels from {self.source.labels}; {counts}"

    def absent(self, split: str) -> list[str]:
        """Returns the classes that a split has no picture of."""
        counts = zip(self.classes, self.counts(split), strict=True)
        return [name for name, count in counts if not count]

    def digest(self, split: str) -> str:
        """Returns a SHA-256 over the relative paths (NFC) of a split's pictures."""
        names = sorted(self.name(sample) for sample in self.splits[split])
        return hashlib.sha256(as_bytes("\n".join(names))).hexdigest()

    def pooled(self) -> "Folder":
        """Returns the folder with the pictures of all its splits together, not yet split."""
        samples = [sample for part in self.splits.values() for sample in part]
        return replace(self, splits={"all": samples})

    def all_for_testing(self) -> "Folder":
        """Returns the test pictures, or all pictures where none is for testing."""
        test = self.splits.get("test") or self.pooled().splits["all"]
        return replace(self, splits={"test": test})

    def split(
        self,
        val: float,
        test: float,
        seed: int,
        groups: Sequence[int] | None = None,
        folds: int | None = None,
        fold: int = 0,
        known: Mapping[Path, str] | None = None,
    ) -> "Folder":
        """Returns the pictures of ``all`` divided into train, val and (where ``test`` > 0) test.

        Every class is divided by the same shares; with ``test`` 1 every picture is a test picture,
        unless the folder has some already. Other splits stay as they are. A class with too few
        pictures, or groups, to hold one out is trained on. The split of a new picture depends on
        the seed, the paths and the groups alone: it is the same on every machine.

        Args:
            val: Share of each class for validation; ignored with ``folds``.
            test: Share of each class for testing.
            seed: Of the draw.
            groups: The group of each picture of ``all``, in that order: a group is never divided.
                None makes every picture a group of its own.
            folds: Divide the pictures that are not for testing into this many equal parts.
            fold: The part to validate on, ``0 <= fold < folds``; train on the others.
            known: ``train``, ``val`` or ``test`` for pictures whose split is fixed. The rest of
                their group goes with them, and all others are drawn. A held-out picture whose group
                was trained on is left out.

        Raises:
            DataError: No class has enough pictures to hold one out; a class has too few pictures,
                or groups, to have one in each fold; or groups leave one nothing to train on.
        """
        samples = self.splits["all"]
        if test == 1:
            return self.all_for_testing()
        whole = self._whole_groups(range(len(samples)) if groups is None else groups, seed)
        splits, whole = _settled(whole, known or {})
        sizes = [Counter(sample.label for sample in group) for group in whole]
        total = Counter(sample.label for group in whole for sample in group)
        counts = [total[label] for label in range(len(self.classes))]
        if folds is None:
            placed = replace(self, splits=splits)
            there = {part: placed.counts(part) for part in SPLITS} if known else None
            parts, wanted = wanted_shares(counts, val, test, there)
            if not known:
                self._train_on_few(parts, wanted, sizes)
        else:
            parts, wanted = wanted_folds(counts, folds, fold, test)
            if not known:
                self._check_enough(wanted, sizes, f"{folds} folds" + (" and test" if test else ""))
        dealt: list[list[Sample]] = [[] for _ in parts]
        for group, side in zip(whole, deal(sizes, wanted), strict=True):
            dealt[side] += group
        if not known:
            self._check_everywhere(dealt, wanted, parts)
        for part, some in zip(parts, dealt, strict=True):
            splits[part] += some
        for part, found in self.splits.items():
            if part != "all":
                splits[part] += found
        splits = {part: sorted(s, key=self.name) for part, s in splits.items() if s}
        return replace(self, splits=splits)

    def _train_on_few(
        self, parts: Sequence[str], wanted: Wanted, sizes: Sequence[Counter[int]]
    ) -> None:
        """Changes the shares of classes that are too small for every part: training comes first.

        Raises:
            DataError: All classes are.
        """
        in_groups = Counter(label for size in sizes for label in size)
        train = parts.index("train")
        for label in range(len(self.classes)):
            shares = [part[label] for part in wanted]
            enough = min(sum(shares), in_groups[label]) >= len(parts) and shares[train] >= 1
            if enough or not sum(shares):
                continue
            held = max(0, min(sum(shares), in_groups[label]) - 1)  # groups that can be held out
            for part, some in enumerate(wanted):
                some[label] = int(part != train and part < held)
            wanted[train][label] = sum(shares) - sum(some[label] for some in wanted)
        if not any(wanted[parts.index("val")]):
            raise DataError(
                f"no class of {self.root} has two pictures or groups, so none can be held out for "
                "validation; add pictures"
            )

    def _whole_groups(self, groups: Sequence[int], seed: int) -> list[list[Sample]]:
        """Returns the pictures of each group, the groups in the order of the draw.

        The picture whose name sorts first draws for its group, so that large groups do not tend to
        come first.
        """
        found: dict[int, list[Sample]] = {}
        for sample, group in zip(self.splits["all"], groups, strict=True):
            found.setdefault(group, []).append(sample)
        whole = [sorted(group, key=self.name) for group in found.values()]
        return sorted(whole, key=lambda group: self._draw(group[0], seed))

    def _check_enough(self, wanted: Wanted, sizes: Sequence[Counter[int]], into: str) -> None:
        """Refuses all classes at once that have too few pictures, or else too few groups."""
        in_groups = Counter(label for size in sizes for label in size)
        few: dict[str, tuple[int, int]] = {}
        tied: dict[str, int] = {}
        for label, name in enumerate(self.classes):
            shares = [part[label] for part in wanted]
            count, groups = sum(shares), in_groups[label]
            if not count:  # a known class without a folder
                continue
            if min(shares) < 1:  # a share to hold out is never less than one: one more, at least
                few[name] = count, sum(max(share, 1) for share in shares)
            elif groups < len(wanted):
                tied[name] = groups
        if few:
            least = [
                f"'{name}' has {counted(n, 'picture')} of at least {m}"
                for name, (n, m) in few.items()
            ]
            raise DataError(
                f"{counted(len(few), 'class')} with too few pictures to split into {into}: "
                f"{a_few(least)}. Add pictures, or leave such a class out of data.classes"
            )
        if tied:
            least = [f"'{name}' has {counted(n, 'group')}" for name, n in tied.items()]
            raise DataError(
                f"{counted(len(tied), 'class')} with too few groups, which data.groups keeps "
                f"whole, to split into {into}: {a_few(least)}; expected at least {len(wanted)}. "
                "Add pictures that belong to none of them, or leave such a class out of "
                "data.classes"
            )

    def _check_everywhere(
        self, dealt: Sequence[Sequence[Sample]], wanted: Wanted, parts: Sequence[str]
    ) -> None:
        """Refuses, all at once, classes that groups keep out of a part that should have them."""
        missing = {
            label
            for samples, some in zip(dealt, wanted, strict=True)
            for label in set(range(len(some))) - {sample.label for sample in samples}
            if some[label]
        }
        if missing:
            names = [f"'{self.classes[label]}'" for label in sorted(missing)]
            raise DataError(
                f"{counted(len(names), 'class')} found no place in each part when split into "
                f"{', '.join(dict.fromkeys(parts))}: {a_few(names)}. Groups hold other classes "
                "too, and data.groups divides none. Make groups smaller, ask for other shares, or "
                "leave such a class out of data.classes"
            )

    def grouping_digest(self, groups: Sequence[int]) -> str:
        """Returns a SHA-256 of which pictures of ``all`` belong to the same group."""
        together: dict[int, list[str]] = {}
        for sample, group in zip(self.splits["all"], groups, strict=True):
            together.setdefault(group, []).append(self.name(sample))
        lines = sorted(json.dumps(sorted(names)) for names in together.values())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _draw(self, sample: Sample, seed: int) -> bytes:
        return hashlib.sha256(as_bytes(f"{seed}/{self.name(sample)}")).digest()

    def name(self, sample: Sample) -> str:
        """Returns a picture's path below the root, with forward slashes (NFC)."""
        if sample.name:
            return sample.name
        # a Mac writes "é" as two characters where Linux writes one: the name must not depend on it
        return unicodedata.normalize("NFC", sample.path.relative_to(self.root).as_posix())


def as_bytes(name: str) -> bytes:
    """Returns a path as UTF-8; a name that is not UTF-8 keeps its bytes."""
    return name.encode("utf-8", "surrogateescape")


def _settled(
    whole: Sequence[list[Sample]], known: Mapping[Path, str]
) -> tuple[dict[str, list[Sample]], list[list[Sample]]]:
    """Returns the pictures of groups whose split is known, by split, and the other groups."""
    splits: dict[str, list[Sample]] = {part: [] for part in SPLITS}
    others = []
    for group in whole:
        sides = {known[sample.path] for sample in group if sample.path in known}
        side = next((part for part in SPLITS if part in sides), None)
        if side is None:
            others.append(group)
            continue
        splits[side] += [s for s in group if side != "train" or known.get(s.path, side) == side]
    return splits, others
