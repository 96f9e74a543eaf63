"""The numbers a report draws, against counting by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from vitlora.evaluation.report import (
    learning_curves,
    least_sure,
    risk_coverage,
    shown_in_cells,
    worst,
)


def test_risk_is_the_share_of_wrong_answers_among_the_surest() -> None:
    confidence = torch.tensor([0.5, 0.9, 0.8, 0.6])
    right = torch.tensor([False, True, False, True])
    expected = [(0.25, 0.0), (0.5, 0.5), (0.75, 1 / 3), (1.0, 0.5)]
    assert risk_coverage(confidence, right) == [pytest.approx(point) for point in expected]


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    right = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) > 0.3
    curve = risk_coverage(torch.linspace(0, 1, 10_000), right)
    assert len(curve) <= 200
    assert curve[-1] == pytest.approx((1.0, 1 - float(right.float().mean())))


def test_learning_curves_are_those_of_the_epochs(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(
        "epoch,step,train/loss_step,train/loss_epoch,val/acc\n0,9,9.5,,\n0,10,,,0.25\n"
        "0,10,,1.5,\n1,20,,,0.75\n1,20,,1.25,\n"
    )
    curves = {curve.name: curve.points for curve in learning_curves(file)}
    assert curves == {"train/loss": ((1, 1.5), (2, 1.25)), "val/acc": ((1, 0.25), (2, 0.75))}


@pytest.mark.parametrize("text", ["", "no log", "epoch,val/acc\nx,0.5\n", "val/acc\n0.5\n", "\0"])
def test_a_file_that_is_no_log_gives_no_curves(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert learning_curves(tmp_path / "metrics.csv") == []
    assert learning_curves(tmp_path / "none.csv") == []


def test_mistakes_get_their_pictures_before_right_answers() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (300,), generator=rng).tolist()
    predicted = torch.randint(4, (300,), generator=rng).tolist()
    confidence = torch.rand(300, generator=rng).tolist()
    full = Counter(zip(labels, predicted, strict=True))
    wrong = sum(count for (true, guess), count in full.items() if true != guess)

    everything = shown_in_cells(labels, predicted, confidence, 1000)
    assert {cell: len(found) for cell, found in everything.items()} == dict(full)
    for (true, guess), found in everything.items():
        assert {(labels[i], predicted[i]) for i in found} == {(true, guess)}
        assert [confidence[i] for i in found] == sorted(
            (confidence[i] for i in found), reverse=True
        )

    some = shown_in_cells(labels, predicted, confidence, wrong + 8)
    sizes = {cell: len(found) for cell, found in some.items()}
    assert sum(sizes.values()) == wrong + 8
    assert all(sizes[cell] == full[cell] for cell in full if cell[0] != cell[1])
    assert [sizes[label, label] for label in range(4)] == [2, 2, 2, 2]  # they take turns

    few = shown_in_cells(labels, predicted, confidence, 24)
    assert all(true != guess for true, guess in few)
    assert {len(found) for found in few.values()} == {2}


def test_worst_are_wrong_and_sure_and_least_sure_come_first() -> None:
    confidence = torch.tensor([0.9, 0.4, 0.8, 0.99, 0.3])
    right = torch.tensor([False, False, False, True, True])
    assert worst(confidence, right, 2) == [0, 2]
    assert worst(confidence, torch.ones(5, dtype=torch.bool), 2) == []
    assert least_sure(confidence, 3) == [4, 1, 2]
    assert math.isclose(float(confidence[4]), 0.3, abs_tol=1e-6)
