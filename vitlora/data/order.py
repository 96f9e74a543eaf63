"""Which pictures an epoch shows, in which order, and how: by the seed and the epoch alone.

So an epoch can be entered anywhere, by any number of loader processes, and none of them has random
numbers of its own to keep. And the batches are the same on any number of devices, which share each
of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

# A view of the pictures, such as the number of an epoch; a picture's index, or -1 - the index if
# the picture only fills a batch that would be empty, and does not count.
Draw = tuple[int, int]
NOT_COUNTED = -100  # the label of such a picture; torch's losses ignore it


class Order(Sampler[Draw]):
    """Yields the number of a view with the index of each picture.

    Args:
        length: Number of pictures.
        seed: Seed of the run, from 0.
        shuffle: Whether each view has an order of its own.
        view: The first view; Lightning sets the others.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, view: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.view = view
        self._first = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        places = range(self.length)
        if self.shuffle:
            places = np.random.default_rng((self.seed, self.view)).permutation(self.length).tolist()
        return ((self.view, index) for index in places[self._first :])

    def set_epoch(self, epoch: int) -> None:
        """Chooses the view; another one than before is shown from its start."""
        if epoch != self.view:
            self.view, self._first = epoch, 0

    def go_on(self, epoch: int, first: int) -> None:
        """Shows an epoch without its first pictures, until another epoch is chosen.

        Args:
            epoch: Number of the epoch, from 0.
            first: Number of pictures to leave out.
        """
        self.view, self._first = epoch, first


@dataclass(frozen=True)
class Share:
    """What one of several processes has of the pictures.

    Attributes:
        rank: Number of the process, from 0.
        of: Number of processes.
    """

    rank: int = 0
    of: int = 1

    def part(self, batch: Sequence[Draw]) -> Sequence[Draw]:
        """Returns its part of a batch; the parts of two processes differ by at most one picture."""
        start, end = (len(batch) * rank // self.of for rank in (self.rank, self.rank + 1))
        return batch[start:end]

    def owned(self, batch: Sequence[Draw]) -> Sequence[Draw]:
        """Returns the pictures of a batch that it has in every epoch, however many these are."""
        return [(view, index) for view, index in batch if index % self.of == self.rank]

    def rows(self, length: int) -> int:
        """Returns how many of ``length`` pictures are ``owned``."""
        return len(range(self.rank, length, self.of))


class SharedBatches(Sampler[list[Draw]]):
    """Yields a process's share of each batch, with at least one picture.

    Every process has as many batches as the others, because each waits for all in every step. One
    without a picture gets one that does not count.

    Args:
        order: The pictures.
        size: Pictures in a batch, of all processes together.
        share: Which process this is.
        owned: Always give a picture to the same process, instead of equal parts to all.
    """

    def __init__(self, order: Order, size: int, share: Share, owned: bool = False) -> None:
        self.sampler = order  # Lightning tells it the epoch by this name
        self.batch_size = size
        self.share = share
        self.owned = owned

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = iter(self.sampler)
        while batch := list(islice(draws, self.batch_size)):
            view, first = batch[0]
            if self.owned:
                part, first = self.share.owned(batch), self.share.rank
            else:
                part = self.share.part(batch)
            yield list(part) or [(view, ~first)]


def view_index_counts(at: int | Draw) -> tuple[int, int, bool]:
    """Returns a view, an index, and whether the picture counts.

    Args:
        at: The view and the index; the index alone is that of a picture in view 0.
    """
    view, index = at if isinstance(at, tuple) else (0, at)
    return (view, index, True) if index >= 0 else (view, ~index, False)
