"""What several test files share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlora.cli.results import printing


def _make_folder(
    root: Path,
    classes: Sequence[str] = ("a", "b"),
    splits: Sequence[str] = ("train", "val"),
    count: int = 4,
    size: int = 40,
) -> Path:
    """Returns `root`, filled with `count` JPEGs of coloured noise for each class of each split.

    Every class has its own colour, so that a network can learn it. No splits: class folders only.
    """
    rng = np.random.default_rng(0)
    for split in splits or ("",):
        for label, name in enumerate(classes):
            folder = Path(root) / split / name
            folder.mkdir(parents=True)
            colour = np.array([(label * 97) % 256, (label * 41 + 60) % 256, 200 - label * 53 % 200])
            for index in range(count):
                pixels = colour + rng.integers(-40, 40, (size, size, 3))
                picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                picture.save(folder / f"{index}.jpg", quality=90)
    return Path(root)


@pytest.fixture(autouse=True)
def printed() -> Iterator[None]:
    """Prints what the library logs, as the command line does, for `capsys` to see."""
    with printing(quiet=False):
        yield


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """The factory `make_folder(root, classes, splits, count, size) -> root`."""
    return _make_folder


def pytest_configure() -> None:
    """Lets tests send Ctrl-C also where a shell runs them in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
