"""A confidence that means something: temperature, when an answer is unsure, what is unfamiliar."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitlora.metrics.intervals import Interval, binomial_tail, exact_interval

CERTAINTY = 0.9  # of a promised share of wrong answers, over the draw of the validation pictures
NEVER = 2.0  # no confidence reaches it
_FIRST = 6  # the surest one in so many pictures are tested first
_LISTS = ("calibration_error", "confidences", "distances")
_WIDEST = math.log(100)  # of log T; outside, the network has learnt nothing yet
_MOST_IMAGES = 10**6  # validation looks at fewer
_NUMBERS = ("temperature", "unsure_below", "coverage", "error", "unfamiliar_above")


@dataclass(frozen=True)
class Confidence:
    """What validation after training taught about a network's own confidence.

    A distance is that of ``Reference``, a confidence that of the class named.

    Attributes:
        temperature: The logits are divided by it before the softmax, > 0.
        unsure_below: Answers of a lower confidence are unsure, in ``[0, 1]``; ``NEVER`` marks all.
        chosen_for: What that was chosen for: ``{"max_error": 0.05, "certainty": 0.9}`` or
            ``{"coverage": 0.9}``. Bundles of vitlora 0.1 lack the certainty: they promise nothing.
        coverage: Share of the validation pictures that were answered so, in ``[0, 1]``.
        error: Share of those that were answered wrongly, in ``[0, 1]``.
        calibration_error: Expected calibration error before and after the temperature.
        unfamiliar_above: Pictures farther from the training pictures are unfamiliar.
        images: Validation pictures all this was learnt from.
        confidences: Deciles of validation's confidences, from the lowest to the highest: 11.
        distances: Deciles of validation's distances to the training pictures: 11.
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
        """How many validation pictures were answered for sure."""
        return round(self.coverage * self.images)

    @property
    def wrong(self) -> int:
        """How many of those were answered wrongly."""
        return round(self.error * self.sure)

    @property
    def coverage_interval(self) -> Interval:
        """95% interval of the share of new pictures that will be answered for sure."""
        return exact_interval(self.sure, self.images)

    @property
    def error_interval(self) -> Interval:
        """95% interval of the share of wrong answers among those; for a chosen coverage only.

        Where the threshold was chosen by the errors themselves it does not hold.
        """
        return exact_interval(self.wrong, self.sure)

    @property
    def rule(self) -> dict[str, float]:
        """The arguments of ``Unsure`` by which the threshold was chosen."""
        names = ("max_error", "coverage")
        return {name: self.chosen_for[name] for name in names if name in self.chosen_for}

    @property
    def promised(self) -> float | None:
        """The share of wrong answers among the sure ones that is promised; None where none is."""
        return self.chosen_for.get("max_error") if "certainty" in self.chosen_for else None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Confidence":
        """Reads what ``dataclasses.asdict`` and JSON made of it."""
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


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"confidence holds {ascii(value)[:40]}; expected a number")
    return float(value)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the most plausible temperature (Guo et al. 2017, arXiv:1706.04599).

    That of the least cross-entropy, with what few pictures cannot say filled in twice. One picture
    of unknown class is added to the N: without it, N right answers, however few, would make the
    network certain of everything (the idea of Platt's targets, 1999). And log(T)^2 / 2 is added, as
    if the temperatures of networks were log-normal around 1: pictures must speak for a temperature
    far from 1, on either side, with as many nats. It is at least 1 / (N + 1): to sharpen claims
    confidence, and N pictures of a network that hardly tells classes apart support little of it.
    To soften claims none.

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
    for points in (24, 10, 10, 10, 10, 10):  # it may have two valleys: a grid, then finer ones
        grid = np.linspace(max(low, lowest), min(high, _WIDEST), points + 1)
        best, step = min(grid.tolist(), key=loss), grid[1] - grid[0]
        low, high = best - step, best + step
    return math.exp(best)


def first_tested(images: int, max_error: float) -> tuple[int, int]:
    """Returns how many of the surest answers are tested first, and how many may be wrong.

    Args:
        images: Validation pictures; of too few, even all right promise nothing, and the first of
            the two is more than there are.
        max_error: In ``(0, 1)``.
    """
    count = max(math.ceil(math.log(1 - CERTAINTY) / math.log1p(-max_error)), images // _FIRST)
    wrong = bisect_right(
        range(count), 1 - CERTAINTY, key=lambda hits: binomial_tail(hits + 1, count, max_error)
    )
    return count, wrong


def threshold_for_error(confidence: torch.Tensor, right: torch.Tensor, max_error: float) -> float:
    """Returns a confidence at and above which at most ``max_error`` of new answers are wrong.

    That holds with 90% probability over the draw of these pictures. The k surest answers are
    tested, for k from ``first_tested`` on, until a test fails: k answers pass if so few wrong ones
    among them had a chance of at most 10% were ``max_error`` of all such answers wrong, the exact
    binomial tail of Geifman and El-Yaniv 2017 (arXiv:1705.08500). Tests in a fixed order need no
    correction for their number (Angelopoulos et al. 2021, Learn then Test, arXiv:2110.01052).

    Proof, for the threshold at the k-th place moves with the pictures: call a level t bad if more
    than ``max_error`` of all answers surer than t are wrong. Cut the confidences at the ends of the
    intervals of bad levels. At such an end the share is ``max_error`` exactly (ties are broken by a
    seeded shuffle, so it is continuous), and so it is within each piece between two ends. Which
    tested k is the first at a bad level depends only on how many pictures lie in each piece, and
    on its own level. Given these, each surer answer in a whole piece is wrong with probability
    ``max_error``, and in the piece cut at its level with more. So the number of wrong ones is
    at least binomial, and its test passes with a chance of at most 10%. A bad level is chosen only
    if it passes.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        right: ``(N,)`` bool.
        max_error: In ``(0, 1)``.

    Returns:
        ``NEVER`` if nothing can be promised.
    """
    images = len(confidence)
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    values, order = confidence[shuffled].sort(descending=True, stable=True)
    wrong = (~right[shuffled][order]).cumsum(0).tolist()
    threshold, first = NEVER, first_tested(images, max_error)[0]
    for count in range(first, images + 1):
        if count > first and wrong[count - 1] == wrong[count - 2]:
            pass  # one more right answer: what passed still passes
        elif binomial_tail(wrong[count - 1], count, max_error) > 1 - CERTAINTY:
            break
        if count == images:
            threshold = 0.0
        elif values[count] < values[count - 1]:  # equal confidences stand or fall together
            threshold = float(values[count].nextafter(values[count - 1]))
    return threshold


def threshold_for_coverage(confidence: torch.Tensor, coverage: float) -> float:
    """Returns the highest confidence that at least a share of the answers reaches.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        coverage: In ``(0, 1]``.
    """
    count = max(math.ceil(coverage * len(confidence) - 1e-9), 1)
    return float(confidence.sort(descending=True).values[count - 1])
