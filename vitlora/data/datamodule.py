"""Batches for Lightning, from a folder of pictures."""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vitlora.data.augmentation import Augmentation, Recipe
from vitlora.data.dataset import ImageDataset, PictureLoader, prepare_worker
from vitlora.data.division import Division
from vitlora.data.folder import VAL_FRACTION, Folder
from vitlora.data.inspection import Inspection
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.loading import workers_with_room
from vitlora.data.order import Draw, Order, Share, SharedBatches
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.read import read_folder
from vitlora.data.splits import check_shares
from vitlora.data.usage import Usage
from vitlora.data.value_range import read_range
from vitlora.errors import UsageError
from vitlora.notes import note, tell

_MOST_WORKERS = 4  # where workers are spawned, each takes seconds and a gigabyte to start
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class FolderData(LightningDataModule):
    """Labelled pictures: class folders, a table, a labelling tool's export, a zip or tar of them.

    Args:
        root: Folder with train/ and val/ (and test/), each with a folder for every class; or the
            class folders themselves, which are then split by split_seed; or a table or export that
            names pictures and their classes, or the folder that it lies in; or a .zip or .tar of
            any of these; or hf://OWNER/NAME on the Hugging Face hub.
        classes: Classes to use, in this order; null for all, sorted by name.
        batch_size: Pictures per step, on all devices together; auto takes as many of 32 at once as
            the free memory holds and accumulates the others.
        augment: Training augmentation: none, light, medium or strong.
        val_fraction: Share of each class held out for validation when the folder has no splits.
        test_fraction: Share of each class held out for testing when the folder has no splits; 1
            makes every picture a test picture where none is yet.
        split_seed: Seed of that split; the bundle carries it.
        groups: Pictures that the split keeps together: duplicates for those that look the same,
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
        check_copies: Decode and compare all pictures before training, and warn of copies in two
            splits or two classes; null does so for up to 50,000 pictures.
        known_classes: Classes that come first, in this order, and need no folder: those of the
            bundle that --from names, which sets it.
        layout: How the pictures are stored; null recognises it. folders, nested, class_folders,
            table, label_studio, cvat, fiftyone, coco, datasets, webdataset.
        images: Folder or archive of the pictures that a table or export names; null for where the
            table lies.
        file_column: Column of a table that names the pictures; null finds it by its name.
        label_column: Column of a table with the classes; null finds it by its name.
        split_column: Column of a table with train, val or test; null finds it by its name.
        group_column: Column of a table with groups that a split keeps together, such as the
            patient; null finds it by its name.
        label_names: Text file with the name of class 0, 1, 2 ... on each line, where labels are
            numbers.
        value_range: The two values that become black and white in files deeper than 8 bits; null
            finds them over the training pictures. Scoring takes those of the bundle.
        srgb: Turn the colours of pictures with a colour profile (Display P3, Adobe RGB) into sRGB;
            false takes their values as they are. Scoring does as training did.
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
        check_copies: bool | None = None,
        known_classes: list[str] | None = None,
        value_range: list[float] | None = None,
        layout: str | None = None,
        images: str | None = None,
        file_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        group_column: str | None = None,
        label_names: str | None = None,
        srgb: bool = True,
    ) -> None:
        super().__init__()
        self.auto_batch = batch_size == "auto"
        if batch_size == "auto":
            batch_size = 32
        if batch_size < 1:
            raise UsageError(f"data.batch_size is {batch_size}; expected at least 1")
        if num_workers is not None and num_workers < 0:
            raise UsageError(f"data.num_workers is {num_workers}; expected 0 or more, or null")
        check_shares(val_fraction, test_fraction, folds, fold)
        options = LayoutOptions(
            layout, images, file_column, label_column, split_column, group_column, label_names
        )
        found = read_folder(root, classes, known_classes or (), options)
        draw = {
            "val": val_fraction,
            "test": test_fraction,
            "seed": split_seed,
            **({} if folds is None else {"folds": folds, "fold": fold}),
        }
        self.division = Division(found, draw, groups, resplit, known_classes or ())
        self._reading = {**options.absolute().given(), "layout": found.source.layout}
        self._inspection = Inspection(self.division, skip_unreadable, check_copies)
        self.batch_size = batch_size
        self.augment: Recipe = augment
        self._spare = num_workers is None
        self.num_workers = (
            min(os.cpu_count() or 1, _MOST_WORKERS) if num_workers is None else num_workers
        )
        self.preprocessing: Preprocessing | None = None
        self._seed: int | None = None
        self._told = False
        self._notes = found.source.notes
        self.srgb = srgb
        try:
            self.value_range = read_range(value_range)
        except ValueError as error:
            raise UsageError(f"data.value_range {error}, or null") from None

    @property
    def folder(self) -> Folder:
        """The pictures of each split."""
        return self.division.folder

    @property
    def drawn(self) -> bool:
        """Whether the splits were drawn, not found as folders."""
        return self.division.drawn

    @property
    def recalled(self) -> bool:
        """Whether the splits of a training were put back."""
        return self.division.recalled

    @property
    def num_classes(self) -> int:
        """Number of classes, counted from the folder."""
        return len(self.folder.classes)

    def record(self) -> dict[str, Any]:
        """Returns what a bundle records about its data."""
        return {**self.division.record(), "reading": self._reading}

    def digest(self, split: str) -> str | None:
        """Returns the digest of a split, unreadable pictures included."""
        return self.division.digest(split)

    def usage(self) -> Usage:
        """Returns how this training and the ones it continues use pictures."""
        return self.division.usage()

    def follow(self, before: Usage) -> str:
        """Keeps each picture in the split of earlier trainings: see ``Division.follow``."""
        return self.division.follow(before)

    def setup(self, stage: str) -> None:
        """Checks that the pictures of a stage can be read, and takes the model's preprocessing.

        Before training it also warns of copies in two splits or classes. Of several processes, the
        first one does it for all.

        Raises:
            DataError: A split is missing, or pictures are unreadable; each is named.
        """
        if stage == "fit" and self._notes is not None:
            tell(f"data: {self.folder.summary()}" + " (drawn)" * self.drawn)
        for line in self._notes or ():
            note(line)
        self._notes = None
        model = getattr(self.trainer, "lightning_module", None)
        if self.share.rank == 0:
            self._inspect(stage, model)
        if self.share.of > 1:
            self._take_over(model)

    def _take_over(self, model: Any) -> None:
        """Takes over which pictures the first process could read, and their scale."""
        trainer: Any = self.trainer
        read, splits = self.folder.name, self.folder.splits
        kept = {split: set(map(read, samples)) for split, samples in splits.items()}
        kept, preprocessing = trainer.strategy.broadcast((kept, self.preprocessing))
        for split, samples in splits.items():
            splits[split] = [sample for sample in samples if read(sample) in kept[split]]
        self.preprocessing = model.backbone.preprocessing = preprocessing
        self._seed = self.seed  # each process will have random numbers of its own
        if self._spare:  # the processes of a machine have its cores in common
            self.num_workers = max(1, self.num_workers // trainer.num_devices)

    def _inspect(self, stage: str, model: Any) -> None:
        if model is not None:
            if stage == "fit":
                seen = replace(model.backbone.preprocessing, srgb=self.srgb)
                model.backbone.preprocessing = self._inspection.scaled(seen, self.value_range)
            self.preprocessing = model.backbone.preprocessing
        value_range = None if self.preprocessing is None else self.preprocessing.value_range
        for split in _SPLITS[stage]:
            self._inspection.check(split, value_range, name_all=stage == "fit")
        if stage == "fit":
            self._inspection.compare(value_range)

    @property
    def seed(self) -> int:
        """Seed of the order and the augmentation."""
        return torch.initial_seed() if self._seed is None else self._seed

    @property
    def share(self) -> Share:
        """What this process has of each batch."""
        trainer = self.trainer
        return Share() if trainer is None else Share(trainer.global_rank, trainer.world_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns shuffled, augmented batches: ``(B, 3, H, W)`` and ``(B,)``."""
        return self._shared("train", self.share)

    def whole_batches(self) -> DataLoader[Any]:
        """Returns the batches of ``train_dataloader`` with the pictures of all processes."""
        return self._shared("train", Share())

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns the validation batches, preprocessed as the weights need."""
        return self._shared("val", self.share)

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns the test batches, preprocessed as the weights need."""
        return self._shared("test", self.share)

    def view_dataloader(self, split: str, view: int) -> DataLoader[Any]:
        """Returns batches of the pictures of a split that this process owns, in their order.

        Args:
            split: ``train``, ``val`` or ``test``.
            view: Number of the view, from 0; ``train`` is augmented as in the epoch of that number.
        """
        pictures, share = self.pictures(split), self.share
        own = range(share.rank, len(pictures), share.of)
        draws = [(view, index) for index in own]
        batches = [draws[at : at + self.batch_size] for at in range(0, len(own), self.batch_size)]
        return self._loader(pictures, batches, again=False)

    def pictures(self, split: str) -> ImageDataset:
        """Returns a split's pictures as training (``train``) or evaluation sees them."""
        samples, preprocessing = self.folder.splits[split], self._needed_preprocessing()
        if split != "train" or self.augment == "none":
            transform, at_least = preprocessing.transform(), preprocessing.at_least
        else:
            transform = Augmentation(self.augment, preprocessing)
            at_least = 2 * preprocessing.image_size
        return ImageDataset(
            samples,
            transform,
            at_least,
            preprocessing.value_range,
            preprocessing.srgb,
            preprocessing.side,
            self.seed,
        )

    def _shared(self, split: str, share: Share) -> DataLoader[Any]:
        pictures = self.pictures(split)
        order = Order(len(pictures), self.seed, shuffle=split == "train")
        return self._loader(pictures, SharedBatches(order, self.batch_size, share))

    def _loader(
        self, pictures: ImageDataset, batches: Iterable[list[Draw]], again: bool = True
    ) -> DataLoader[Any]:
        workers = min(self.num_workers, -(-len(pictures) // self.batch_size))
        side = self._needed_preprocessing().image_size
        fit, line = workers_with_room(workers, self.batch_size * 3 * side * side * 4)
        if line and not self._told:
            note(line)
        self._told, workers = self._told or bool(line), fit
        return PictureLoader(
            pictures,
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0 and again,
            worker_init_fn=prepare_worker,
            generator=torch.Generator(),  # or each epoch takes one of training's random numbers
        )

    def _needed_preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            raise UsageError("FolderData has no preprocessing yet: set it from the backbone first")
        return self.preprocessing
