"""Tests of the area under the ROC curve against all pairs, and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from vitlora.metrics.auroc import auroc


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_is_the_share_of_pairs_in_the_right_order(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(levels, (200,), generator=generator).float() / levels
    positive = torch.rand(200, generator=generator) < 0.3
    gaps = scores[positive][:, None] - scores[~positive]
    pairs = ((gaps > 0).double() + (gaps == 0).double() / 2).mean()
    assert auroc(scores, positive) == pytest.approx(float(pairs), abs=1e-12)
    theirs = float(binary_auroc(scores, positive.long()))
    assert auroc(scores, positive) == pytest.approx(theirs, abs=1e-6)


def test_the_ends() -> None:
    scores, positive = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([False, False, True])
    assert auroc(scores, positive) == 1
    assert auroc(-scores, positive) == 0
    assert auroc(torch.zeros(3), positive) == 0.5
