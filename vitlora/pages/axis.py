"""The axes of charts in pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        ticks: Two to seven round numbers, from one end of the axis to the other.
    """

    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Returns the position of a value, 0 at the start of the axis and 1 at its end."""
        low, high = self.ticks[0], self.ticks[-1]
        return (value - low) / (high - low)


def axis(values: Sequence[float], least: float = 0.0) -> Axis:
    """Returns an axis for the values, with steps of 1, 2 or 5 times a power of ten.

    Args:
        values: At least one.
        least: Smallest step; 1 for whole numbers.
    """
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * n for n in (1, 2, 5, 10) if span / (power * n) <= 5.001)
    step = max(step, least)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return Axis(tuple(round(step * n, 12) for n in range(first, last + 1)))
