"""What was forgotten, against scipy's tests and intervals that are simulated."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from vitlora.evaluation.forgetting import Forgetting


def of_counts(both: int, lost: int, gained: int, neither: int) -> Forgetting:
    """Returns answers with so many pictures of each kind, all of class 0."""
    before = [0] * (both + lost) + [1] * (gained + neither)
    after = [0] * both + [1] * lost + [0] * gained + [1] * neither
    labels = torch.zeros(len(before), dtype=torch.long)
    return Forgetting(("x", "y"), labels, torch.tensor(before), torch.tensor(after))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (6, 0), (9, 2), (200, 150)])
def test_the_p_value_is_that_of_the_exact_sign_test(lost: int, gained: int) -> None:
    forgetting = of_counts(10, lost, gained, 3)
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert forgetting.p_value == pytest.approx(expected, rel=1e-9)
    assert (forgetting.lost, forgetting.gained) == (lost, gained)
    assert forgetting.accuracies == pytest.approx(
        ((10 + lost) / len(forgetting.labels), (10 + gained) / len(forgetting.labels))
    )


@pytest.mark.parametrize(
    ("shares", "pictures"),
    [((0.8, 0.1, 0.05, 0.05), 60), ((0.6, 0.2, 0.05, 0.15), 200), ((0.86, 0.06, 0.04, 0.04), 120)],
)
def test_the_interval_holds_the_true_change_in_95_of_100_draws(
    shares: tuple[float, ...], pictures: int
) -> None:
    torch.manual_seed(0)
    truth, hits, draws = shares[2] - shares[1], 0, 400
    for _ in range(draws):
        counts = torch.multinomial(torch.tensor(shares), pictures, replacement=True)
        low, high = of_counts(*torch.bincount(counts, minlength=4).tolist()).interval
        hits += low <= truth <= high
    assert 0.93 <= hits / draws <= 0.995


def test_an_old_picture_answered_with_a_new_class_is_wrong() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1])
    after = torch.tensor([0, 2, 2, 1, 1])
    forgetting = Forgetting(("x", "y"), labels, labels, after)
    assert (forgetting.lost, forgetting.gained) == (2, 0)
    assert forgetting.worst() == [("x", 2, 1.0, 0.5), ("y", 3, 1.0, pytest.approx(2 / 3))]


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((50, 2, 1, 5), "no significant change on the old pictures"),
        ((50, 9, 1, 5), "worse on the old pictures: 8 fewer are right; add old pictures to --data"),
        ((50, 1, 9, 5), "better on the old pictures: 8 more are right"),
    ],
)
def test_the_verdict_goes_by_chance(counts: tuple[int, ...], verdict: str) -> None:
    text = of_counts(*counts).to_text("the old test set")
    assert verdict in text
    assert text.isascii()
    assert ("lost most: x" in text) == (counts[1] > counts[2])
