"""Picture files as a torch dataset. Light to import: spawned loader workers import it anew."""

import re
import signal
from collections.abc import Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from vitlora.data.augmentation import Augmentation, Transform
from vitlora.data.bit_depth import ValueRange
from vitlora.data.folder import Sample
from vitlora.data.images import MemoryShortError, Side, open_image
from vitlora.data.order import NOT_COUNTED, Draw, view_index_counts
from vitlora.errors import DataError

# how torch hands on what a loader process raised: a traceback, then the class and its message
_RAISED = re.compile(r"Original Traceback.*^vitlora\.\S+Error: (.*)", re.DOTALL | re.MULTILINE)

_LAST_SECONDS = 10  # that a loader process lives on after SIGTERM


class ImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """Opens and transforms pictures one by one.

    An augmentation depends on the seed, the view and the picture's index alone.

    Args:
        samples: Files and labels.
        transform: RGB picture -> ``(3, H, W)``.
        at_least: Length of a side in pixels worth decoding; None decodes every pixel.
        value_range: The values that become 0 and 255 in files deeper than 8 bits.
        srgb: Whether the colours that a picture's profile describes are turned into sRGB.
        side: The side that ``at_least`` refers to.
        seed: Seed of the augmentation, from 0.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        at_least: int | None = None,
        value_range: ValueRange | None = None,
        srgb: bool = True,
        side: Side = "short",
        seed: int = 0,
    ) -> None:
        self.samples = list(samples)
        self.transform = transform
        self.at_least = at_least
        self.value_range = value_range
        self.srgb = srgb
        self.side: Side = side
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, at: int | Draw) -> tuple[torch.Tensor, int]:
        """Returns ``(3, H, W)``, normalised, and the label, or ``NOT_COUNTED``.

        Args:
            at: Index of the picture, or the view and the index.
        """
        view, index, counts = view_index_counts(at)
        sample = self.samples[index]
        if isinstance(self.transform, Augmentation):
            self.transform.seed(self.seed, view, index)
        image = open_image(sample.path, self.at_least, self.value_range, self.srgb, self.side)
        return self.transform(image), sample.label if counts else NOT_COUNTED


class PictureLoader(DataLoader[Any]):
    """Batches of pictures; or, once ``keep`` was called, of what was computed from them.

    An epoch begins when its first batch is asked for: until then, its order may be chosen.
    """

    _kept: DataLoader[Any] | None = None

    def keep(self, loader: DataLoader[Any]) -> None:
        """Serves the batches of another loader from now on, and lets go of the workers."""
        self._kept = loader
        self._iterator = None

    def __iter__(self) -> Any:
        try:
            yield from super().__iter__() if self._kept is None else self._kept
        except DataError as error:
            raise _in_a_line(error) from None


def _in_a_line(error: DataError) -> DataError:
    """Returns what was wrong with a picture, without the traceback of a loader process."""
    raised = _RAISED.search(str(error))
    line = (raised[1] if raised else str(error)).strip()
    if isinstance(error, MemoryShortError):
        return MemoryShortError(line)
    return DataError(f"{line}; mend or remove it, or set data.skip_unreadable to true")


def prepare_worker(worker: int) -> None:
    """Prepares a loader process: one thread, and signals that are meant for the main process.

    Ctrl-C and cluster managers signal all processes of a run. The main process saves its state
    first, for which it needs the batch that is being loaded; a loader ends when it is told to, or
    a while after SIGTERM.
    """
    cv2.setNumThreads(0)  # the workers are the parallelism
    if hasattr(signal, "SIGALRM"):  # not on Windows
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_LAST_SECONDS))
