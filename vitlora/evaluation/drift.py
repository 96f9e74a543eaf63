"""Whether new photos, which nobody has labelled, are like the training data, and in what not."""

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

LEVEL = 0.05  # how often photos of the same source are called changed
FEW = 30  # pictures; with fewer only a very large change shows
_DRAWS = 4999
_STEPS = 10  # of a decile's rounding: one that lies closer to the next than these says too little


@dataclass(frozen=True)
class Shift:
    """One thing in which new photos may differ from the training data.

    Attributes:
        name: ``class mix``, ``confidence`` or ``distance``.
        parts: The B classes, or ranges of values from the lowest to the highest.
        expected: The share of each part in the training data, ``(B,)``, sum 1.
        observed: Its share in the new photos.
        moved: Share of the photos that would have to lie in other parts for both to agree: the
            total variation distance, in ``[0, 1]``.
        psi: Population stability index, >= 0.
        p: Chance of such a difference where there is none, times the number of things compared
            (Bonferroni), in ``(0, 1]``.
        medians: Of validation's values and the new photos'; None for classes.
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
        """``none`` where chance may have done it, else ``little``, ``some`` or ``much``.

        By the field's rule of thumb for the index, 0.1 and 0.25 (Siddiqi 2006, Credit Risk
        Scorecards).
        """
        if self.p >= LEVEL:
            return "none"
        return "little" if self.psi < 0.1 else "some" if self.psi < 0.25 else "much"

    @property
    def rose(self) -> bool:
        """Whether the new photos lie in higher parts, on the whole."""
        ranks = np.arange(len(self.parts))
        return bool(ranks @ np.subtract(self.observed, self.expected) > 0)


@dataclass(frozen=True)
class Photo:
    """A new photo as the network sees it.

    Attributes:
        path: The file.
        label: The most likely class.
        confidence: Its probability, after the temperature, in ``[0, 1]``.
        distance: To the training pictures, as ``Reference`` measures it, >= 0.
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
    """What a comparison found.

    Attributes:
        photos: The new ones that could be read, the least familiar first.
        validation: How many validation pictures they were compared with.
        shifts: What was compared.
        left_out: What could not be compared, and why.
        unsure: Share of unsure answers on validation and here, in ``[0, 1]``.
        unfamiliar: Share of unfamiliar pictures to be expected and here, in ``[0, 1]``.
    """

    photos: tuple[Photo, ...]
    validation: int
    shifts: tuple[Shift, ...]
    left_out: dict[str, str]
    unsure: tuple[float, float]
    unfamiliar: tuple[float, float]

    @property
    def changed(self) -> tuple[Shift, ...]:
        """What differs by more than chance explains, the largest first."""
        found = [shift for shift in self.shifts if shift.size != "none"]
        return tuple(sorted(found, key=lambda shift: -shift.psi))


def compare(answers: Answers, record: Record, known: Confidence, reference: Reference) -> Drift:
    """Returns in what new photos differ from the training data.

    Args:
        answers: To the new photos; their labels are ignored.
        record: Of the bundle whose network answered.
        known: What its validation pictures taught.
        reference: Where its training pictures lie.
    """
    judged = Judge(record.classes, known, reference).judge(answers.features, answers.logits)
    probabilities, confidence = judged.probabilities, judged.confidence.numpy()
    distances = judged.distances
    shifts = [
        deciles("confidence", confidence, _evenly(known.confidences), known.images),
        deciles("distance", distances.numpy(), _with_tail(known), known.images),
    ]
    left_out = {s.name: "validation's are all alike" for s in shifts if len(s.parts) == 1}
    counts = record.split["counts"].get("train")
    if counts:
        off = known.calibration_error[1]
        shifts.insert(0, class_mix(probabilities.numpy(), counts, record.classes, off))
    else:
        left_out["class mix"] = "this bundle does not know how often each class was trained on"
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
    """Returns how the classes are mixed, against training's.

    A photo counts for each class by its probability: if these are calibrated, the mean is right
    where counting the likeliest class is not. Calibration is right to ``off`` only: so much of what
    moved may be the network's fault, and is not held against the photos.

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
    """Returns how many values lie between the quantiles of validation's.

    Quantiles of few pictures are themselves uncertain: the true share between two of them has a
    Dirichlet distribution (Wilks 1962, Mathematical Statistics), whatever is measured.

    Args:
        name: What is measured.
        values: Of the new photos, ``(N,)``.
        quantiles: Level and value, from the lowest at level 0 to the highest at level 1.
        images: Validation pictures.
    """
    kept = [
        quantiles[i]
        for i in range(1, len(quantiles) - 1)
        if min(np.diff([value for _, value in quantiles[i - 1 : i + 2]]))
        >= _STEPS * _step(quantiles[i][1])
    ]
    lowest, second = quantiles[0], quantiles[1]
    if not kept and second[1] - lowest[1] >= _STEPS * _step(second[1]):
        kept = [lowest]  # a network sure of nearly all: who is less sure than it ever was?
    edges = [value for _, value in kept]
    weights = (images - 1) * np.diff([0.0, *(level for level, _ in kept), 1.0])
    weights[0] += 1  # below the lowest and above the highest of validation there is room, too
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
    """Returns observed shares of ``count`` photos against a Dirichlet's; ``p`` is of one test."""
    expected = weights / weights.sum()
    gap = shares - expected
    moved = float(np.abs(gap).sum() / 2)
    held_against = gap * max(1 - off / moved, 0.0) if moved else gap
    statistic = float((held_against**2 / expected).sum())
    by_chance = int((_by_chance(weights, count) >= statistic * (1 - 1e-9)).sum())
    smoothed = (shares * count + 0.5) / (count + 0.5 * len(shares))  # an empty part is finite, too
    psi = float(((smoothed - expected) * np.log(smoothed / expected)).sum())
    p = (by_chance + 1) / (_DRAWS + 1)
    return Shift(name, parts, tuple(expected.tolist()), tuple(shares.tolist()), moved, psi, p)


def _by_chance(weights: np.ndarray, count: int) -> np.ndarray:
    """Returns chi-square over N of photos of the same source, drawn with a seed, ``(_DRAWS,)``.

    Both samples vary: the shares as the reference's pictures leave them open, then the photos.
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
    """Returns the distances' deciles and the quantile above which pictures are unfamiliar."""
    *lower, highest = _evenly(known.distances)
    return [*lower, (0.99, known.unfamiliar_above), highest]


def _step(value: float) -> float:
    """Returns one of the last of the 4 digits to which calibration rounds a quantile."""
    return 10 ** (math.floor(math.log10(abs(value))) - 3) if value else 0.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
