"""Picture files as a torch dataset. Light to import: spawned loader workers import it anew."""

from collections.abc import Sequence

import cv2
import torch
from torch.utils.data import Dataset, get_worker_info

from vitlora.data.augmentation import Augmentation, Transform
from vitlora.data.folder import Sample
from vitlora.data.images import open_image


class ImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """Opens and transforms pictures one by one.

    Args:
        samples: Files and labels.
        transform: RGB picture -> ``(3, H, W)``.
        at_least: Shortest side in pixels worth decoding; None decodes every pixel.
    """

    def __init__(
        self, samples: Sequence[Sample], transform: Transform, at_least: int | None = None
    ) -> None:
        self.samples = list(samples)
        self.transform = transform
        self.at_least = at_least

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Returns ``(3, H, W)``, normalised, and the label."""
        sample = self.samples[index]
        return self.transform(open_image(sample.path, self.at_least)), sample.label


def seed_worker(worker: int) -> None:
    """Gives a loader worker's augmentation its own random numbers, from torch's seed."""
    cv2.setNumThreads(0)  # the workers are the parallelism
    info = get_worker_info()
    if info is not None:
        transform = getattr(info.dataset, "transform", None)
        if isinstance(transform, Augmentation):
            transform.seed(info.seed % 2**32)
