"""Whether an exported file answers as its bundle does, on the pictures of its user."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from vitlora.errors import DataError, VitloraError, counted
from vitlora.exporting.exported import ExportPrecision
from vitlora.exporting.exported_predictor import ExportedPredictor
from vitlora.exporting.targets.target import PROBABILITIES
from vitlora.metrics.judge import Judged

BATCHES = (1, 2, 7)
MOST_CHANGED = {"32": 0.0, "fp16": 0.005, "int8": 0.005}  # share of pictures whose class changes
_MOST_GAP = {"32": 1e-3, "fp16": 1.0, "int8": 1.0}  # of a confidence
_MOST_BETWEEN_BATCHES = 0.01  # of a confidence; fp16 rounds differently in another order
_TIMED = 9  # forward passes


@dataclass(frozen=True)
class ExportProof:
    """What exporting changed, over all validation pictures.

    Attributes:
        pictures: How many.
        largest_gap: Between a confidence of the bundle and of the file, in ``[0, 1]``.
        changed_classes: Pictures whose most likely class changed.
        changed_unsure: Pictures whose mark ``unsure`` changed.
        changed_unfamiliar: Pictures whose mark ``unfamiliar`` changed.
        batches: Number of pictures in one forward pass -> largest gap to the same pictures'
            confidences in other batches.
        bytes: Size of the file.
        milliseconds: Of one picture's forward pass on the CPU, median.
    """

    pictures: int
    largest_gap: float
    changed_classes: int
    changed_unsure: int
    changed_unfamiliar: int
    batches: dict[str, float]
    bytes: int
    milliseconds: float

    def check(self, precision: ExportPrecision) -> None:
        """Refuses a file that answers differently.

        Raises:
            VitloraError: More classes or larger confidences changed than the precision may change.
        """
        most = int(MOST_CHANGED[precision] * self.pictures)
        why = ""
        if self.changed_classes > most:
            why = f"the class of {counted(self.changed_classes, 'picture')} changed"
            why += f" of {self.pictures:,}, expected at most {most:,}"
        elif not self.largest_gap <= _MOST_GAP[precision]:
            why = f"a confidence changed by {self.largest_gap:.2g}"
            why += f", expected at most {_MOST_GAP[precision]:g}"
        elif not all(gap <= _MOST_BETWEEN_BATCHES for gap in self.batches.values()):
            why = f"confidences depend on the number of pictures in a batch: {self.batches}"
        if why:
            todo = "this is a bug" if precision == "32" else "choose --precision 32"
            raise VitloraError(
                f"the file with precision {precision} answers differently than the bundle: {why}; "
                f"nothing was written; {todo}"
            )


def prove(file: Path, expected: Judged, paths: Sequence[Path]) -> ExportProof:
    """Returns how a file's answers differ from a network's; it reads and scales every picture.

    Args:
        file: The exported file.
        expected: What the bundle's network says of the pictures.
        paths: The N pictures.

    Raises:
        BundleError: The file cannot be read.
        DataError: A picture cannot be read any more.
    """
    predictor = ExportedPredictor(file, ours=True)
    classes = predictor.classes
    got = np.empty(tuple(expected.probabilities.shape), np.float32)
    marks = np.empty((len(paths), 2), bool)
    for row, said in enumerate(predictor.predict(paths, len(classes))):
        if isinstance(said, DataError):
            raise said
        confidences = dict(said.top)
        got[row] = [confidences[name] for name in classes]
        marks[row] = said.unsure, said.unfamiliar
    wanted = torch.stack([expected.unsure, expected.unfamiliar], 1).numpy()
    changed = (marks != wanted).sum(0)
    squares = np.stack([predictor.square(paths[n % len(paths)])[0] for n in range(max(BATCHES))])
    return ExportProof(
        pictures=len(paths),
        largest_gap=float(np.abs(got - expected.probabilities.numpy()).max()),
        changed_classes=int((got.argmax(1) != expected.predicted.numpy()).sum()),
        changed_unsure=int(changed[0]),
        changed_unfamiliar=int(changed[1]),
        batches=_between_batches(predictor, squares, got),
        bytes=sum(path.stat().st_size for path in predictor.target.files(file)),
        milliseconds=_milliseconds(predictor, squares[:1]),
    )


def _between_batches(
    predictor: ExportedPredictor, squares: np.ndarray, got: np.ndarray
) -> dict[str, float]:
    gaps = {}
    for count in BATCHES:
        said = predictor.run(squares[:count])[PROBABILITIES]
        known = got[np.arange(count) % len(got)]
        gaps[str(count)] = float(np.abs(said - known).max())
    return gaps


def _milliseconds(predictor: ExportedPredictor, square: np.ndarray) -> float:
    taken = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        predictor.run(square)
        taken.append(1e3 * (time.perf_counter() - start))
    return round(median(taken), 2)
