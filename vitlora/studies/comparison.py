"""Turns finished runs into one row for each method, tested against the best. Pure functions."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from vitlora.metrics.intervals import macro_f1, macro_f1_interval, paired, t_quantile, wilson

_FLIPS = 100_000  # random draws of the permutation test
LEVEL = 0.05  # significance level of the whole comparison; its tests share it


@dataclass(frozen=True)
class Run:
    """One method trained and scored with one seed.

    Attributes:
        method: Name of the method, ``METHOD`` or ``METHOD@BASE``.
        seed: Seed of the training.
        labels: True class of each scored picture, ``(N,)``.
        answers: Predicted class of each picture, ``(N,)``, in the same order.
        lr: Peak learning rate.
        base: How the base was stored: a dtype, nf4, fp4, or ``trained``.
        trainable: Number of trained parameters.
        seconds: Duration of the training with its validations, without the process's start.
        host_bytes: Peak resident memory of the training process; None if it was not measured.
        device_bytes: Peak memory of tensors on the GPU in training; None without CUDA.
        milliseconds: Median time of the merged network for one prepared picture.
        bundle_bytes: Size of the bundle.
        device: The device of the training.
        precision: Lightning's name of the precision.
        seen_in_training: Number of scored pictures that are exact copies of training pictures; None
            in older records.
        parameters: Number of the base's parameters; None if they are kept in 4 bits.
        validated: Macro-F1 on the validation pictures, in ``[0, 1]``; None in older records.
    """

    method: str
    seed: int
    labels: tuple[int, ...]
    answers: tuple[int, ...]
    lr: float
    base: str
    trainable: int
    seconds: float
    host_bytes: int | None
    device_bytes: int | None
    milliseconds: float
    bundle_bytes: int
    device: str
    precision: str
    seen_in_training: int | None = None
    parameters: int | None = None
    validated: float | None = None


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, with the reason in one line."""

    method: str
    seed: int
    error: str


