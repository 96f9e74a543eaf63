"""The optimisers of vitlora: their parameter groups, memory and learning rate."""

import inspect
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vitlora.errors import UsageError

OptimizerName = Literal["adamw", "adamw8bit", "paged_adamw8bit", "sgd", "lion"]


def make_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], device: torch.device
) -> Optimizer:
    """Returns an optimiser for parameter groups with their own ``lr`` and ``weight_decay``.

    Args:
        name: One of ``OptimizerName``.
        groups: As torch's optimisers take them.
        device: Where the parameters are.

    Raises:
        UsageError: The name is unknown, or the optimiser does not run on the device.
    """
    if name == "adamw":
        return PlainAdamW(groups)
    if name == "sgd":
        return PlainSGD(groups, momentum=0.9)
    if name == "lion":
        from timm.optim import Lion

        return Lion(groups)
    if name not in get_args(OptimizerName):
        raise UsageError(
            f"model.optimizer is '{name}'; expected one of {', '.join(get_args(OptimizerName))}"
        )
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and name == "paged_adamw8bit"):
        raise UsageError(
            f"model.optimizer {name} does not run on {device.type}; choose "
            f"{'adamw8bit or ' if device.type == 'cpu' else ''}adamw"
        )
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return (PagedAdamW8bit if name == "paged_adamw8bit" else AdamW8bit)(groups)


def _without_compiler(kind: type[Optimizer]) -> Any:
    """Returns one of torch's optimisers whose methods do not import torch's compiler.

    torch 2.14 wraps them for training steps that are compiled as a whole; the import takes a second
    and 0.1 GB.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(f"Plain{kind.__name__}", (kind,), {**methods, "__module__": __name__})


# under their own names, so that they can be pickled
PlainAdamW = _without_compiler(AdamW)
PlainSGD = _without_compiler(SGD)


def parameter_groups(
    trained: Mapping[str, nn.Parameter],
    lr: float,
    weight_decay: float,
    rate: Callable[[str], float],
    exempt: Container[int],
) -> list[dict[str, Any]]:
    """Returns the parameters in groups with one learning rate and one weight decay.

    LoRA's parameters, biases and vectors never decay.

    Args:
        trained: Name -> parameter.
        lr: Peak learning rate.
        weight_decay: Weight decay of the other parameters.
        rate: Name of a parameter -> factor on its learning rate.
        exempt: Ids of further parameters that do not decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        plain = parameter.ndim > 1 and not name.endswith(".bias")
        decays = plain and "lora_" not in name and id(parameter) not in exempt
        decay = weight_decay if decays else 0.0
        groups.setdefault((decay, rate(name) * lr), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": rate}
        for (decay, rate), parameters in groups.items()
    ]


class WarmupCosine(LambdaLR):
    """A learning rate schedule: linear warm-up to the peak, then a cosine down to 0.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup: Share of the steps in which the rate rises.
        steps: Number of all steps.
    """

    def __init__(self, optimizer: Optimizer, warmup: float, steps: int) -> None:
        self.warmup, self.steps = warmup, steps
        super().__init__(optimizer, lambda step: self._share(step))

    def lengthen(self, steps: int) -> None:
        """Makes the run ``steps`` long in all; the learning rate is at once that of the new run."""
        self.steps = steps
        for group, peak in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = peak * self._share(self.last_epoch)

    def _share(self, step: int) -> float:
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min((step - rising) / max(self.steps - rising, 1), 1)))


def scheduled(
    name: OptimizerName,
    groups: list[dict[str, Any]],
    device: torch.device,
    warmup: float,
    steps: int,
) -> OptimizerLRSchedulerConfig:
    """Returns an optimiser and its learning rate schedule, for Lightning.

    Args:
        name: As for ``make_optimizer``, like the next two.
        groups: See there.
        device: See there.
        warmup: As for ``WarmupCosine``.
        steps: As for ``WarmupCosine``.
    """
    optimizer = make_optimizer(name, groups, device)
    schedule = WarmupCosine(optimizer, warmup, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def state_bytes(name: OptimizerName, parameters: Sequence[torch.Tensor]) -> int:
    """Returns the bytes of an optimiser's state.

    Args:
        name: One of ``OptimizerName``.
        parameters: fp32; shapes are enough.
    """
    if name not in ("adamw8bit", "paged_adamw8bit"):
        numbers = 2 if name == "adamw" else 1  # means of the gradient and of its square, or one
        return sum(4 * numbers * p.numel() for p in parameters)
    # bitsandbytes: two bytes a number, two fp32 scales for 256; small tensors stay fp32
    return sum(
        2 * p.numel() + 8 * -(-p.numel() // 256) if p.numel() >= 4096 else 8 * p.numel()
        for p in parameters
    )


def step_bytes(name: OptimizerName, parameters: Sequence[torch.Tensor], device: str) -> int:
    """Returns the bytes of an optimiser's temporary tensors; on a GPU torch steps all at once.

    Args:
        name: One of ``OptimizerName``.
        parameters: fp32; shapes are enough.
        device: cpu, cuda or mps.
    """
    if name in ("adamw8bit", "paged_adamw8bit", "sgd"):
        return 0
    sizes = [4 * p.numel() for p in parameters]
    return sum(sizes) if device == "cuda" else 2 * max(sizes, default=0)
