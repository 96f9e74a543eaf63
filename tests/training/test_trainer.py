"""Tests of the trainer's defaults."""

from lightning.pytorch import Callback

from vitlora.training import Trainer


def test_a_list_of_callbacks_is_read_and_not_added_to() -> None:
    mine: list[Callback] = [Callback()]
    trainer = Trainer(accelerator="cpu", callbacks=mine)
    assert len(mine) == 1
    assert mine[0] in trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
