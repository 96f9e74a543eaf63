"""Caches the outputs of the frozen blocks for every picture, for all epochs."""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from vitlora.data.dataset import PictureLoader
from vitlora.data.order import NOT_COUNTED, Draw, SharedBatches, view_index_counts
from vitlora.errors import UsageError
from vitlora.files import cache_folder, expanded
from vitlora.notes import tell
from vitlora.training import ranks
from vitlora.training.cache.features import Features
from vitlora.training.cache.prefix import Prefix
from vitlora.training.cache.shelf import Memory, Shelf
from vitlora.training.classifier import Classifier
from vitlora.training.progress import Progress, epochs_of
from vitlora.units import clock, size

Where = Literal["auto", "off", "memory", "disk"]
Part = tuple[str, int]  # a split and a view of it

_WORTH = 0.9  # auto caches if the run then takes at most this share of the time


class PrefixCache(Callback):
    """Makes every epoch start at the first block that is trained.

    Args:
        where: ``auto``, ``memory`` or ``disk``. ``auto`` caches only if the head alone is trained;
            a few views were measured to be enough there.
        views: Number of augmented views of each training picture, at least 1; None for
            ``usual_views``.
        gigabytes: Largest size of the cache, in 10^9 bytes.
        folder: Folder for ``disk``; None for that of ``cache_folder``.

    Raises:
        UsageError: A value is out of range.
    """

    def __init__(
        self,
        where: Where = "auto",
        views: int | None = None,
        gigabytes: float = 4.0,
        folder: str | None = None,
    ) -> None:
        if where not in get_args(Where):
            raise UsageError(
                f"trainer.cache is '{where}'; expected one of {', '.join(get_args(Where))}"
            )
        if views is not None and views < 1:
            raise UsageError(f"trainer.cache_views is {views}; expected at least 1, or null")
        if not gigabytes > 0:
            raise UsageError(f"trainer.cache_gb is {gigabytes}; expected more than 0")
        self.where: Where = where
        self.views = views
        self.bound = round(gigabytes * 1e9)
        self.place: Memory | Shelf = Memory()
        if where == "disk":
            kept = expanded(folder) if folder else cache_folder("features")
            self.place = Shelf(kept, self.bound)
        self._decided = 0  # views that are cached; 0 for none
        self._resumed: int | None = None  # what a run that goes on had decided

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of cached views, for a run that goes on."""
        return {"views": self._decided}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the number of cached views: another one would train otherwise."""
        self._resumed = state_dict["views"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a cache if no block is frozen, before anything is written."""
        module = cast(Classifier, pl_module)
        prefix = Prefix(module.backbone.module)
        if self.where != "auto" and prefix.obstacle:
            raise UsageError(
                f"trainer.cache is {self.where}, but {prefix.obstacle}; set trainer.cache to auto, "
                "or train less: model.adapter.last_blocks, or the LinearProbe adapter"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fills the cache."""
        self._decided, resumed, self._resumed = 0, self._resumed, None
        if resumed != 0:
            self._begin(trainer, cast(Classifier, pl_module), resumed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Frees the cache."""
        cast(Classifier, pl_module).cached_forward = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Frees the cache."""
        self.on_train_end(trainer, pl_module)

    def _begin(self, trainer: Any, module: Classifier, resumed: int | None) -> None:
        if not isinstance(trainer.train_dataloader, PictureLoader):
            if self.where == "auto":
                return
            raise UsageError(
                f"trainer.cache is {self.where}, but the training batches come from a "
                f"{type(trainer.train_dataloader).__name__} of your own, of whose pictures nothing "
                "is known; set trainer.cache to auto or off"
            )
        splits = trainer.datamodule.folder.splits
        if ranks.several() and min(map(len, splits.values())) < ranks.count():
            # a process without any picture of its own would have nothing to fill a batch with
            self._without("this run", "a split has fewer pictures than there are devices")
            return
        prefix, epochs = Prefix(module.backbone.module), max(1, math.ceil(epochs_of(trainer)))
        views = (self.views or usual_views(epochs)) if trainer.datamodule.augment != "none" else 1
        views = resumed or max(min(views, epochs), 1)
        if (
            resumed is None
            and self.where == "auto"
            and not (prefix.pooled and _is_whole(trainer) and pays(prefix, views, epochs))
        ):
            return
        features = Features(trainer, module, prefix)
        parts: list[Part] = [("train", view) for view in range(views)]
        if isinstance(trainer.val_dataloaders, PictureLoader):
            parts.append(("val", 0))
        made = self._made(features, parts, epochs)
        if made is None:
            if resumed is not None:
                raise UsageError(
                    f"the unfinished run cached {views} views of the pictures, which now do not "
                    "fit; free some memory, or start the run anew without --resume"
                )
            return
        self._decided = views
        loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
        for split in {split for split, _ in made}:
            rows = [made[part] for part in parts if part[0] == split]
            kept = Kept(rows, features.labels(split), features.share.of)
            loaders[split].keep(kept.batches(loaders[split].batch_sampler))
        module.cached_forward = prefix.after
        if module.dropped is not None:  # whole pictures are kept; the rest of the blocks may drop
            module.dropped.first = prefix.blocks
        if isinstance(trainer.progress_bar_callback, Progress):  # restart its clock
            trainer.progress_bar_callback.on_train_start(trainer, module)

    def _made(
        self, features: Features, parts: Sequence[Part], epochs: int
    ) -> dict[Part, torch.Tensor] | None:
        """Returns the tensor of each part, found or computed; None if they do not fit."""
        total = sum(features.size(split) for split, _ in parts)
        what = f"{_described(features, parts, epochs)}: {size(total)}"
        if total > self.bound:
            return self._without(what, f"trainer.cache_gb allows {size(self.bound)}")
        keys = {part: features.key(*part) if self.where == "disk" else {} for part in parts}
        made = {part: found for part in parts if (found := self.place.find(keys[part])) is not None}
        missing = [part for part in parts if part not in made]
        needed = sum(features.size(split) for split, _ in missing)
        free = -ranks.largest(-self.place.make_room(needed))[0]  # the least of all processes
        if needed > free:
            return self._without(what, f"{self.place} has room for {size(free)}")
        there = f", {len(made)} of {len(parts)} parts found" if made else ""
        tell(f"{'cache':<12} {what} in {self.place}{there}")
        bar = _Bar(sum(features.own_rows(split) for split, _ in missing))
        for split, view in missing:
            rows = bar.counted(features.batches(split, view))
            shape = (features.own_rows(split), *features.shape)
            made[split, view] = self.place.keep(keys[split, view], rows, shape)
        bar.end()
        return made

    def _without(self, what: str, reason: str) -> None:
        """Tells why nothing is cached.

        Raises:
            UsageError: The user asked for the cache.
        """
        if self.where != "auto":
            raise UsageError(
                f"trainer.cache is {self.where} for {what}, but {reason}; lower "
                "trainer.cache_views, raise trainer.cache_gb, or set trainer.cache to auto"
            )
        tell(f"{'cache':<12} off: {what}, but {reason}")


class Kept(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The cached outputs for this process's own pictures of a split, served in batches.

    Args:
        views: A tensor for each view, a row for each picture; the epochs take them in turn.
        labels: ``(N,)``.
        of: Number of processes; the row of a picture is its index divided by it.
    """

    def __init__(self, views: Sequence[torch.Tensor], labels: torch.Tensor, of: int = 1) -> None:
        self.views = views
        self.labels = labels
        self.of = of

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, batch: Sequence[int | Draw]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns rows ``(B, ...)`` and labels ``(B,)`` of pictures of one view."""
        views, indices, counts = zip(*map(view_index_counts, batch), strict=True)
        rows = torch.tensor(indices) // self.of
        labels = torch.where(torch.tensor(counts), self.labels[rows], NOT_COUNTED)
        return self.views[views[0] % len(self.views)].index_select(0, rows), labels

    def batches(self, like: SharedBatches) -> DataLoader[Any]:
        """Returns a loader of the same pictures; no workers, as there is nothing to compute."""
        return DataLoader(
            self,
            batch_sampler=SharedBatches(like.sampler, like.batch_size, like.share, owned=True),
            collate_fn=_as_they_are,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or each epoch takes one of training's random numbers
        )


class _Bar:
    """Shows the progress: a line redrawn on a terminal, one line at the end elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = time.monotonic()

    def counted(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch in batches:
            yield batch
            self.done += len(batch)
            if sys.stdout.isatty():
                passed = time.monotonic() - self.started
                left = clock(passed / self.done * (self.total - self.done))
                print(
                    f"\r{'':<12} {self.done:,} of {self.total:,}, {left} left ", end="", flush=True
                )

    def end(self) -> None:
        if self.total:
            passed = time.monotonic() - self.started
            line = f"computed in {clock(passed)}, {self.total / passed:.0f} img/s"
            start, width = ("\r", 32) if sys.stdout.isatty() else ("", 0)  # hides the last line
            print(f"{start}{'':<12} {line:<{width}}", flush=True)


def usual_views(epochs: int) -> int:
    """Returns how many views of each picture to cache, instead of a new one in each epoch.

    A single view costs a head up to three points of accuracy. Half as many views as epochs, or six,
    showed no significant loss (benchmarks/cache_views.py).
    """
    return min(max(2, -(-epochs // 2)), 6)


def pays(prefix: Prefix, views: int, epochs: int) -> bool:
    """Returns whether the cache saves at least a tenth of a run.

    Counts the blocks that a picture passes; a trained block counts twice, for its backward pass.
    """
    back_and_forth = 2 * (prefix.total - prefix.blocks)
    without = epochs * (prefix.blocks + back_and_forth)
    return views * prefix.blocks + epochs * back_and_forth <= _WORTH * without


def _is_whole(trainer: Any) -> bool:
    """Returns whether every epoch uses all pictures, so that the whole cache is used."""
    return trainer.limit_train_batches == 1.0 and not trainer.overfit_batches


def _described(features: Features, parts: Sequence[Part], epochs: int) -> str:
    prefix, views = features.prefix, sum(split == "train" for split, _ in parts)
    fewer = f" for {epochs} epochs" if features.augmented and views < epochs else ""
    return (
        f"{prefix.blocks} of {prefix.total} blocks, {views} view{'s' * (views > 1)} of "
        f"{features.rows('train'):,} pictures{fewer}"
    )


def _as_they_are(batch: Any) -> Any:  # the loader's stub expects a list of samples
    return batch
