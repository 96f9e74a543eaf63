"""How sure a number is that was measured on a few hundred pictures. Without torch."""

import math

import numpy as np

_RESAMPLES = 1000

Interval = tuple[float, float]


def wilson(share: float, count: int) -> Interval:
    """Returns the 95% interval of a share (Wilson 1927), within ``[0, 1]``.

    Unlike the bootstrap's it is right at the ends, too: 60 right of 60 may be 0.94 in truth.

    Args:
        share: Of the pictures, in ``[0, 1]``.
        count: Pictures, at least 1.
    """
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    root = math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half = z / (1 + z * z / count) * root
    return max(middle - half, 0.0), min(middle + half, 1.0)


def macro_f1(labels: np.ndarray, answers: np.ndarray) -> float:
    """Returns the macro-F1, mean over the seeds.

    Args:
        labels: True classes, ``(N,)``, at least one.
        answers: Answers of each seed, ``(seeds, N)``.
    """
    ones = np.ones(len(labels))
    return float(np.mean([_macro_f1(labels, answer, ones) for answer in answers]))


def macro_f1_interval(labels: np.ndarray, answers: np.ndarray) -> Interval:
    """Returns the 95% percentile bootstrap interval of the macro-F1, mean over the seeds.

    Drawing N pictures with replacement draws the counts of equal pictures, those of one class with
    the same answers, from a multinomial. Where all are right, or all wrong, every resample is the
    same: the accuracy's interval stands in.

    Args:
        labels: True classes, ``(N,)``, at least one.
        answers: Answers of each seed, ``(seeds, N)``.
    """
    (true, *seeds), counts = np.unique(np.vstack([labels, answers]), axis=1, return_counts=True)

    def mean(counts: np.ndarray) -> float:
        return float(np.mean([_macro_f1(true, answer, counts) for answer in seeds]))

    accuracy = float((answers == labels).mean())
    if accuracy in (0, 1):
        return wilson(accuracy, len(labels))
    rng = np.random.default_rng(0)
    shares = counts / len(labels)
    values = [mean(rng.multinomial(len(labels), shares)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _macro_f1(true: np.ndarray, answer: np.ndarray, counts: np.ndarray) -> float:
    """Returns the macro-F1 of kinds of pictures; classes that do not occur are left out.

    Args:
        true: Class of each kind, ``(K,)``.
        answer: The answer to it, ``(K,)``.
        counts: Pictures of it, ``(K,)``.
    """
    classes = int(max(true.max(), answer.max())) + 1
    hits = np.bincount(true, counts * (true == answer), classes)
    seen = np.bincount(true, counts, classes) + np.bincount(answer, counts, classes)
    present = seen > 0
    return float((2 * hits[present] / seen[present]).mean())
