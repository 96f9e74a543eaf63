"""The optimisers a run can choose from."""

from typing import Any, Literal, get_args

import torch
from torch.optim import SGD, AdamW, Optimizer

from vitlora.errors import UsageError

OptimizerName = Literal["adamw", "adamw8bit", "paged_adamw8bit", "sgd", "lion"]


def make_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], device: torch.device
) -> Optimizer:
    """Returns an optimiser for parameter groups that bring their own ``lr`` and ``weight_decay``.

    Args:
        name: One of ``OptimizerName``.
        groups: As torch's optimisers take them.
        device: Where the parameters are.

    Raises:
        UsageError: The name is unknown, or the optimiser does not run on the device.
    """
    if name == "adamw":
        return AdamW(groups)
    if name == "sgd":
        return SGD(groups, momentum=0.9)
    if name == "lion":
        from timm.optim import Lion

        return Lion(groups)
    if name not in get_args(OptimizerName):
        raise UsageError(
            f"model.optimizer is '{name}'; expected one of {', '.join(get_args(OptimizerName))}"
        )
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and name == "paged_adamw8bit"):
        raise UsageError(
            f"model.optimizer {name} does not run on {device.type}; take "
            f"{'adamw8bit or ' if device.type == 'cpu' else ''}adamw"
        )
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return (PagedAdamW8bit if name == "paged_adamw8bit" else AdamW8bit)(groups)
