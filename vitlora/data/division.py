"""Which picture is in which split: as found, as drawn, or as in an earlier training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitlora.data.folder import SPLITS, Folder, Sample
from vitlora.data.groups import DUPLICATES, groups_of, merged
from vitlora.data.hub import address
from vitlora.data.usage import Usage, contents, used
from vitlora.errors import DataError, UsageError, a_few, counted
from vitlora.notes import note

_FAR = 0.05  # of all pictures: a split whose share is further off gets a note


class Division:
    """Which picture is in which split.

    Args:
        found: The folder as it was read.
        draw: Shares, seed and folds of a draw, as ``Folder.split`` takes them.
        groups: ``duplicates``, a CSV file, or None.
        resplit: Pool the folder's own splits and draw new ones.
        known_classes: The classes of the bundle that training continues.

    Attributes:
        found: The pictures as they were found; pooled if ``resplit`` is set.
        folder: The current pictures of each split.
        drawn: Whether the splits were drawn, not found as folders.
        grouping: Digest of the groups the draw kept together; None where there were none.
        recalled: Whether the splits of a training were put back.
        before: How earlier trainings used pictures, if this one continues a bundle.
        contents: First bytes of the SHA-256 of each file that was read so far.

    Raises:
        UsageError: The options ask for a draw, but the folder already has splits.
        DataError: The classes have too few pictures.
    """

    def __init__(
        self,
        found: Folder,
        draw: Mapping[str, Any],
        groups: str | None,
        resplit: bool,
        known_classes: Sequence[str] = (),
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
        """Returns what a bundle records about its data."""
        drawn = {**self._draw, **({"resplit": True} if self._resplit else {})}
        return split_record(
            self.folder, self._digests, drawn if self.drawn else None, self.grouping
        )

    def digest(self, split: str) -> str | None:
        """Returns the digest of a split, unreadable pictures included."""
        return self._digests.get(split)

    def usage(self) -> Usage:
        """Returns how this training and the ones it continues use pictures."""
        splits = self.folder.splits
        known = self._known(sample for samples in splits.values() for sample in samples)
        now = {
            split: [known[s.path] for s in samples if s.path in known]
            for split, samples in splits.items()
        }
        return self.before.joined(used(now))

    def follow(self, before: Usage) -> str:
        """Keeps each picture in the split that earlier trainings had it in, known by its content.

        Held-out pictures stay held out, training pictures are never scored, and only new pictures
        are drawn. If the folder has splits of its own, pictures in the wrong one are left out.

        Args:
            before: How the trainings of the bundle used pictures.

        Returns:
            How many pictures were kept and how many are new, in one line.

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
            groups = merged(groups, [known.get(s.path) for s in drawn])
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
                    f"{self.folder.root} has no picture left to {what}: the bundle of --from "
                    f"{why} all of them; add pictures that it does not know"
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
        """Restores the splits of a training by the contents of its pictures; leaves out all others.

        Args:
            before: How the training used pictures.
            split: The split that is needed; if none of its pictures is found, nothing changes.
            least: Share of the pictures that must be known, in ``[0, 1]``; else nothing changes.

        Returns:
            How many new pictures are left out; None if nothing changed.
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
        """Makes the folder's test pictures, or all pictures if it has none, the only split."""
        self._take(self.found.all_for_testing().splits)

    def leave_out(self, before: Usage, split: str) -> int:
        """Removes from a split of the folder the pictures that trainings used in another one only.

        Args:
            before: How the trainings used pictures.
            split: ``train``, ``val`` or ``test``.

        Returns:
            How many pictures were removed.
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
        """Draws the splits, and keeps what is needed to draw them again."""
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
        """Replaces the splits; empty ones are dropped."""
        splits = {split: splits[split] for split in SPLITS if splits.get(split)}
        self.folder = replace(self.folder, splits=splits)
        self._digests = {split: self.folder.digest(split) for split in splits}

    def _known(self, samples: Iterable[Sample]) -> dict[Path, bytes]:
        """Returns the first bytes of each file's SHA-256; each file is read once."""
        paths = {sample.path for sample in samples}
        self.contents |= contents(paths - self.contents.keys())
        return self.contents


def _fits(side: str | None, split: str) -> bool:
    """Returns whether a split may hold a picture of that side: training pictures are not scored."""
    return side is None or (side == "train") == (split == "train")


def _left_out(sides: Sequence[str], drawn: bool) -> Iterator[str]:
    """Yields a line for the pictures left out, by the sides they were on."""
    trained = sum(side == "train" for side in sides)
    if trained:
        yield (
            f"{_counted(trained)} left out of val/ and test/: the bundle of --from was trained "
            "on them"
        )
    if held := len(sides) - trained:
        why = "of a group with pictures it was trained on" if drawn else "now in train/"
        yield f"{_counted(held)} left out: held out from the bundle of --from, but {why}"


def _counted(pictures: int) -> str:
    return "1 picture is" if pictures == 1 else f"{pictures:,} pictures are"


def _note_shares(folder: Folder, found: Folder, draw: dict[str, Any]) -> None:
    """Notes a split whose share is far from the one asked for, because groups stay whole."""
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
    """Returns what a bundle records about its data: enough to draw it again and notice changes.

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
