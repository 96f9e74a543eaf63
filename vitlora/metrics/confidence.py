"""Meaningful confidence: temperature, unsure answers, unfamiliar pictures.

Reading and checking what was learnt needs no torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitlora.metrics.intervals import Interval, binomial_tail, exact_interval

if TYPE_CHECKING:
    import torch

CERTAINTY = 0.9  # probability, over the draw of the validation pictures, that a promise holds
NEVER = 2.0  # a threshold that no confidence reaches
_FIRST = 6  # the first test takes the surest sixth of the pictures
_LISTS = ("calibration_error", "confidences", "distances")
_WIDEST = math.log(100)  # largest |log T|; beyond it, the network has learnt nothing yet
_MOST_IMAGES = 10**6  # more than any validation uses
_NUMBERS = ("temperature", "unsure_below", "coverage", "error", "unfamiliar_above")


@dataclass(frozen=True)
class Confidence:
    """What the validation pictures show about a network's confidence.

    A confidence is that of the predicted class, a distance is one of ``Reference``.

    Attributes:
        temperature: The logits are divided by it before the softmax, > 0.
        unsure_below: Answers with a lower confidence are unsure, in ``[0, 1]``; with ``NEVER``,
            every answer is.
        chosen_for: The target of ``unsure_below``: ``{"max_error": 0.05, "certainty": 0.9}`` or
            ``{"coverage": 0.9}``. Bundles of vitlora 0.1 lack the certainty and promise nothing.
        coverage: Share of the validation pictures with a sure answer, in ``[0, 1]``.
        error: Share of the sure answers that were wrong, in ``[0, 1]``.
        calibration_error: Expected calibration error before and after the temperature.
        unfamiliar_above: Pictures with a larger distance are unfamiliar.
        images: Number of validation pictures.
        confidences: 11 deciles of the validation pictures' confidences, lowest first.
        distances: 11 deciles of the validation pictures' distances, lowest first.
    """

    temperature: float
    unsure_below: float
    chosen_for: dict[str, float]
    coverage: float
    error: float
    calibration_error: tuple[float, float]
    unfamiliar_above: float
    images: int
    confidences: tuple[float, ...]
    distances: tuple[float, ...]

    @property
    def sure(self) -> int:
        """Number of validation pictures with a sure answer."""
        return round(self.coverage * self.images)

    @property
    def wrong(self) -> int:
        """Number of sure answers that were wrong."""
        return round(self.error * self.sure)

    @property
    def coverage_interval(self) -> Interval:
        """95% interval of the share of sure answers on new pictures."""
        return exact_interval(self.sure, self.images)

    @property
    def error_interval(self) -> Interval:
        """95% interval of the share of wrong answers among the sure ones.

        It only holds if the threshold was chosen by coverage, not by the errors themselves.
        """
        return exact_interval(self.wrong, self.sure)

    @property
    def rule(self) -> dict[str, float]:
        """The arguments of ``Unsure`` by which the threshold was chosen."""
        names = ("max_error", "coverage")
        return {name: self.chosen_for[name] for name in names if name in self.chosen_for}

    @property
    def promised(self) -> float | None:
        """The promised share of wrong answers among the sure ones; None if there is no promise."""
        return self.chosen_for.get("max_error") if "certainty" in self.chosen_for else None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Confidence:
        """Reads the JSON of ``dataclasses.asdict``, and checks every value.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: A field is missing or wrong.
        """
        lists = {name: tuple(map(_number, fields[name])) for name in _LISTS}
        numbers = {name: _number(fields[name]) for name in _NUMBERS}
        chosen = {name: _number(value) for name, value in fields["chosen_for"].items()}
        if not all(map(math.isfinite, [*numbers.values(), *sum(lists.values(), ())])):
            raise ValueError("confidence is not finite")
        if not 1e-6 < numbers["temperature"] < 1e6 or [*map(len, lists.values())] != [2, 11, 11]:
            raise ValueError("confidence is out of range")
        shares = [numbers["coverage"], numbers["error"], *lists["calibration_error"]]
        shares += lists["confidences"]
        if numbers["unsure_below"] != NEVER:
            shares.append(numbers["unsure_below"])
        wrong = chosen.get("max_error", 0.5)
        if (
            not all(0 <= share <= 1 for share in shares)
            or not all(value >= 0 for value in (numbers["unfamiliar_above"], *lists["distances"]))
            or not all(0 < value <= 1 for value in chosen.values())
            or not 1e-15 <= wrong < 1
        ):
            raise ValueError("confidence is out of range")
        images = fields["images"]
        if not isinstance(images, int) or not 1 <= _number(images) <= _MOST_IMAGES:
            raise ValueError(f"confidence is of {ascii(images)[:40]} images")
        return cls(**{**fields, **lists, **numbers, "chosen_for": chosen})


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"confidence holds {ascii(value)[:40]}; expected a number")
    return float(value)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the most plausible temperature (Guo et al. 2017, arXiv:1706.04599).

    It minimises the cross-entropy plus two terms for what few pictures cannot show. The first is
    one more picture of unknown class: without it, N right answers, however few, would make the
    network certain of everything (the idea of Platt's targets, 1999). The second is log(T)^2 / 2, a
    log-normal prior around 1: a temperature far from 1 must improve the fit by as many nats. The
    result is at least 1 / (N + 1), because N pictures justify only so much sharpening; softening
    has no such limit, because it claims less confidence.

    Args:
        logits: ``(N, C)`` of pictures that were not trained on.
        labels: ``(N,)``.
    """
    logits = logits.double()
    right = logits.gather(1, labels[:, None]).sum() + logits.mean()

    def loss(log_temperature: float) -> float:
        sharp = logits / math.exp(log_temperature)
        levels = sharp.logsumexp(1)
        entropy = levels.sum() + levels.mean() - right / math.exp(log_temperature)
        return float(entropy) + log_temperature**2 / 2

    lowest = low = -min(math.log1p(len(logits)), _WIDEST)
    high = _WIDEST
    for points in (24, 10, 10, 10, 10, 10):  # the loss may have two minima: a grid, then finer ones
        grid = np.linspace(max(low, lowest), min(high, _WIDEST), points + 1)
        best, step = min(grid.tolist(), key=loss), grid[1] - grid[0]
        low, high = best - step, best + step
    return math.exp(best)


