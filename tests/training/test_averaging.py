"""Tests of the running mean of the trained weights."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch.utils.data import DataLoader, TensorDataset

from vitlora.errors import UsageError
from vitlora.training import Trainer

DECAY = 0.7


class Line(LightningModule):
    """A linear layer beside a frozen one, with what every step and validation saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2)
        self.frozen = torch.nn.Linear(3, 2).requires_grad_(False)
        self.stepped: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = (self.layer(batch[0]) + self.frozen(batch[0])).square().mean()
        self.log_dict({"train/loss": loss, "train/acc": 0.0}, on_step=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(self.layer.weight.detach().clone())
        self.log_dict({"val/acc": 0.0, "val/macro_f1": 0.0})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.layer.parameters(), lr=0.5)


class Watch(Callback):
    """Keeps the weights as each optimiser step left them."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > len(pl_module.stepped):
            pl_module.stepped.append(pl_module.layer.weight.detach().clone())


def fitted(average: float | None, **options: Any) -> tuple[Line, torch.Tensor]:
    """Returns the module after three epochs of four batches, and its first weights."""
    module = Line()
    start = module.layer.weight.detach().clone()
    data = DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=2)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        precision="32-true",
        weight_average=average,
        enable_progress_bar=False,
        logger=False,
        callbacks=[Watch()],
        **options,
    )
    trainer.fit(module, data, DataLoader(TensorDataset(torch.randn(2, 3)), batch_size=2))
    return module, start


def by_hand(start: torch.Tensor, stepped: list[torch.Tensor]) -> list[torch.Tensor]:
    """Returns the mean after each step, in float64."""
    mean, means = start.double(), []
    for step, weights in enumerate(stepped, start=1):
        decay = min(DECAY, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights.double()
        means.append(mean)
    return means


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_sees_the_mean_of_the_steps(accumulate: int) -> None:
    module, start = fitted(DECAY, accumulate_grad_batches=accumulate)
    steps = 4 // accumulate
    assert len(module.stepped) == 3 * steps
    means = by_hand(start, module.stepped)[steps - 1 :: steps]
    for got, want, raw in zip(
        module.validated, means, module.stepped[steps - 1 :: steps], strict=True
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)
        assert (got - raw).abs().max() > 1e-3
    assert torch.equal(module.layer.weight, module.validated[-1])  # what is left is what was kept


def test_training_itself_goes_on_as_without_it() -> None:
    averaged, _ = fitted(DECAY)
    plain, _ = fitted(None)
    assert all(torch.equal(a, b) for a, b in zip(averaged.stepped, plain.stepped, strict=True))
    assert torch.equal(plain.validated[-1], plain.stepped[-1])


def test_without_validation_the_mean_is_what_is_left() -> None:
    module, start = fitted(DECAY, limit_val_batches=0)
    want = by_hand(start, module.stepped)[-1]
    torch.testing.assert_close(module.layer.weight.double(), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=rf"trainer\.weight_average is {share}"):
        Trainer(weight_average=share)
