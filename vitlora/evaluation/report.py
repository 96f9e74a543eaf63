"""The numbers behind a report's charts, and its choice of pictures."""

import csv
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Point = tuple[float, float]

_POINTS = 200  # points of a curve, enough for a screen


@dataclass(frozen=True)
class Curve:
    """One line of a learning curve.

    Attributes:
        name: Its name in the logs: ``train/loss``, ``val/acc`` …
        points: Pairs of finished epochs and value.
    """

    name: str
    points: tuple[Point, ...]


def risk_coverage(confidence: torch.Tensor, right: torch.Tensor) -> list[Point]:
    """Returns points (share answered, share of these that is wrong), the surest answers first.

    The curve of Geifman and El-Yaniv 2017 (arXiv:1705.08500), with at most 200 points.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        right: ``(N,)`` bool.
    """
    wrong = (~right[confidence.argsort(descending=True, stable=True)]).double().cumsum(0)
    answered = torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    points = list(zip((answered / len(wrong)).tolist(), (wrong / answered).tolist(), strict=True))
    step = max(1, -(-len(points) // _POINTS))
    return points[::-step][::-1]  # keeps the last point, with everything answered


def learning_curves(file: Path) -> list[Curve]:
    """Returns a run's numbers by epoch from Lightning's CSV file; empty if there is none.

    A file with other content is ignored: logs are not part of the bundle.
    """
    if not file.is_file():
        return []
    found: dict[str, list[Point]] = defaultdict(list)
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name.startswith(("train/", "val/")) and "_step" not in name:
                        point = (float(row["epoch"]) + 1, float(value))
                        if all(map(math.isfinite, point)):
                            found[name.removesuffix("_epoch")].append(point)
    except (ValueError, KeyError, AttributeError, csv.Error):
        return []
    return [Curve(name, tuple(points)) for name, points in sorted(found.items())]


def shown_in_cells(
    labels: Sequence[int],
    predicted: Sequence[int],
    confidence: Sequence[float],
    most: int,
    linked: Collection[tuple[int, int]] | None = None,
) -> dict[tuple[int, int], list[int]]:
    """Returns the pictures to show for each cell of the confusion matrix.

    Cells take turns, mistakes before right answers and the surest answers first, until ``most``
    pictures are chosen.

    Args:
        labels: True class of each picture.
        predicted: Its predicted class.
        confidence: Confidence of that prediction.
        most: Largest number of pictures, all cells together.
        linked: The cells that are shown; None for all.

    Returns:
        (true class, predicted class) -> indices of pictures.
    """
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in sorted(range(len(labels)), key=lambda i: -confidence[i]):
        cells[labels[index], predicted[index]].append(index)
    turns = sorted(
        (true == guess, place, true, guess)
        for (true, guess), indices in cells.items()
        if linked is None or (true, guess) in linked
        for place in range(len(indices))
    )
    kept: dict[tuple[int, int], list[int]] = defaultdict(list)
    for _, place, true, guess in turns[:most]:
        kept[true, guess].append(cells[true, guess][place])
    return dict(kept)


def worst(confidence: torch.Tensor, right: torch.Tensor, most: int) -> list[int]:
    """Returns the wrong answers, the most confident first."""
    order = confidence.argsort(descending=True, stable=True).tolist()
    return [index for index in order if not right[index]][:most]


def least_sure(confidence: torch.Tensor, most: int) -> list[int]:
    """Returns the least confident answers, right or wrong, the least confident first."""
    return confidence.argsort(stable=True).tolist()[:most]