def first_tested(images: int, max_error: float) -> tuple[int, int]:
    """Returns how many of the surest answers are tested first, and how many of them may be wrong.

    Args:
        images: Number of validation pictures. If there are too few for any promise, the first
            number is larger.
        max_error: In ``(0, 1)``.
    """
    count = max(math.ceil(math.log(1 - CERTAINTY) / math.log1p(-max_error)), images // _FIRST)
    wrong = bisect_right(
        range(count), 1 - CERTAINTY, key=lambda hits: binomial_tail(hits + 1, count, max_error)
    )
    return count, wrong


def threshold_for_error(confidence: torch.Tensor, right: torch.Tensor, max_error: float) -> float:
    """Returns a confidence at and above which at most ``max_error`` of new answers are wrong.

    This holds with 90% probability over the draw of these pictures. The k surest answers are
    tested, for k from ``first_tested`` on, until a test fails. A test passes if so few wrong
    answers would have a chance of at most 10%, were ``max_error`` of them all wrong: the exact
    binomial tail of Geifman and El-Yaniv 2017 (arXiv:1705.08500). Tests in a fixed order need no
    correction for their number (Angelopoulos et al. 2021, Learn then Test, arXiv:2110.01052).

    A proof is needed because the threshold at the k-th place depends on the pictures. Call a level
    t bad if more than ``max_error`` of all answers surer than t are wrong. Cut the confidences at
    the ends of the intervals of bad levels. At such an end the share is exactly ``max_error`` (it
    is continuous, because a seeded shuffle breaks ties), and so it is within each piece between two
    ends. Which tested k is the first at a bad level depends only on the number of pictures in each
    piece, and on its own level. Given these, each surer answer in a whole piece is wrong with
    probability ``max_error``, and in the piece that its level cuts with a larger one. So the number
    of wrong answers is at least binomial, and its test passes with a chance of at most 10%. A bad
    level is chosen only if its test passes.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        right: ``(N,)`` bool.
        max_error: In ``(0, 1)``.

    Returns:
        ``NEVER`` if nothing can be promised.
    """
    import torch

    images = len(confidence)
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    values, order = confidence[shuffled].sort(descending=True, stable=True)
    wrong = (~right[shuffled][order]).cumsum(0).tolist()
    threshold, first = NEVER, first_tested(images, max_error)[0]
    for count in range(first, images + 1):
        if count > first and wrong[count - 1] == wrong[count - 2]:
            pass  # one more right answer: the test still passes
        elif binomial_tail(wrong[count - 1], count, max_error) > 1 - CERTAINTY:
            break
        if count == images:
            threshold = 0.0
        elif values[count] < values[count - 1]:  # equal confidences belong together
            threshold = float(values[count].nextafter(values[count - 1]))
    return threshold


def threshold_for_coverage(confidence: torch.Tensor, coverage: float) -> float:
    """Returns the highest confidence that at least a share ``coverage`` of the answers reaches.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        coverage: In ``(0, 1]``.
    """
    count = max(math.ceil(coverage * len(confidence) - 1e-9), 1)
    return float(confidence.sort(descending=True).values[count - 1])
