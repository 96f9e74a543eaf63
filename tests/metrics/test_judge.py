"""Tests of what is made of features and logits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from vitlora.metrics.confidence import Confidence
from vitlora.metrics.judge import Judge
from vitlora.metrics.reference import Reference

PLACES = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(200) % 3
REFERENCE = Reference.of(PLACES, LABELS, dimensions=4)


def judge(temperature: float = 2.0, unsure_below: float = 0.6, far: float = 2.0) -> Judge:
    known = Confidence(
        temperature, unsure_below, {"coverage": 0.9}, 0.9, 0.1, (0.2, 0.1), far, 100, (), ()
    )
    return Judge(("a", "b", "c"), known, REFERENCE)


def test_confidence_is_the_softmax_of_the_logits_over_the_temperature() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    [got] = judge().predictions([Path("x.jpg")], PLACES[:1], logits, top_k=2)
    powers = [math.exp(value / 2) for value in (3.0, 1.0, 0.0)]
    assert got.top == (
        ("a", pytest.approx(powers[0] / sum(powers))),
        ("b", pytest.approx(powers[1] / sum(powers))),
    )
    assert got.path == Path("x.jpg") and not got.unsure


def test_marks_go_by_the_thresholds_exactly() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    first = judge().judge(PLACES[:50], logits)
    sure, far = float(first.confidence[7]), float(first.distances[9])
    at = judge(unsure_below=sure, far=far).judge(PLACES[:50], logits)
    assert not at.unsure[7] and not at.unfamiliar[9]
    above = judge(unsure_below=math.nextafter(sure, 1), far=math.nextafter(far, 0))
    beyond = above.judge(PLACES[:50], logits)
    assert beyond.unsure[7] and beyond.unfamiliar[9]
    assert at.unsure.tolist() == [c < sure for c in first.confidence.tolist()]
    assert at.unfamiliar.tolist() == [d > far for d in first.distances.tolist()]


def test_before_calibration_nothing_is_marked() -> None:
    logits = torch.tensor([[0.1, 0.0, 0.0]])
    got = Judge(("a", "b", "c"), None, None).judge(PLACES[:1], logits)
    assert not got.unsure.any() and not got.unfamiliar.any() and got.distances.isnan().all()
    torch.testing.assert_close(got.probabilities, logits.softmax(1))


def test_the_class_is_the_largest_logit_also_where_probabilities_are_equal() -> None:
    logits = torch.tensor([[200.0, 0.0, 1e-4], [5.0, 5.0, 5.0]])
    judged = judge(temperature=100.0).judge(PLACES[:2], logits)
    assert judged.order.tolist() == [[0, 2, 1], [0, 1, 2]]
    nearly = torch.tensor([[1.0, 1.0 + 2e-7, 0.0]])  # equal once divided and exponentiated
    got = judge(temperature=50.0).predictions([Path()], PLACES[:1], nearly, 1)
    assert got[0].label == "b"
