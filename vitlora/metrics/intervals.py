"""How uncertain a number is that was measured on a few hundred pictures. Needs no torch."""

import math
from statistics import NormalDist

import numpy as np

_STEPS = 20_001  # points of a numerical integral

Interval = tuple[float, float]


def wilson(share: float, count: int) -> Interval:
    """Returns the 95% interval of a share (Wilson 1927), within ``[0, 1]``.

    Unlike the bootstrap's interval, it is also right near 0 and 1: with 60 of 60 right, the true
    share may be 0.94.

    Args:
        share: The measured share, in ``[0, 1]``.
        count: Number of pictures, at least 1.
    """
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    root = math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half = z / (1 + z * z / count) * root
    return max(middle - half, 0.0), min(middle + half, 1.0)


def binomial_tail(hits: int, count: int, share: float) -> float:
    """Returns the probability of at most ``hits`` hits in ``count`` draws, in ``[0, 1]``.

    Args:
        hits: At least 0.
        count: Number of draws, at least ``hits``.
        share: Probability of a hit in one draw, in ``[0, 1]``.
    """
    if hits >= count or share == 0:
        return 1.0
    if share == 1:
        return 0.0
    k = np.arange(1, hits + 1)
    ratios = np.log((count - k + 1) / k) + math.log(share) - math.log1p(-share)
    logs = count * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(ratios)])
    return min(float(np.exp(logs).sum()), 1.0)


def exact_interval(hits: int, count: int) -> Interval:
    """Returns the 95% interval of a share that holds for any count (Clopper and Pearson 1934).

    Args:
        hits: At least 0.
        count: Number of draws, at least ``hits``; the interval for 0 draws is ``(0, 1)``.
    """

    def end(hits: int, chance: float) -> float:
        """Returns the share at which at most ``hits`` hits have the probability ``chance``."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            more = binomial_tail(hits, count, middle) > chance
            low, high = (middle, high) if more else (low, middle)
        return (low + high) / 2

    return end(hits - 1, 0.975) if hits else 0.0, end(hits, 0.025) if hits < count else 1.0


def paired(differences: np.ndarray) -> tuple[float, float]:
    """Returns a mean difference on the same pictures and its standard error.

    Bonett and Price 2012 (doi:10.3102/1076998611411915) add two pictures, one for each side, so
    that few or no differences do not look like certainty.

    Args:
        differences: One side's share of right answers minus the other's, for each picture, ``(N,)``
            in ``[-1, 1]``.
    """
    count = len(differences) + 2
    mean = float(differences.sum()) / count
    variance = (float((differences**2).sum()) + 2) / count - mean**2
    return mean, math.sqrt(variance / count)


def t_quantile(level: float, freedom: float) -> float:
    """Returns the quantile of Student's t distribution.

    With x = sqrt(freedom) * tan(angle), the density is proportional to cos(angle) ** (freedom - 1).

    Args:
        level: In ``(0.5, 1)``.
        freedom: Degrees of freedom, at least 1.
    """
    if freedom > 10_000:
        return NormalDist().inv_cdf(level)
    angles = np.linspace(0, math.pi / 2, _STEPS)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = float(np.interp(2 * level - 1, mass / mass[-1], angles))
    return math.sqrt(freedom) * math.tan(angle)


def macro_f1(labels: np.ndarray, answers: np.ndarray) -> float:
    """Returns the macro-F1, averaged over the seeds; classes that never occur are left out.

    Args:
        labels: True classes, ``(N,)``, at least one.
        answers: Answers of each seed, ``(seeds, N)``.
    """
    f1s = []
    for answer in answers:
        labelled, answered, hits = _by_class(labels, answer)
        f1s.append((2 * hits / (labelled + answered)).mean())
    return float(np.mean(f1s))


def macro_f1_interval(labels: np.ndarray, answers: np.ndarray) -> Interval:
    """Returns the 95% interval of the macro-F1, averaged over the seeds, for similar pictures.

    The F1 of a class is 2q / (1 + q), where q is the share of hits among the pictures that have the
    class or were given it; so Wilson's interval of q gives that of F1. The intervals of the classes
    are combined as in Zou and Donner 2008 (doi:10.1002/sim.2953), each with the wider of its sides.
    A mistake counts in two classes, which at most doubles the variance of their sum, since
    (a + b)^2 <= 2a^2 + 2b^2.

    Only the classes that occur here count. A class that was never predicted counts 0, so the upper
    end is what the other classes can reach. The measured coverage is in
    benchmarks/results/macro_f1.jsonl.

    Args:
        labels: True classes, ``(N,)``, at least one.
        answers: Answers of each seed, ``(seeds, N)``.
    """
    ends = np.array([_macro_f1_ends(*_by_class(labels, answer)) for answer in answers])
    low, high = ends.mean(0)
    return float(low), float(high)


def _macro_f1_ends(labelled: np.ndarray, answered: np.ndarray, hits: np.ndarray) -> Interval:
    """Returns the interval of one seed from the counts of each class, ``(C,)``."""
    f1 = 2 * hits / (labelled + answered)
    unions = labelled + answered - hits
    shares = np.array([wilson(h / n, n) for h, n in zip(hits, unions, strict=True)])
    low, high = (2 * shares / (1 + shares)).T
    sides = 2 * np.maximum(f1 - low, high - f1) ** 2
    below, above = (math.sqrt(sides[some].sum()) / len(f1) for some in (hits > 0, labelled > 0))
    best = float(((labelled > 0) & (answered > 0)).mean())
    return max(f1.mean() - below, 0.0), min(f1.mean() + above, best)


def _by_class(labels: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, for each class that occurs, the pictures that have it, were given it, and both."""
    classes = int(max(labels.max(), answer.max())) + 1
    right = labels[labels == answer]
    labelled, answered, hits = (np.bincount(x, minlength=classes) for x in (labels, answer, right))
    occurs = labelled + answered > 0
    return labelled[occurs], answered[occurs], hits[occurs]
