"""What is found for a run, by its time and memory, between its options and its configuration."""

from collections.abc import Sequence
from typing import Any

from vitlora.cli.words import given
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


def as_found(config: Any, budgets: Sequence[TimeBudget], data: Any, trainer: Any) -> Any:
    """Returns the configuration of the same run on any machine, at any time.

    Args:
        config: The options of the run, as they were given.
        budgets: Those of ``time_budget``: the steps that are planned now replace the time.
        data: The ``FolderData``: the batch that fits into memory replaces ``auto``.
        trainer: Ours, with the number of batches in a step.
    """
    config = config.clone()
    for budget in budgets:
        if budget.steps:
            config.trainer.time = config.trainer.max_epochs = None
            config.trainer.max_steps = budget.steps
        if budget.dropped is not None:
            config.model.patch_drop = budget.dropped
    if config.data.batch_size == "auto":
        config.data.batch_size = data.batch_size
        config.trainer.accumulate_grad_batches = trainer.accumulate_grad_batches
    return config
