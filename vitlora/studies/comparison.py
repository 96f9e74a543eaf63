"""Finished runs -> one row for each method, tested against the best. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vitlora.metrics.intervals import macro_f1, macro_f1_interval, paired, t_quantile, wilson

_FLIPS = 100_000  # of the test of a difference
LEVEL = 0.05  # of the whole comparison: shared by all pairs of methods, or all cheaper ones


@dataclass(frozen=True)
class Run:
    """One method trained and scored with one seed.

    Attributes:
        method: Its name.
        seed: Of the training.
        labels: True class of each picture scored, ``(N,)``.
        answers: The class the network gave, ``(N,)``, in the same order.
        lr: Peak learning rate.
        base: How the base was kept: a dtype, nf4, fp4, or ``trained``.
        trainable: Trained parameters.
        seconds: The training took, with its validations; without starting the process.
        host_bytes: Peak resident memory of the training process; None if it was not measured.
        device_bytes: Peak memory of tensors on the GPU in training; None without CUDA.
        milliseconds: The merged network takes for one prepared picture, median.
        bundle_bytes: Size of the bundle.
        device: What it ran on.
        precision: Lightning's name of it.
        seen_in_training: Pictures scored that are, byte for byte, training pictures; None in
            records that do not say.
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


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why, in one line."""

    method: str
    seed: int
    error: str


@dataclass(frozen=True)
class Row:
    """What the runs of one method say together.

    Attributes:
        method: Its name.
        runs: One for each seed.
        accuracy: Mean over the seeds, in ``[0, 1]``.
        accuracy_interval: 95% (Wilson 1927), for other pictures of the same kind.
        macro_f1: Mean over the seeds, in ``[0, 1]``.
        macro_f1_interval: 95%, as ``macro_f1_interval`` has it.
        p: Chance of a difference to the best method this large if both were equally good; None for
            the best.
        clear: Whether the best method is clearly better.
        behind: 95% interval of how far its accuracy is below the best method's; None for the best.
        at_most: How far it is below any other method at most, with 95% certainty for all methods
            together; None for a single one.
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
    def cost(self) -> tuple[int, float]:
        """What makes a method cheap: few trained parameters, then a short training."""
        return self.trainable, self.seconds

    def most(self, name: str) -> int | None:
        """Returns the largest value of an attribute of the runs; None if one has none."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else max(values)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the answers, as plain lists and numbers."""
        runs = [asdict(run) for run in self.runs]
        for run in runs:
            del run["labels"], run["answers"]
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "runs": runs, "accuracy_by_seed": self.by_seed}


def compare(runs: Sequence[Run]) -> list[Row]:
    """Returns a row for each method, in the order of the runs, each tested against the best.

    The best is the method of the highest mean accuracy; the cheapest of several. It is clearly
    better than another if that difference on the same pictures would be rare among equals
    (`p_value`; the usual 5%, divided by the number of pairs of methods) and no seed of the other
    reaches any of its own.
    """
    names = dict.fromkeys(run.method for run in runs)
    rows = [_row(name, tuple(run for run in runs if run.method == name)) for name in names]
    if not rows:
        return []
    best = min(rows, key=lambda row: (-row.accuracy, row.cost))
    pairs = len(rows) * (len(rows) - 1) // 2  # the best is known only by looking at all of them
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
    """Returns the variance of the accuracy from seed to seed, of all methods alike, and its df.

    Both are 0 where each method was trained once: then nothing is known of other trainings.
    """
    freedom = sum(len(row.runs) - 1 for row in rows)
    squares = sum(float(np.var(row.by_seed)) * len(row.runs) for row in rows)
    return squares / max(freedom, 1), freedom


def _below(row: Row, other: Row, spread: tuple[float, int], level: float) -> tuple[float, float]:
    """Returns how far a method is below another, from and to, each with a certainty of ``level``.

    What varies is the pictures, and the seeds where there are several: the variance of a mean over
    seeds is added, and Student's t has the degrees of freedom of Welch and Satterthwaite. With one
    seed the interval is about these two trained networks, on other pictures.

    Args:
        row: The one.
        other: The other.
        spread: As ``seed_variance`` returns it.
        level: In ``(0.5, 1)``.
    """
    mean, error = paired(answered_right(other.runs).mean(0) - answered_right(row.runs).mean(0))
    variance, freedom = spread
    seeds = variance * (1 / len(row.runs) + 1 / len(other.runs))
    total = error**2 + seeds
    equal = freedom * (total / seeds) ** 2 if seeds else math.inf
    half = t_quantile(level, equal) * math.sqrt(total)
    return max(mean - half, -1.0), min(mean + half, 1.0)


def answered_right(runs: Sequence[Run]) -> np.ndarray:
    """Returns whether each picture was answered rightly, ``(seeds, N)``, 0 or 1."""
    return np.array([np.array(run.answers) == np.array(run.labels) for run in runs], float)


def p_value(differences: np.ndarray) -> float:
    """Returns the chance of a mean difference this far from zero if both were equally good.

    A paired permutation test: among equals each picture's difference could as well have the other
    sign. For one seed it is McNemar's exact test, up to the chance in its draws.

    Args:
        differences: For each picture, the share of seeds that were right, one method's less the
            other's, in ``[-1, 1]``.
    """
    sizes, counts = np.unique(np.abs(differences).round(9), return_counts=True)
    signs = 2 * np.random.default_rng(0).binomial(counts, 0.5, (_FLIPS, len(counts))) - counts
    as_far = np.abs(signs @ sizes) >= abs(differences.sum()) - 1e-6
    return float((1 + as_far.sum()) / (1 + _FLIPS))
