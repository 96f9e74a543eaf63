"""Picture -> class and confidence, from an exported file. Needs no torch, but for a .pt2 file."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitlora.errors import BundleError, DataError, UsageError, counted, printable
from vitlora.exporting.exported import Exported
from vitlora.exporting.targets import TARGETS, target_of
from vitlora.exporting.targets.target import (
    DISTANCES,
    INPUT,
    PROBABILITIES,
    OpenedNetwork,
    Target,
)
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.ahead import ahead

_Seen = tuple[Path, NDArray[np.uint8] | DataError, bool]  # square, whether its values are outside


class ExportedPredictor:
    """A network that ``vitlora export`` wrote; it answers as the ``Predictor`` of its bundle does.

    Args:
        file: The file; its ending says what kind it is.
        ours: Whether it is known to come from ``vitlora export``, and not from a stranger.

    Raises:
        BundleError: It is missing or damaged, or vitlora did not write it.
        UsageError: The package that reads it is not installed; or it is of a kind that may run
            code, and not ours.
    """

    def __init__(self, file: str | Path, ours: bool = False) -> None:
        file = Path(file)
        self._file, self.target = file, _target(file, ours)
        self.target.check_installed(f"reading {file}", self.target.reads_with)
        self._network = _opened(file, self.target)
        self.exported = Exported.from_text(self._network.said, file)
        _check_fits(self._network, self.exported, file)
        self.classes, self.digest = self.exported.classes, self.exported.bundle_digest
        self.precision = f"{self.target.suffix} {self.exported.precision}"
        self.validated = self.exported.validated
        self.confidence = self.exported.confidence
        self.preprocessing = self.exported.preprocessing
        self._framing = self.preprocessing.framing()

    def predict(
        self, paths: Iterable[str | Path], top_k: int = 3, batch_size: int = 32
    ) -> Iterator[Prediction | DataError]:
        """Yields a prediction for each file, in order; an error for one that cannot be read.

        Args:
            paths: Picture files.
            top_k: How many classes to keep, at least 1.
            batch_size: Pictures in one forward pass.
        """
        opened = ahead(self._open, map(Path, paths), 2 * batch_size)
        while group := list(islice(opened, batch_size)):
            yield from self._predict_group(group, top_k)

    def run(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Returns what the network says of squares.

        Args:
            pictures: RGB, ``(B, size, size, 3)``, in ``[0, 255]``.

        Returns:
            Probabilities ``(B, C)``, features ``(B, D)`` and, if the bundle was calibrated,
            distances to the training pictures ``(B,)``, by their names.

        Raises:
            BundleError: It fails, or its answers have other shapes: a stranger may have made it.
        """
        try:
            said = self._network.run(pictures)
        except Exception as error:  # as in _opened
            why = printable(" ".join(str(error).split()))
            raise BundleError(f"{self._file}'s network fails ({why})") from None
        count = len(pictures)
        expected = {PROBABILITIES: (count, len(self.classes)), DISTANCES: (count,)}
        for name, shape in expected.items():
            if name in said and said[name].shape != shape:
                raise BundleError(
                    f"{self._file} is not a network of vitlora's: '{name}' for "
                    f"{counted(count, 'picture')} is {said[name].shape}, expected {shape}"
                )
        return said

    def square(self, path: Path) -> tuple[NDArray[np.uint8], bool]:
        """Returns a file as the network takes it, ``(size, size, 3)``; see ``Opened.outside``.

        Raises:
            DataError: It cannot be read.
        """
        opened = self.preprocessing.open(path)
        return np.asarray(self._framing(opened.image)), opened.outside

    def _open(self, path: Path) -> _Seen:
        try:
            return path, *self.square(path)
        except DataError as error:
            return path, error, False

    def _predict_group(
        self, group: Sequence[_Seen], top_k: int
    ) -> Iterator[Prediction | DataError]:
        squares = [square for _, square, _ in group if not isinstance(square, DataError)]
        said = self.run(np.stack(squares)) if squares else {}
        row = 0
        for path, square, outside in group:
            if isinstance(square, DataError):
                yield square
                continue
            one = {name: values[row] for name, values in said.items()}
            yield self._prediction(path, one, outside, top_k)
            row += 1

    def _prediction(
        self, path: Path, said: dict[str, NDArray[np.float32]], outside: bool, top_k: int
    ) -> Prediction:
        """Returns the prediction for one picture; marks are set as ``Judge`` does."""
        probabilities, known = said[PROBABILITIES], self.confidence
        order = np.argsort(-probabilities, kind="stable")
        top = tuple((self.classes[n], float(probabilities[n])) for n in order[: max(top_k, 1)])
        unsure = known is not None and top[0][1] < known.unsure_below
        unfamiliar = known is not None and float(said[DISTANCES]) > known.unfamiliar_above
        return Prediction(path, top, unsure, unfamiliar, outside)


def _target(file: Path, ours: bool) -> Target:
    """Returns the kind of a file that may be opened.

    Raises:
        BundleError, UsageError: As for ``ExportedPredictor``.
    """
    target = target_of(file)
    if target is None:
        raise UsageError(f"'{file}': expected a file that ends in {', '.join(TARGETS)}")
    if target.runs_code and not ours:
        raise UsageError(
            f"'{file}': reading a {target.suffix} file can run code that is in it, so vitlora only "
            "writes them; predict with the bundle, or export another kind of file"
        )
    for path in reversed(target.files(file)):
        if not path.is_file():
            raise BundleError(f"checkpoint '{path}': no such file")
    return target


def _opened(file: Path, target: Target) -> OpenedNetwork:
    """Returns the network in a file.

    Raises:
        BundleError: It is damaged.
    """
    try:
        return target.open(file)
    # the libraries' own errors have no common class
    except Exception as error:
        said = printable(" ".join(str(error).split()))
        reader = target.reads_with[0] if target.reads_with else "torch"
        raise BundleError(
            f"{file} is torn, or no {target.suffix} file that {reader} reads ({said}); export the "
            "bundle again"
        ) from None


def _check_fits(network: OpenedNetwork, exported: Exported, file: Path) -> None:
    """Refuses a file whose network is not the one that its metadata describes.

    Raises:
        BundleError: An input or output is missing, or has another type or shape.
    """
    side, classes = exported.preprocessing.image_size, len(exported.classes)
    distances = {} if exported.confidence is None else {DISTANCES: ("float32", (None,))}
    expected = {
        INPUT: ("uint8", (None, side, side, 3)),
        PROBABILITIES: ("float32", (None, classes)),
        **distances,
    }
    found = {**network.outputs, **network.inputs}
    for name, want in expected.items():
        if found.get(name) != want or [*network.inputs] != [INPUT]:
            raise BundleError(
                f"{file} is not a network of vitlora's: '{name}' is {found.get(name)}, expected "
                f"{want}, where None is any number; export the bundle again"
            )
