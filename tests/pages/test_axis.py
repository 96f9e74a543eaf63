from __future__ import annotations

import pytest

from vitlora.pages.axis import axis


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 1], (0, 0.2, 0.4, 0.6, 0.8, 1)),
        ([0, 4], (0, 1, 2, 3, 4)),
        ([0, 37], (0, 10, 20, 30, 40)),
        ([0.48, 0.79], (0.4, 0.5, 0.6, 0.7, 0.8)),
        ([0, 0.0123], (0, 0.005, 0.01, 0.015)),
    ],
)
def test_axis_holds_its_values_with_round_steps(
    values: list[float], ticks: tuple[float, ...]
) -> None:
    assert axis(values).ticks == pytest.approx(ticks)
    assert axis(values).at(ticks[0]) == 0
    assert axis(values).at(ticks[-1]) == 1


def test_axis_of_whole_numbers_has_whole_steps() -> None:
    assert axis([0, 2], 1).ticks == (0, 1, 2)
    assert axis([0, 1], 1).ticks == (0, 1)


@pytest.mark.parametrize("value", [0.0, 1.0, 3.2, -0.5, 1e-6, 1e6])
def test_axis_of_one_value_has_a_length(value: float) -> None:
    ticks = axis([value, value]).ticks
    assert ticks[0] <= value <= ticks[-1]
    assert 2 <= len(ticks) <= 7
    assert ticks[0] < ticks[-1]
    assert 0 <= axis([value]).at(value) <= 1
