"""``fit --time`` between the options of a run and the callback that plans it."""

from collections.abc import Sequence
from typing import Any

from vitlora.cli.lightning_parser import given
from vitlora.evaluation.calibrate import pictures_to_calibrate
from vitlora.training.time_budget import TimeBudget


def time_budget(trainer: Any, data: Any, started: float, words: Sequence[str]) -> list[TimeBudget]:
    """Returns the callback that plans a run by time, or none if its length is given.

    Args:
        trainer: Ours.
        data: The ``FolderData``.
        started: ``time.monotonic()`` when the command began.
        words: The arguments; a share of patches to leave out stays as it was typed.
    """
    if not trainer.timed:
        return []
    splits = data.folder.splits
    after = pictures_to_calibrate(splits["train"], splits.get("val", ()))
    drops = "model.patch_drop" not in dict(given(words))
    return [TimeBudget(trainer.seconds, started, sum(map(len, after)), drops)]


def as_planned(config: Any, budget: TimeBudget) -> Any:
    """Returns the configuration of a run of as many steps as are planned now."""
    if not budget.steps:
        return config
    config = config.clone()
    config.trainer.time = config.trainer.max_epochs = None
    config.trainer.max_steps = budget.steps
    if budget.dropped is not None:
        config.model.patch_drop = budget.dropped
    return config
