"""Which of a folder's pictures is in which split: found so, drawn, or as trainings had it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitlora.data.folder import SPLITS, Folder, Sample
from vitlora.data.groups import DUPLICATES, groups_of
from vitlora.data.hub import address
from vitlora.data.usage import Usage, contents, used, with_copies
from vitlora.errors import DataError, UsageError, a_few, counted
from vitlora.notes import note

_FAR = 0.05  # of all pictures, a split's share may be off by without a word


class Division:
    """Which picture is in which split.

    Args:
        found: The folder as it was read.
        draw: Shares, seed and folds of a draw, as ``Folder.split`` takes them.
        groups: ``duplicates``, a CSV file, or None.
        resplit: Whether splits that are there already are pooled and drawn anew.
        known_classes: Those of the bundle that training goes on from.

    Attributes:
        found: The pictures as they were found, or pooled where that was asked for.
        folder: The pictures of each split, now.
        drawn: Whether the splits were drawn, not found as folders.
        grouping: Digest of the groups the draw kept together; None where there were none.
        recalled: Whether the splits of a training were put back.
        before: What the trainings did that this one goes on from.
        contents: What pictures are known by, as far as their files were read.

    Raises:
        UsageError: The options ask for a draw, but the folder is split already.
        DataError: The classes have too few pictures.
    """

    def __init__(
        self,
        found: Folder,
        draw: Mapping[str, Any],
        groups: str | None,
        resplit: bool,
        known_classes: Sequence[str],
    ) -> None:
        self.drawn = resplit or "all" in found.splits
        self.grouping: str | None = None
        self.recalled = False
        self.before = Usage()
        self.contents: dict[Path, bytes] = {}
        self._draw = dict(draw)
        self._resplit = resplit
        self._known_classes = tuple(known_classes)
        folds = draw.get("folds")
        if self.drawn and not resplit and "test" in found.splits and 0 < draw["test"] < 1:
            raise UsageError(
                f"data.test_fraction {draw['test']:g}: {found.root} has test pictures already; "
                "leave it out, or set data.resplit true to pool them and split anew"
            )
        if not self.drawn and (groups or folds):
            option = f"data.groups {groups}" if groups else f"data.folds {folds}"
            parts = ", ".join(f"{part}/" for part in found.splits)
            raise UsageError(
                f"{option}: {found.root} is split into {parts} already; set data.resplit true to "
                f"pool them and split anew, or {option.split()[0]} null to take them as they are"
            )
        self.found, self._groups = found.pooled() if resplit else found, None
        self.folder = self._split(self.found, groups) if self.drawn else found
        self._digests = {split: self.folder.digest(split) for split in self.folder.splits}

    def record(self) -> dict[str, Any]:
        """Returns what a bundle says of its data."""
        drawn = {**self._draw, **({"resplit": True} if self._resplit else {})}
        return split_record(
            self.folder, self._digests, drawn if self.drawn else None, self.grouping
        )

    def digest(self, split: str) -> str | None:
        """Returns the digest of a split as it lies in the folder, unreadable pictures included."""
        return self._digests.get(split)

    def usage(self) -> Usage:
        """Returns what pictures are used for, those of the trainings this one goes on from too."""
        splits = self.folder.splits
        known = self._known(sample for samples in splits.values() for sample in samples)
        now = {
            split: [known[s.path] for s in samples if s.path in known]
            for split, samples in splits.items()
        }
        return self.before.joined(used(now))

    def follow(self, before: Usage) -> str:
        """Leaves each picture, by its content, on the side that earlier trainings had it on.

        What was held out stays held out, what was trained on is never scored, and only new pictures
        are drawn. Where the folder is split already, what stands on the wrong side is left out.

        Args:
            before: Of the bundle that training goes on from.

        Returns:
            What became of the pictures, in a line.

        Raises:
            DataError: Nothing is left to train on, or to validate on.
        """
        self.before = before
        samples = [sample for some in self.found.splits.values() for sample in some]
        known = self._known(samples)
        sides = {s.path: before.side(known.get(s.path)) for s in samples}
        settled = {path: side for path, side in sides.items() if side is not None}
        there = {
            part: [s for s in some if part == "all" or _fits(settled.get(s.path), part)]
            for part, some in self.found.splits.items()
        }
        if not self.drawn:
            self._take(there)
        elif self._draw["test"] != 1:
            drawn = there["all"]
            groups = range(len(drawn)) if self._groups is None else self._groups
            groups = with_copies(groups, [known.get(s.path) for s in drawn])
            draw = {key: value for key, value in self._draw.items() if key != "groups"}
            kept = replace(self.found, splits=there)
            self._take(kept.split(**draw, groups=groups, known=settled).splits)
        kept = {sample.path for some in self.folder.splits.values() for sample in some}
        lost = [side for path, side in settled.items() if path not in kept]
        for line in _left_out(lost, self.drawn):
            note(line)
        for part, what in (("train", "train on"), ("val", "validate on")):
            wanted = self._draw["test"] != 1 if self.drawn else part in self.found.splits
            if wanted and part not in self.folder.splits:
                why = "held out" if part == "train" else "was trained on"
                raise DataError(
                    f"{self.folder.root} has no picture left to {what}: the bundle that training "
                    f"goes on from {why} all of them; add pictures that it does not know"
                )
        counts = self.folder.counts("train")
        unlearnt = [
            name
            for name, trained in zip(self.folder.classes, counts, strict=True)
            if not trained and name not in self._known_classes
        ]
        if unlearnt and not (self.drawn and self._draw["test"] == 1):
            raise DataError(
                f"{counted(len(unlearnt), 'new class')} without a picture to train on, as all of "
                f"them were held out from the bundle: {a_few(unlearnt)}; add pictures, or leave "
                "such a class out of data.classes"
            )
        stay, new = len(settled) - len(lost), len(samples) - len(settled)
        return f"kept {counted(stay, 'picture')} on the side they were on, {new:,} new"

    def recall(self, before: Usage, split: str, least: float) -> int | None:
        """Puts back the splits of a training by the contents of its pictures; others are left out.

        Args:
            before: Of the training.
            split: The one that is wanted: where none of its pictures is found, nothing is done.
            least: Share of the pictures that must be known, in ``[0, 1]``; else nothing is done.

        Returns:
            How many pictures are left out since they are new; None if nothing was done.
        """
        samples = [sample for some in self.found.splits.values() for sample in some]
        known = self._known(samples)
        splits: dict[str, list[Sample]] = {}
        for sample in sorted(samples, key=self.folder.name):
            if (side := before.side(known.get(sample.path))) is not None:
                splits.setdefault(side, []).append(sample)
        new = len(samples) - sum(map(len, splits.values()))
        if split not in splits or len(samples) - new < least * len(samples):
            return None
        self._take(splits)
        self.recalled = True
        return new

    def test_all(self) -> None:
        """Scores what is for testing in the folder, or all of it where nothing is."""
        self._take(self.found.all_for_testing().splits)

    def leave_out(self, before: Usage, split: str) -> int:
        """Leaves out of a split, as its owner has it, what trainings used on another side only.

        Args:
            before: Of the trainings.
            split: ``train``, ``val`` or ``test``.

        Returns:
            How many pictures that are.
        """
        samples = self.folder.splits.get(split, [])
        known = self._known(samples)
        kept = []
        for sample in samples:
            content = known.get(sample.path)
            # a copy in both splits stays where training had it, too
            if _fits(before.side(content), split) or content in getattr(before, split):
                kept.append(sample)
        if len(kept) < len(samples):
            self._take({**self.folder.splits, split: kept})
        return len(samples) - len(kept)

    def _split(self, pool: Folder, source: str | None) -> Folder:
        """Returns the pictures split as asked; what the draw needs besides is recorded."""
        if self._draw["test"] == 1 or (source is None and not pool.groups):
            return pool.split(**self._draw)
        self._groups = groups = groups_of(pool, source)
        folder = pool.split(**self._draw, groups=groups)
        _note_shares(folder, pool, self._draw)
        self.grouping = pool.grouping_digest(groups)
        if source is not None:
            self._draw["groups"] = source if source == DUPLICATES else str(Path(source).resolve())
        return folder

    def _take(self, splits: dict[str, list[Sample]]) -> None:
        """Replaces the splits; those left empty go."""
        splits = {split: splits[split] for split in SPLITS if splits.get(split)}
        self.folder = replace(self.folder, splits=splits)
        self._digests = {split: self.folder.digest(split) for split in splits}

    def _known(self, samples: Iterable[Sample]) -> dict[Path, bytes]:
        """Returns by which contents pictures are known; each file is read once."""
        paths = {sample.path for sample in samples}
        self.contents |= contents(paths - self.contents.keys())
        return self.contents


def _fits(side: str | None, split: str) -> bool:
    """Returns whether a split may hold a picture of that side: none trained on is scored."""
    return side is None or (side == "train") == (split == "train")


def _left_out(sides: Sequence[str], drawn: bool) -> Iterator[str]:
    """Yields what to say of pictures that found no place, by the sides they were on."""
    trained = sum(side == "train" for side in sides)
    if trained:
        yield (
            f"{_counted(trained)} left out of val/ and test/: the bundle that training goes on "
            "from was trained on them"
        )
    if held := len(sides) - trained:
        but = "their groups hold some it was trained on" if drawn else "lie in train/ now"
        yield (
            f"{_counted(held)} left out: they were held out from the bundle that training goes on "
            f"from, and stay so, but {but}"
        )


def _counted(pictures: int) -> str:
    return "1 picture is" if pictures == 1 else f"{pictures:,} pictures are"


def _note_shares(folder: Folder, found: Folder, draw: dict[str, Any]) -> None:
    """Says so where whole groups leave a split far from what was asked."""
    total = len(found.splits["all"])
    val = (1 - draw["test"]) / draw["folds"] if "folds" in draw else draw["val"]
    for part, asked in (("val", val), ("test", draw["test"])):
        drawn = len(folder.splits.get(part, ())) - len(found.splits.get(part, ()))
        if abs(drawn / total - asked) > _FAR:
            note(
                f"{part} holds {drawn / total:.0%} of the pictures where {asked:.0%} was asked: "
                "groups stay whole, and a class has a picture in each split"
            )


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
        "root": address(folder.root),
        "counts": {part: folder.counts(part) for part in folder.splits},
        "digests": digests,
    }
    record |= {} if drawn is None else {"drawn": drawn}
    return record if grouping is None else {**record, "grouping": grouping}
