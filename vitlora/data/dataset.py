"""Picture files as a torch dataset. Light to import: spawned loader workers import it anew."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vitlora.data.augmentation import Augmentation, Transform
from vitlora.data.bit_depth import ValueRange
from vitlora.data.folder import Sample
from vitlora.data.images import MemoryShortError, Side, open_image
from vitlora.errors import DataError

# how torch hands on what a loader process raised: a traceback, then the class and its message
_RAISED = re.compile(r"Original Traceback.*^vitlora\.\S+Error: (.*)", re.DOTALL | re.MULTILINE)


class ImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """Opens and transforms pictures one by one.

    Args:
        samples: Files and labels.
        transform: RGB picture -> ``(3, H, W)``.
        at_least: Length of a side in pixels worth decoding; None decodes every pixel.
        value_range: The values that become 0 and 255 in files deeper than 8 bits.
        srgb: Whether the colours that a picture's profile describes are turned into sRGB.
        side: The side that ``at_least`` refers to.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        at_least: int | None = None,
        value_range: ValueRange | None = None,
        srgb: bool = True,
        side: Side = "short",
    ) -> None:
        self.samples = list(samples)
        self.transform = transform
        self.at_least = at_least
        self.value_range = value_range
        self.srgb = srgb
        self.side: Side = side

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Returns ``(3, H, W)``, normalised, and the label."""
        sample = self.samples[index]
        image = open_image(sample.path, self.at_least, self.value_range, self.srgb, self.side)
        return self.transform(image), sample.label


class Views(Dataset[tuple[torch.Tensor, int]]):
    """Augments each picture in a way that depends on the seed, the view and its index alone.

    Args:
        pictures: The pictures; their augmentation is seeded for each one.
        seed: Seed of the run.
        view: Number of the view, from 0.
    """

    def __init__(self, pictures: ImageDataset, seed: int, view: int) -> None:
        self.pictures = pictures
        self.seed = seed
        self.view = view

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Returns ``(3, H, W)``, normalised, and the label."""
        transform = self.pictures.transform
        if isinstance(transform, Augmentation):
            transform.seed(self.seed, self.view, index)
        return self.pictures[index]


class PictureLoader(DataLoader[Any]):
    """Batches of pictures; or, once ``keep`` was called, of what was computed from them.

    ``keep`` also changes an epoch whose iterator exists but has not started.
    """

    _kept: DataLoader[Any] | None = None

    def keep(self, loader: DataLoader[Any]) -> None:
        """Serves the batches of another loader from now on, and lets go of the workers."""
        self._kept = loader
        self._iterator = None

    def __iter__(self) -> Any:
        return self._epoch(super().__iter__() if self._kept is None else None)

    def _epoch(self, pictures: Any) -> Iterator[Any]:
        if self._kept is not None:
            pictures = self._kept  # the workers' last reference goes
        try:
            yield from pictures
        except DataError as error:
            raise _in_a_line(error) from None


def _in_a_line(error: DataError) -> DataError:
    """Returns what was wrong with a picture, without the traceback of a loader process."""
    raised = _RAISED.search(str(error))
    line = (raised[1] if raised else str(error)).strip()
    if isinstance(error, MemoryShortError):
        return MemoryShortError(line)
    return DataError(f"{line}; mend or remove it, or set data.skip_unreadable to true")


def seed_worker(worker: int) -> None:
    """Gives a loader worker's augmentation its own random numbers, from torch's seed."""
    cv2.setNumThreads(0)  # the workers are the parallelism
    info = get_worker_info()
    if info is not None:
        transform = getattr(info.dataset, "transform", None)
        if isinstance(transform, Augmentation):
            transform.seed(info.seed)
