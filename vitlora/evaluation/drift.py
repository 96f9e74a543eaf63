"""Compares new, unlabelled photos with the training data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitlora.bundle.record import Record
from vitlora.evaluation.answers import Answers
from vitlora.metrics.confidence import Confidence
from vitlora.metrics.judge import Judge
from vitlora.metrics.reference import Reference

LEVEL = 0.05  # how often photos from the same source are called changed
FEW = 30  # pictures; with fewer, only a very large change shows
_DRAWS = 4999
_STEPS = 10  # rounding steps: a decile closer than this to the next one is dropped


@dataclass(frozen=True)
class Shift:
    """One comparison of new photos with the training data.

    Attributes:
        name: ``class mix``, ``confidence`` or ``distance``.
        parts: The B classes, or B ranges of values, the lowest first.
        expected: Share of each part in the training data, ``(B,)``, sum 1.
        observed: Share of each part in the new photos.
        moved: Total variation distance, in ``[0, 1]``: the share of photos that would have to
            change parts for both to agree.
        psi: Population stability index, >= 0.
        p: Chance of such a difference if nothing changed, times the number of comparisons
            (Bonferroni), in ``(0, 1]``.
        medians: Median of the validation pictures and of the new photos; None for classes.
    """

    name: str
    parts: tuple[str, ...]
    expected: tuple[float, ...]
    observed: tuple[float, ...]
    moved: float
    psi: float
    p: float
    medians: tuple[float, float] | None = None

    @property
    def size(self) -> str:
        """``none`` if chance explains the difference, else ``little``, ``some`` or ``much``.

        The limits of the index are the usual 0.1 and 0.25 (Siddiqi 2006, Credit Risk Scorecards).
        """
        if self.p >= LEVEL:
            return "none"
        return "little" if self.psi < 0.1 else "some" if self.psi < 0.25 else "much"

    @property
    def rose(self) -> bool:
        """Whether the new photos have higher values on average."""
        ranks = np.arange(len(self.parts))
        return bool(ranks @ np.subtract(self.observed, self.expected) > 0)


@dataclass(frozen=True)
class Photo:
    """A new photo as the network sees it.

    Attributes:
        path: The file.
        label: The most likely class.
        confidence: Its probability, after the temperature, in ``[0, 1]``.
        distance: Distance to the training pictures, as ``Reference`` measures it, >= 0.
        unsure: Whether the confidence is below the bundle's threshold.
        unfamiliar: Whether the distance is above the bundle's threshold.
    """

    path: Path
    label: str
    confidence: float
    distance: float
    unsure: bool
    unfamiliar: bool


@dataclass(frozen=True)
class Drift:
    """The result of a comparison.

    Attributes:
        photos: The new photos that could be read, the least familiar first.
        validation: Number of validation pictures they were compared with.
        shifts: The comparisons.
        left_out: Name of a comparison that was not possible -> reason.
        unsure: Share of unsure answers among validation pictures and new photos, in ``[0, 1]``.
        unfamiliar: Share of unfamiliar pictures, expected and among new photos, in ``[0, 1]``.
    """

    photos: tuple[Photo, ...]
    validation: int
    shifts: tuple[Shift, ...]
    left_out: dict[str, str]
    unsure: tuple[float, float]
    unfamiliar: tuple[float, float]

    @property
    def changed(self) -> tuple[Shift, ...]:
        """The differences that chance does not explain, the largest first."""
        found = [shift for shift in self.shifts if shift.size != "none"]
        return tuple(sorted(found, key=lambda shift: -shift.psi))


def compare(answers: Answers, record: Record, known: Confidence, reference: Reference) -> Drift:
    """Compares new photos with the training data.

    Args:
        answers: Answers to the new photos; their labels are ignored.
        record: The bundle's record.
        known: The bundle's calibration.
        reference: Summary of the training pictures' features.
    """
    judged = Judge(record.classes, known, reference).judge(answers.features, answers.logits)
    probabilities, confidence = judged.probabilities, judged.confidence.numpy()
    distances = judged.distances
    shifts = [
        deciles("confidence", confidence, _evenly(known.confidences), known.images),
        deciles("distance", distances.numpy(), _with_tail(known), known.images),
    ]
    alike = "the validation pictures all have the same value"
    left_out = {s.name: alike for s in shifts if len(s.parts) == 1}
    counts = record.split["counts"].get("train")
    if counts:
        off = known.calibration_error[1]
        shifts.insert(0, class_mix(probabilities.numpy(), counts, record.classes, off))
    else:
        left_out["class mix"] = "the bundle does not record how many pictures each class had"
    shifts = [shift for shift in shifts if len(shift.parts) > 1]
    corrected = tuple(replace(s, p=min(s.p * len(shifts), 1.0)) for s in shifts)
    photos = [
        Photo(s.path, record.classes[k], c, d, unsure, unfamiliar)
        for s, k, c, d, unsure, unfamiliar in zip(
            answers.samples,
            judged.predicted.tolist(),
            confidence.tolist(),
            distances.tolist(),
            judged.unsure.tolist(),
            judged.unfamiliar.tolist(),
            strict=True,
        )
    ]
    n = known.images
    return Drift(
        photos=tuple(sorted(photos, key=lambda photo: -photo.distance)),
        validation=n,
        shifts=corrected,
        left_out=left_out,
        unsure=(1 - known.coverage, _share([photo.unsure for photo in photos])),
        unfamiliar=(
            (0.01 * (n - 1) + 1) / (n + 1),
            _share([photo.unfamiliar for photo in photos]),
        ),
    )


def class_mix(
    probabilities: np.ndarray, counts: Sequence[int], classes: tuple[str, ...], off: float
) -> Shift:
    """Compares the mix of classes with that of training.

    A photo counts for each class by its probability. With calibrated probabilities that is right
    on average; counting the likeliest class is not. A change of up to the calibration error
    ``off`` may come from the network, so it is not counted.

    Args:
        probabilities: ``(N, C)``.
        counts: Training pictures of each class, ``(C,)``.
        classes: Their names.
        off: Calibration error, in ``[0, 1]``.
    """
    shares = probabilities.mean(0, dtype=np.float64)
    weights = np.asarray(counts) + 0.5  # Jeffreys' prior: no class is impossible
    return _shift("class mix", classes, shares, weights, len(probabilities), off)


def deciles(
    name: str, values: np.ndarray, quantiles: Sequence[tuple[float, float]], images: int
) -> Shift:
    """Compares how many values lie between the quantiles of the validation pictures.

    Quantiles of few pictures are uncertain: the true share between two of them has a Dirichlet
    distribution, whatever is measured (Wilks 1962, Mathematical Statistics).

    Args:
        name: What is measured.
        values: Values of the new photos, ``(N,)``.
        quantiles: Pairs of level and value, from level 0 to level 1.
        images: Number of validation pictures.
    """
    kept = [
        quantiles[i]
        for i in range(1, len(quantiles) - 1)
        if min(np.diff([value for _, value in quantiles[i - 1 : i + 2]]))
        >= _STEPS * _step(quantiles[i][1])
    ]
    lowest, second = quantiles[0], quantiles[1]
    if not kept and second[1] - lowest[1] >= _STEPS * _step(second[1]):
        kept = [lowest]  # nearly all values are equal: counts those below the lowest
    edges = [value for _, value in kept]
    weights = (images - 1) * np.diff([0.0, *(level for level, _ in kept), 1.0])
    weights[0] += 1  # values can also lie below the lowest or above the highest quantile
    weights[-1] += 1
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(weights))
    named = [f"{value:.4g}" for value in edges]
    parts = [f"{a} to {b}" for a, b in zip(["", *named], [*named, ""], strict=True)]
    shares, medians = counts / len(values), (dict(quantiles)[0.5], float(np.median(values)))
    shift = _shift(name, tuple(map(str.strip, parts)), shares, weights, len(values))
    return replace(shift, medians=medians)


def _shift(
    name: str,
    parts: tuple[str, ...],
    shares: np.ndarray,
    weights: np.ndarray,
    count: int,
    off: float = 0.0,
) -> Shift:
    """Compares the shares of ``count`` photos with a Dirichlet's; ``p`` is that of one test."""
    expected = weights / weights.sum()
    gap = shares - expected
    moved = float(np.abs(gap).sum() / 2)
    counted = gap * max(1 - off / moved, 0.0) if moved else gap
    statistic = float((counted**2 / expected).sum())
    by_chance = int((_by_chance(weights, count) >= statistic * (1 - 1e-9)).sum())
    smoothed = (shares * count + 0.5) / (count + 0.5 * len(shares))  # finite for empty parts
    psi = float(((smoothed - expected) * np.log(smoothed / expected)).sum())
    p = (by_chance + 1) / (_DRAWS + 1)
    return Shift(name, parts, tuple(expected.tolist()), tuple(shares.tolist()), moved, psi, p)


def _by_chance(weights: np.ndarray, count: int) -> np.ndarray:
    """Returns chi-square / N of random photos from the same source, ``(_DRAWS,)``; seeded.

    Both samples vary: first the true shares, given the reference's pictures, then the photos.
    """
    rng = np.random.default_rng(0)
    expected = weights / weights.sum()
    at_once = max(1_000_000 // len(weights), 1)
    drawn = [
        rng.multinomial(count, rng.dirichlet(weights, min(at_once, _DRAWS - first))) / count
        for first in range(0, _DRAWS, at_once)
    ]
    return np.concatenate([((shares - expected) ** 2 / expected).sum(1) for shares in drawn])


def _evenly(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(index / (len(values) - 1), value) for index, value in enumerate(values)]


def _with_tail(known: Confidence) -> list[tuple[float, float]]:
    """Returns the deciles of the distances, and the quantile that makes pictures unfamiliar."""
    *lower, highest = _evenly(known.distances)
    return [*lower, (0.99, known.unfamiliar_above), highest]


def _step(value: float) -> float:
    """Returns the rounding step of a quantile, which calibration keeps to 4 digits."""
    return 10 ** (math.floor(math.log10(abs(value))) - 3) if value else 0.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
