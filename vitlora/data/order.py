"""Which pictures an epoch shows, in which order, and how: by the seed and the epoch alone.

So an epoch can be entered anywhere, by any number of loader processes, and none of them has random
numbers of its own to keep.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Draw = tuple[int, int]  # a view of the pictures, such as the number of an epoch; a picture's index


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


def view_and_index(at: int | Draw) -> Draw:
    """Returns a view and an index; the index alone is that of a picture in view 0."""
    return at if isinstance(at, tuple) else (0, at)
