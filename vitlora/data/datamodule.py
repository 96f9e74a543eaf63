"""Batches for Lightning, from a folder of pictures."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vitlora.data.augmentation import Augmentation, Recipe
from vitlora.data.bit_depth import ValueRange
from vitlora.data.dataset import ImageDataset, PictureLoader, Views, seed_worker
from vitlora.data.doctor.leaks import leak_notes
from vitlora.data.duplicates import Fingerprint, fingerprints
from vitlora.data.folder import (
    SPLITS,
    VAL_FRACTION,
    Folder,
    Sample,
    read_folder,
    split_record,
)
from vitlora.data.groups import DUPLICATES, groups_of
from vitlora.data.listing import describe
from vitlora.data.loading import MORE_ROOM, SHARED, shared_memory, workers_in
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.usage import Usage, content_of, contents, used, with_copies
from vitlora.data.value_range import find_range, range_text, read_range
from vitlora.errors import DataError, UsageError, a_few, a_few_lines, counted

_MOST_WORKERS = 4  # where workers are spawned, each takes seconds and a gigabyte to start
_FAR = 0.05  # of all pictures, a split's share may be off by without a word
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class FolderData(LightningDataModule):
    """A folder of pictures sorted into class folders.

    Args:
        root: Folder with train/ and val/ (and test/), each with a folder for every class; or the
            class folders themselves, which are then split by split_seed.
        classes: Classes to use, in this order; null for all, sorted by name.
        batch_size: Pictures per step; auto takes as many of 32 at once as the free memory holds and
            accumulates the others.
        augment: Training augmentation: none, light, medium or strong.
        val_fraction: Share of each class held out for validation when the folder has no splits.
        test_fraction: Share of each class held out for testing when the folder has no splits; 1
            makes every picture a test picture.
        split_seed: Seed of that split; the bundle carries it.
        groups: Pictures never to be parted by that split: duplicates for those that look the same,
            or a CSV file with the columns file (relative to root) and group that lists every
            picture; null for none.
        resplit: Pool train/, val/ and test/ and split the pictures anew, as if they were class
            folders; no file is moved.
        folds: Split into so many folds of equal size, 2 or more, to train once for each;
            val_fraction is then ignored, and the test share is the same for all.
        fold: The fold to validate on, from 0 to folds - 1.
        num_workers: Processes that load pictures; null picks by the machine, 0 loads in the main
            process.
        skip_unreadable: Train without the pictures that cannot be read, instead of stopping.
        check_copies: Compare all pictures before training, and warn of copies in two splits or two
            classes; false saves the time: 27 core-seconds for 100,000 pictures.
        known_classes: Classes that come first, in this order, and need no folder: those of the
            bundle that --from names, which sets it.
        value_range: The two values that become black and white in files deeper than 8 bits; null
            finds them over the training pictures. Scoring takes those of the bundle.
    """

    def __init__(
        self,
        root: str,
        classes: list[str] | None = None,
        batch_size: int | Literal["auto"] = 32,
        augment: Recipe = "light",
        val_fraction: float = VAL_FRACTION,
        test_fraction: float = 0.0,
        split_seed: int = 0,
        groups: str | None = None,
        resplit: bool = False,
        folds: int | None = None,
        fold: int = 0,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        check_copies: bool = True,
        known_classes: list[str] | None = None,
        value_range: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.auto_batch = batch_size == "auto"
        if batch_size == "auto":
            batch_size = 32
        if batch_size < 1:
            raise UsageError(f"data.batch_size is {batch_size}; expected at least 1")
        if num_workers is not None and num_workers < 0:
            raise UsageError(f"data.num_workers is {num_workers}; expected 0 or more, or null")
        _check_shares(val_fraction, test_fraction, folds, fold)
        found = read_folder(root, classes, known_classes or ())
        self.drawn = resplit or "all" in found.splits
        self.resplit = resplit
        self.grouping: str | None = None
        self._draw: dict[str, Any] = {
            "val": val_fraction,
            "test": test_fraction,
            "seed": split_seed,
            **({} if folds is None else {"folds": folds, "fold": fold}),
        }
        if not self.drawn and (groups or folds):
            option = f"data.groups {groups}" if groups else f"data.folds {folds}"
            parts = ", ".join(f"{part}/" for part in found.splits)
            raise UsageError(
                f"{option}: {found.root} is split into {parts} already; set data.resplit true to "
                f"pool them and split anew, or {option.split()[0]} null to take them as they are"
            )
        self._found, self._groups = found.pooled() if self.drawn else found, None
        self.folder = self._split(self._found, groups) if self.drawn else found
        self._digests = {split: self.folder.digest(split) for split in self.folder.splits}
        self.batch_size = batch_size
        self.augment: Recipe = augment
        self.num_workers = (
            min(os.cpu_count() or 1, _MOST_WORKERS) if num_workers is None else num_workers
        )
        self.skip_unreadable = skip_unreadable
        self.check_copies = check_copies
        self.preprocessing: Preprocessing | None = None
        self.recalled = False
        self.before = Usage()
        self._known_classes = tuple(known_classes or ())
        self._contents: dict[Path, bytes] = {}
        self._checked: set[str] = set()
        self._prints: dict[Path, Fingerprint] = {}
        self._compared = False
        self._told = False
        self._passed_over = found.passed_over
        try:
            self.value_range = read_range(value_range)
        except ValueError as error:
            raise UsageError(f"data.value_range {error}, or null") from None

    @property
    def num_classes(self) -> int:
        """Number of classes, counted from the folder."""
        return len(self.folder.classes)

    def record(self) -> dict[str, Any]:
        """Returns what a bundle says of its data."""
        drawn = {**self._draw, **({"resplit": True} if self.resplit else {})}
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
        samples = [sample for some in self._found.splits.values() for sample in some]
        known = self._known(samples)
        sides = {s.path: before.side(known.get(s.path)) for s in samples}
        settled = {path: side for path, side in sides.items() if side is not None}
        if not self.drawn:
            parts = self._found.splits.items()
            self._take(
                {
                    part: [s for s in some if _fits(settled.get(s.path), part)]
                    for part, some in parts
                }
            )
        elif self._draw["test"] != 1:
            groups = range(len(samples)) if self._groups is None else self._groups
            groups = with_copies(groups, [known.get(s.path) for s in samples])
            draw = {key: value for key, value in self._draw.items() if key != "groups"}
            self._take(self._found.split(**draw, groups=groups, known=settled).splits)
        kept = {sample.path for some in self.folder.splits.values() for sample in some}
        lost = [side for path, side in settled.items() if path not in kept]
        for line in _left_out(lost, self.drawn):
            print(f"note: {line}", file=sys.stderr)
        for part, what in (("train", "train on"), ("val", "validate on")):
            wanted = self._draw["test"] != 1 if self.drawn else part in self._found.splits
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
        samples = [sample for some in self._found.splits.values() for sample in some]
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

    def setup(self, stage: str) -> None:
        """Checks that the pictures of a stage can be read, and takes the model's preprocessing.

        Before training it also says so, in a line or two, if copies stand in two splits or classes.

        Raises:
            DataError: A split is missing, or pictures are unreadable; each is named.
        """
        if self._passed_over:
            print(f"note: passed over {describe(self._passed_over)}", file=sys.stderr)
            self._passed_over = ()
        model = getattr(self.trainer, "lightning_module", None)
        if model is not None:
            if stage == "fit":
                model.backbone.preprocessing = self._scaled(model.backbone.preprocessing)
            self.preprocessing = model.backbone.preprocessing
        for split in _SPLITS[stage]:
            self._check(split)
        if stage == "fit" and not self._compared:
            self._compare()

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns shuffled, augmented batches: ``(B, 3, H, W)`` and ``(B,)``."""
        pictures = self.pictures("train")
        if isinstance(pictures.transform, Augmentation):
            pictures.transform.seed(torch.initial_seed())
        return self._loader(pictures, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns the validation batches, preprocessed as the weights ask."""
        return self._loader(self.pictures("val"), shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns the test batches, preprocessed as the weights ask."""
        return self._loader(self.pictures("test"), shuffle=False)

    def view_dataloader(self, split: str, view: int) -> DataLoader[Any]:
        """Returns a split's batches in the order of its pictures, seen as the seed decides.

        Args:
            split: ``train``, ``val`` or ``test``.
            view: Which of the many ways to look at a picture, from 0; those of ``train`` differ.
        """
        views = Views(self.pictures(split), torch.initial_seed(), view)
        return self._loader(views, shuffle=False, again=False)

    def pictures(self, split: str) -> ImageDataset:
        """Returns a split's pictures as training (``train``) or evaluation sees them."""
        samples, preprocessing = self.folder.splits[split], self._needed_preprocessing()
        if split != "train" or self.augment == "none":
            transform, at_least = preprocessing.transform(), preprocessing.at_least
        else:
            transform = Augmentation(self.augment, preprocessing)
            at_least = 2 * preprocessing.image_size
        return ImageDataset(samples, transform, at_least, preprocessing.value_range)

    def _split(self, pool: Folder, source: str | None) -> Folder:
        """Returns the pictures split as asked; what the draw needs besides is recorded."""
        if source is None or self._draw["test"] == 1:
            return pool.split(**self._draw)
        self._groups = groups = groups_of(pool, source)
        folder = pool.split(**self._draw, groups=groups)
        _note_shares(folder, self._draw)
        self.grouping = pool.grouping_digest(groups)
        self._draw["groups"] = source if source == DUPLICATES else str(Path(source).resolve())
        return folder

    def _take(self, splits: dict[str, list[Sample]]) -> None:
        """Replaces the splits; those left empty go."""
        splits = {split: splits[split] for split in SPLITS if splits.get(split)}
        self.folder = Folder(self.folder.root, self.folder.classes, splits)
        self._digests = {split: self.folder.digest(split) for split in splits}
        self._checked.clear()

    def _known(self, samples: Iterable[Sample]) -> dict[Path, bytes]:
        """Returns by which contents pictures are known; each file is read once."""
        paths = {sample.path for sample in samples}
        self._contents |= contents(paths - self._contents.keys())
        return self._contents

    def _loader(
        self, dataset: ImageDataset | Views, shuffle: bool, again: bool = True
    ) -> DataLoader[Any]:
        workers = min(self.num_workers, -(-len(dataset) // self.batch_size))
        side = self._needed_preprocessing().image_size
        workers = self._with_room(workers, self.batch_size * 3 * side * side * 4)
        return PictureLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0 and again,
            worker_init_fn=seed_worker,
        )

    def _with_room(self, workers: int, batch: int) -> int:
        """Returns as many workers as the shared memory has room for; says so once if it is fewer.

        Args:
            workers: As many as are wanted.
            batch: Bytes of one.
        """
        room = shared_memory()
        if room is None:
            return workers
        fit = min(workers, workers_in(room, batch))
        if fit < workers and not self._told:
            self._told = True
            print(
                f"note: {SHARED} has {room / 1e6:.0f} MB free, too little for {workers} loader "
                f"processes; {fit or 'the main one'} will load. {MORE_ROOM} gives it more",
                file=sys.stderr,
            )
        return fit

    def _needed_preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            raise UsageError("FolderData has no preprocessing yet: set it from the backbone first")
        return self.preprocessing

    @property
    def _value_range(self) -> ValueRange | None:
        return None if self.preprocessing is None else self.preprocessing.value_range

    def _scaled(self, preprocessing: Preprocessing) -> Preprocessing:
        """Returns the preprocessing with the scale of the training pictures, if they need one."""
        known = preprocessing.value_range
        if known is not None and self.value_range not in (None, known):
            raise UsageError(
                f"data.value_range is {range_text(self.value_range)}, but the bundle that training "
                f"goes on from reads values {range_text(known)}; leave it out"
            )
        if known is not None or "train" not in self.folder.splits:
            return preprocessing
        if self.value_range is not None:
            return replace(preprocessing, value_range=self.value_range)
        found = find_range(sample.path for sample in self.folder.splits["train"])
        if found.value_range is not None:
            print(f"note: training: {found.to_text()}", file=sys.stderr)
        return replace(preprocessing, value_range=found.value_range)

    def _note_outside(self, split: str, paths: list[Path]) -> None:
        if not paths:
            return
        such = f"such as {paths[0].relative_to(self.folder.root).as_posix()}"
        if self._value_range is None:
            said = f"are deeper than 8 bits, unlike those of training, {such}: no scale is known"
        else:
            said = (
                f"have values outside {range_text(self._value_range)}, or in a sixteenth of "
                f"it, {such}: look whether they are of another depth or camera, or set "
                "data.value_range in training"
            )
        total = len(self.folder.splits[split])
        print(f"warning: {len(paths):,} of {total:,} {split} pictures {said}", file=sys.stderr)

    def _check(self, split: str) -> None:
        if split not in self.folder.splits:
            found = ", ".join(f"{part}/" for part in self.folder.splits)
            folder = f"add a {split}/ folder with pictures of each class"
            later = (
                "train with data.test_fraction above 0, or test on all of another folder with "
                "--data.root DIR --data.test_fraction 1"
            )
            drawn = later if split == "test" else f"set data.{split}_fraction above 0"
            mend = drawn if self.drawn else folder
            raise DataError(f"{self.folder.root} has no {split} split (it has {found}); {mend}")
        if split in self._checked:
            return
        samples = self.folder.splits[split]
        prints, problems = fingerprints((sample.path for sample in samples), self._value_range)
        self._prints |= prints
        self._note_outside(split, [path for path, one in prints.items() if one.outside])
        self._contents |= {path: content_of(one.digest) for path, one in prints.items()}
        lines = a_few_lines(list(problems.values()))
        if problems and not self.skip_unreadable:
            raise DataError(
                f"{len(problems):,} of {counted(len(samples), f'{split} picture')} cannot be read:"
                f"\n  {lines}\n"
                "Mend or remove them, or set data.skip_unreadable to true"
            )
        if problems:
            print(f"skipping {counted(len(problems), f'unreadable {split} picture')}:\n  {lines}")
            before = self.folder.counts(split)
            self.folder.splits[split] = [s for s in samples if s.path not in problems]
            counts = zip(self.folder.classes, before, self.folder.counts(split), strict=True)
            if lost := [f"'{name}'" for name, had, left in counts if had and not left]:
                raise DataError(
                    f"{counted(len(lost), 'class')} without a readable picture in {split}: "
                    f"{a_few(lost)}; add some, or leave such a class out of data.classes"
                )
        self._checked.add(split)

    def _compare(self) -> None:
        """Warns of copies in two splits or classes."""
        self._compared = True
        if not self.check_copies:
            print(
                "note: copies in two splits or classes are not looked for, as data.check_copies is "
                "false",
                file=sys.stderr,
            )
            self._prints = {}
            return
        others = [s.path for s in self.folder.splits.get("test", ()) if s.path not in self._prints]
        notes = list(
            leak_notes(self.folder, {**self._prints, **fingerprints(others, self._value_range)[0]})
        )
        for note in notes:
            print(f"warning: {note}", file=sys.stderr)
        if notes:
            anew = "" if self.drawn else "data.resplit true with "
            print(
                f"  scores will mislead; {anew}data.groups duplicates keeps copies in one split, "
                f"vitlora doctor --data {self.folder.root} shows them",
                file=sys.stderr,
            )
        self._prints = {}


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


def _check_shares(val: float, test: float, folds: int | None, fold: int) -> None:
    if folds is None and not (0 < val < 1 and 0 <= test < 1 - val) and test != 1:
        raise UsageError(
            f"data.val_fraction {val} and data.test_fraction {test}: "
            "expected 0 < val, 0 <= test and val + test < 1; or test 1, to test on everything"
        )
    if folds is None and fold:
        raise UsageError(f"data.fold is {fold}, but data.folds is null; set data.folds too")
    if folds is not None and folds < 2:
        raise UsageError(f"data.folds is {folds}; expected 2 or more, or null")
    if folds is not None and not 0 <= fold < folds:
        raise UsageError(
            f"data.fold is {fold}; expected 0 to {folds - 1}, as data.folds is {folds}"
        )
    if folds is not None and not 0 <= test <= 1:
        raise UsageError(f"data.test_fraction is {test}; expected 0 <= test < 1, or 1")


def _note_shares(folder: Folder, draw: dict[str, Any]) -> None:
    """Says so where whole groups leave a split far from what was asked."""
    total = sum(map(len, folder.splits.values()))
    val = (1 - draw["test"]) / draw["folds"] if "folds" in draw else draw["val"]
    for part, asked in (("val", val), ("test", draw["test"])):
        share = len(folder.splits.get(part, ())) / total
        if abs(share - asked) > _FAR:
            print(
                f"note: {part} holds {share:.0%} of the pictures where {asked:.0%} was asked: "
                "groups stay whole, and a class has a picture in each split",
                file=sys.stderr,
            )
