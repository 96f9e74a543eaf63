"""Errors by which Lightning and its callbacks end a run, as lines of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.spike import TrainingSpikeException

from vitlora.errors import UsageError, VitloraError


def is_lightnings(error: BaseException) -> bool:
    """Returns whether Lightning itself raised an error: it does where an option cannot be."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("lightning.")


@contextmanager
def stopped_by_callbacks() -> Iterator[None]:
    """Turns the errors by which Lightning's callbacks end a training into lines of ours."""
    try:
        yield
    except TrainingSpikeException as spike:
        raise VitloraError(
            f"trainer.callbacks: SpikeDetection stopped training ({spike}); the best epoch before, "
            "if there was one, is kept. Lower model.lr, or leave the callback out"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise UsageError(f"trainer.callbacks: {' '.join(str(error).split())}") from None
