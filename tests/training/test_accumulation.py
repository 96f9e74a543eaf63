"""Steps over accumulated batches against steps over one large batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runs import BACKBONE
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitlora.training import Trainer
from vitlora.training.classifier import Classifier


class Small(Classifier):
    """Trains two layers on vectors, by the classifier's own step."""

    def __init__(self, weight: torch.Tensor | None, smoothing: float) -> None:
        super().__init__(
            3,
            BACKBONE,
            weights="none",
            image_size=32,
            optimizer="sgd",
            lr=0.3,
            weight_decay=0.0,
            label_smoothing=smoothing,
        )
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.weight = weight

    def on_fit_start(self) -> None:
        self.loss_weight = self.weight


def trained(
    count: int, batch: int, accumulate: int, weight: Any = None, smoothing: float = 0.0, **more: Any
) -> tuple[dict[str, torch.Tensor], Any]:
    """Returns the weights after two epochs of ``count`` pictures, and the trainer."""
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (count,), generator=random)
    pictures = TensorDataset(torch.randn(count, 6, generator=random), labels)
    options: dict[str, Any] = {"gradient_clip_val": None, "precision": "32-true", **more}
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        cache="off",
        enable_progress_bar=False,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        **options,
    )
    model = Small(weight, smoothing)
    trainer.fit(model, train_dataloaders=DataLoader(pictures, batch_size=batch))
    return model.state_dict(), trainer


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("count", [37, 33, 64, 5, 60])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, (0.2, 1.0, 5.0)])
def test_four_batches_of_eight_are_one_of_32(count: int, smoothing: float, weight: Any) -> None:
    weight = None if weight is None else torch.tensor(weight)
    expected, whole = trained(count, 32, 1, weight, smoothing)
    got, accumulated = trained(count, 8, 4, weight, smoothing)
    assert farthest(got, expected) <= 1e-6
    start = Small(None, 0).state_dict()
    assert farthest(expected, start) > 0.05
    assert accumulated.global_step == whole.global_step == 2 * -(-count // 32)
    rates = [t.optimizers[0].param_groups[0]["lr"] for t in (whole, accumulated)]
    assert rates[0] == rates[1]


def test_the_whole_steps_gradient_is_clipped() -> None:
    expected, _ = trained(37, 32, 1, gradient_clip_val=0.05)
    got, _ = trained(37, 8, 4, gradient_clip_val=0.05)
    assert farthest(got, expected) <= 1e-6
    assert farthest(got, trained(37, 8, 4)[0]) > 1e-3


def test_mixed_precision_does_the_same() -> None:
    expected, _ = trained(37, 32, 1, precision="bf16-mixed")
    got, _ = trained(37, 8, 4, precision="bf16-mixed")
    assert farthest(got, expected) <= 2e-3


def test_the_logged_loss_is_that_of_the_batch_whatever_its_weight() -> None:
    """With a rate of nearly nothing the network stays, and its loss can be computed here."""
    model, random = Small(None, 0.1), torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (60,), generator=random)
    logits = model(torch.randn(60, 6, generator=random)).detach()
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    metrics = trained(60, 8, 4, None, 0.1, gradient_clip_val=1e-9)[1].callback_metrics
    assert float(metrics["train/loss_epoch"]) == pytest.approx(float(expected), rel=1e-4)
