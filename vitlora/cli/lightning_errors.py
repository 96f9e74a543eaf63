"""Turns errors of Lightning and its callbacks into one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch import Trainer

from vitlora.errors import UsageError, VitloraError


def is_lightnings(error: BaseException) -> bool:
    """Returns whether Lightning itself raised an error, as it does for a wrong option."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("lightning.")


@contextmanager
def stopped_by_callbacks() -> Iterator[None]:
    """Turns the errors with which Lightning's callbacks stop training into ours."""
    try:
        yield
    except TrainingSpikeException as spike:
        raise VitloraError(
            f"trainer.callbacks: SpikeDetection stopped training ({spike}); an epoch that was "
            "saved before is kept. Lower --model.lr, or leave the callback out"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise UsageError(f"trainer.callbacks: {' '.join(str(error).split())}") from None


def check_checkpoints(trainer: Trainer, quantization: str) -> None:
    """Refuses Lightning's own checkpoints of a quantised or spread network.

    Raises:
        UsageError: A callback would write some.
    """
    spread = getattr(trainer.strategy, "shards", False)
    if trainer.checkpoint_callbacks and (quantization != "none" or spread):
        name = type(trainer.checkpoint_callbacks[0]).__name__
        how = "trainer.strategy fsdp" if spread else f"model.quantization {quantization}"
        raise UsageError(
            f"{name} (trainer.enable_checkpointing) saves the whole network, which cannot be "
            f"loaded with {how}; leave it out: the bundle has the epoch that is kept"
        )
