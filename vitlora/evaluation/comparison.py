"""Finished runs -> one row for each method, a table, and one sentence of advice. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vitlora.intervals import macro_f1, macro_f1_interval, wilson

_FLIPS = 100_000  # of the test of a difference
_LEVEL = 0.05  # of the whole comparison: shared by all pairs of methods


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
        macro_f1_interval: 95%, percentile bootstrap over the pictures.
        p: Chance of a difference to the best method this large if both were equally good; None for
            the best.
        clear: Whether the best method is clearly better.
    """

    method: str
    runs: tuple[Run, ...]
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    p: float | None = None
    clear: bool = False

    @property
    def by_seed(self) -> list[float]:
        """The accuracy of each seed, in ``[0, 1]``."""
        return _right(self.runs).mean(1).tolist()

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
    return [row if row is best else _against(best, row, pairs) for row in rows]


def _row(name: str, runs: tuple[Run, ...]) -> Row:
    labels, answers = np.array(runs[0].labels), np.array([run.answers for run in runs])
    accuracy = float(_right(runs).mean())
    return Row(
        name,
        runs,
        accuracy,
        wilson(accuracy, len(labels)),
        macro_f1(labels, answers),
        macro_f1_interval(labels, answers),
    )


def _against(best: Row, row: Row, tests: int) -> Row:
    p = p_value(_right(best.runs).mean(0) - _right(row.runs).mean(0))
    clear = p < _LEVEL / tests and min(best.by_seed) > max(row.by_seed)
    return replace(row, p=p, clear=clear)


def _right(runs: Sequence[Run]) -> np.ndarray:
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


def advise(rows: Sequence[Row], split: str) -> str:
    """Returns one sentence: which method to take, and how sure that is.

    Args:
        rows: As ``compare`` returns them.
        split: That was scored.
    """
    if not rows:
        return "No run finished, so there is nothing to advise."
    seeds = sorted({len(row.runs) for row in rows})
    count = " to ".join(map(str, seeds))
    on = f"{len(rows[0].runs[0].labels)} {split} pictures and {count} seed{'s' * (seeds != [1])}"
    best = next(row for row in rows if row.p is None)
    if len(rows) == 1:
        return f"Only {best.method} finished ({_said(best)} on {on}): nothing to compare it with."
    equals = [row for row in rows if not row.clear]
    worse = [row for row in rows if row.clear]
    take = min(equals, key=lambda row: row.cost)
    rest = f"; clearly worse: {_listed(worse)}" if worse else ""
    if len(equals) == 1:
        return f"Take {best.method}: {_said(best)} on {on} is clearly the best{rest}."
    others = _listed([row for row in equals if row is not take])
    return (
        f"Take {take.method} ({_said(take)}): it is the cheapest of those that {on} do not "
        f"tell apart, which are it and {others}{rest}."
    )


def _said(row: Row) -> str:
    return f"accuracy {row.accuracy:.3f}"


def _listed(rows: Sequence[Row]) -> str:
    *first, last = [f"{row.method} ({row.accuracy:.3f})" for row in rows]
    return f"{', '.join(first)} and {last}" if first else last
