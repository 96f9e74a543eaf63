"""Intervals against scipy, the textbooks and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vitlora.metrics.intervals import (
    binomial_tail,
    exact_interval,
    macro_f1,
    macro_f1_interval,
    paired,
    t_quantile,
)


@pytest.mark.parametrize(
    ("hits", "count", "share"),
    [(0, 45, 0.05), (3, 60, 0.05), (250, 5000, 0.05), (7, 7, 0.2), (2, 9, 0.0), (2, 9, 1.0)],
)
def test_the_binomial_tail_is_scipys(hits: int, count: int, share: float) -> None:
    expected = stats.binom.cdf(hits, count, share)
    assert binomial_tail(hits, count, share) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (0, 7), (7, 7), (1, 45), (310, 328)])
def test_the_exact_interval_is_clopper_and_pearsons(hits: int, count: int) -> None:
    if count:
        known = stats.binomtest(hits, count).proportion_ci(method="exact")
        expected = known.low, known.high
    else:
        expected = 0.0, 1.0
    assert exact_interval(hits, count) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 12, 250, 9999, 1e9])
@pytest.mark.parametrize("level", [0.9, 0.975, 0.99])
def test_the_t_quantile_is_scipys(level: float, freedom: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf(level, freedom), rel=1e-3)


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.1, 0.05), (0.0, 0.05)])
@pytest.mark.parametrize("count", [40, 200])
def test_a_paired_difference_is_held_in_95_of_100_draws(
    shares: tuple[float, float], count: int
) -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(count, [*shares, 1 - sum(shares)], 2000)
    hits = 0
    for better, worse, same in draws:
        differences = np.repeat([1.0, -1.0, 0.0], [better, worse, same])
        mean, error = paired(differences)
        hits += abs(mean - (shares[0] - shares[1])) <= 1.96 * error
    assert hits / 2000 >= 0.94


def shape(name: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns pictures drawn, shares of the classes, and the chance of each answer, ``(C, C)``."""
    tail = 1 / np.arange(1, 31) ** 1.2
    count, shares, right = {
        "balanced": (60, np.full(5, 0.2), [0.9, 0.8, 0.85, 0.95, 0.7]),
        "large": (431, np.full(5, 0.2), [0.9, 0.8, 0.85, 0.95, 0.7]),
        "rare": (100, np.array([0.98, 0.02]), [0.98, 0.7]),
        "lazy": (100, np.array([0.98, 0.02]), [1, 0]),
        "long tail": (500, tail / tail.sum(), np.linspace(0.95, 0.5, 30)),
        "perfect": (60, np.full(5, 0.2), [1] * 5),
        "nearly perfect": (60, np.full(5, 0.2), [0.98] * 5),
        "two of each": (120, np.full(60, 1 / 60), [0.9] * 60),
        "never answered": (100, np.full(5, 0.2), [0.9, 0.9, 0.9, 0.8, 0]),
    }[name]
    classes = len(shares)
    chances = np.zeros((classes, classes))
    for label, chance in enumerate(right):
        others = np.delete(np.arange(classes), [label, *([4] if name == "never answered" else [])])
        if len(others):
            chances[label, others] = (1 - chance) * shares[others] / shares[others].sum()
        chances[label, label] = chance
    return count, shares, chances


@pytest.mark.parametrize(
    "name",
    [
        "balanced",
        "large",
        "rare",
        "lazy",
        "long tail",
        "perfect",
        "nearly perfect",
        "two of each",
        "never answered",
    ],
)
def test_macro_f1s_interval_holds_the_truth_in_95_of_100_draws(name: str) -> None:
    count, shares, chances = shape(name)
    classes = len(shares)
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        labels = rng.choice(classes, count, p=shares)
        answers = (rng.random((count, 1)) > chances.cumsum(1)[labels]).sum(1).clip(0, classes - 1)
        low, high = macro_f1_interval(labels, answers[None])
        assert 0 <= low <= macro_f1(labels, answers[None]) <= high + 1e-12
        occurs = np.isin(np.arange(classes), [*labels, *answers])
        assert high <= (np.isin(np.unique(answers), labels)).sum() / occurs.sum() + 1e-12
        n = np.bincount(labels, minlength=classes)
        truth = 2 * n * chances.diagonal() / np.maximum(n + n @ chances, 1e-12)
        held += low - 1e-9 <= truth[occurs].mean() <= high + 1e-9
    assert held / 300 >= 0.94


def test_a_class_that_is_never_answered_counts_nothing() -> None:
    labels = np.repeat([0, 1], [98, 2])
    low, high = macro_f1_interval(labels, np.zeros((1, 100), int))
    assert macro_f1(labels, np.zeros((1, 100), int)) == pytest.approx(98 / 198)
    assert 0.47 < low < 98 / 198 < high <= 0.5


def test_the_interval_narrows_as_pictures_are_added() -> None:
    labels = np.arange(500) % 5
    answers = np.where(np.arange(500) % 7 == 0, (labels + 1) % 5, labels)[None]
    widths = [
        np.diff(macro_f1_interval(np.tile(labels, n), np.tile(answers, n)))[0] for n in (1, 4)
    ]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.1)
    assert 0.04 < widths[0] < 0.09