@dataclass(frozen=True)
class Row:
    """The runs of one method, summarised.

    Attributes:
        method: Name of the method.
        runs: One run for each seed.
        accuracy: Mean over the seeds, in ``[0, 1]``.
        accuracy_interval: 95% interval (Wilson 1927), for other pictures of the same kind.
        macro_f1: Mean over the seeds, in ``[0, 1]``.
        macro_f1_interval: 95% interval, by ``macro_f1_interval``.
        p: Probability of a difference this large from the best method if both were equally good;
            None for the best.
        clear: Whether the best method is clearly better.
        behind: 95% interval of its accuracy's distance below the best method's; None for the best.
        at_most: Upper bound of its accuracy's distance below any other method's, with 95% certainty
            for all methods together; None if there is only one method.
    """

    method: str
    runs: tuple[Run, ...]
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    p: float | None = None
    clear: bool = False
    behind: tuple[float, float] | None = None
    at_most: float | None = None

    @property
    def by_seed(self) -> list[float]:
        """The accuracy of each seed, in ``[0, 1]``."""
        return answered_right(self.runs).mean(1).tolist()

    @property
    def trainable(self) -> int:
        """Trained parameters."""
        return self.runs[0].trainable

    @property
    def seconds(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(run.seconds for run in self.runs)

    @property
    def milliseconds(self) -> float:
        """Median over the seeds."""
        return statistics.median_high(run.milliseconds for run in self.runs)

    @property
    def cost(self) -> tuple[int, float]:
        """The cost of a method: trained parameters first, then the duration of the training.

        Of several bases it is the duration alone: parameters of different bases are of different
        worth.
        """
        return 0 if "@" in self.method else self.trainable, self.seconds

    def most(self, name: str) -> int | None:
        """Returns the largest value of an attribute of the runs; None if a run lacks it."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else max(values)

    def to_json(self) -> dict[str, object]:
        """Returns everything but the answers, as JSON values."""
        runs = [asdict(run) for run in self.runs]
        for run in runs:
            del run["labels"], run["answers"]
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "runs": runs, "accuracy_by_seed": self.by_seed}


def compare(runs: Sequence[Run]) -> list[Row]:
    """Returns a row for each method, in the order of the runs, each tested against the best.

    The best method has the highest mean accuracy; among equals it is the cheapest. It is clearly
    better than another method if such a difference on the same pictures would be rare between
    equally good methods (`p_value`; the usual 5%, divided by the number of pairs) and each of its
    seeds beats every seed of the other.
    """
    names = dict.fromkeys(run.method for run in runs)
    rows = [_row(name, tuple(run for run in runs if run.method == name)) for name in names]
    if not rows:
        return []
    best = min(rows, key=lambda row: (-row.accuracy, row.cost))
    pairs = len(rows) * (len(rows) - 1) // 2  # all pairs, because the best is chosen by the data
    spread = seed_variance(rows)
    level = 1 - LEVEL / max(len(rows) - 1, 1)
    compared = []
    for row in rows:
        ends = [_below(row, other, spread, level)[1] for other in rows if other is not row]
        row_ = replace(row, at_most=max(ends, default=None))
        compared.append(row_ if row is best else _against(best, row_, pairs, spread))
    return compared


def _row(name: str, runs: tuple[Run, ...]) -> Row:
    labels, answers = np.array(runs[0].labels), np.array([run.answers for run in runs])
    accuracy = float(answered_right(runs).mean())
    return Row(
        name,
        runs,
        accuracy,
        wilson(accuracy, len(labels)),
        macro_f1(labels, answers),
        macro_f1_interval(labels, answers),
    )


def _against(best: Row, row: Row, tests: int, spread: tuple[float, int]) -> Row:
    p = p_value(answered_right(best.runs).mean(0) - answered_right(row.runs).mean(0))
    clear = p < LEVEL / tests and min(best.by_seed) > max(row.by_seed)
    return replace(row, p=p, clear=clear, behind=_below(row, best, spread, 0.975))


def seed_variance(rows: Sequence[Row]) -> tuple[float, int]:
    """Returns the variance of the accuracy between seeds, pooled over the methods, and its df.

    Both are 0 if each method was trained once: then nothing is known about other seeds.
    """
    freedom = sum(len(row.runs) - 1 for row in rows)
    squares = sum(float(np.var(row.by_seed)) * len(row.runs) for row in rows)
    return squares / max(freedom, 1), freedom


def _below(row: Row, other: Row, spread: tuple[float, int], level: float) -> tuple[float, float]:
    """Returns an interval of how far a method's accuracy is below another's.

    It covers other pictures and, if there are several seeds, other seeds: the variance of a mean
    over seeds is added, and Student's t has Welch and Satterthwaite's degrees of freedom. With one
    seed it holds for these two trained networks.

    Args:
        row: The method.
        other: The method to compare with.
        spread: As ``seed_variance`` returns it.
        level: Certainty of each end, in ``(0.5, 1)``.
    """
    mean, error = paired(answered_right(other.runs).mean(0) - answered_right(row.runs).mean(0))
    variance, freedom = spread
    seeds = variance * (1 / len(row.runs) + 1 / len(other.runs))
    total = error**2 + seeds
    equal = freedom * (total / seeds) ** 2 if seeds else math.inf
    half = t_quantile(level, equal) * math.sqrt(total)
    return max(mean - half, -1.0), min(mean + half, 1.0)


def answered_right(runs: Sequence[Run]) -> np.ndarray:
    """Returns 1 for each right answer and 0 for each wrong one, ``(seeds, N)``."""
    return np.array([np.array(run.answers) == np.array(run.labels) for run in runs], float)


def p_value(differences: np.ndarray) -> float:
    """Returns the probability of a mean difference this far from zero if both were equally good.

    This is a paired permutation test: between equally good methods, each picture's difference could
    have either sign. For one seed it is McNemar's exact test, apart from its random draws.

    Args:
        differences: One method's share of right seeds minus the other's, for each picture, in
            ``[-1, 1]``.
    """
    sizes, counts = np.unique(np.abs(differences).round(9), return_counts=True)
    signs = 2 * np.random.default_rng(0).binomial(counts, 0.5, (_FLIPS, len(counts))) - counts
    as_far = np.abs(signs @ sizes) >= abs(differences.sum()) - 1e-6
    return float((1 + as_far.sum()) / (1 + _FLIPS))
