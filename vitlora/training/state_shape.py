"""Checks that a state, which may come from anywhere, has the shape of a run's own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "state1", "state2")  # as the parameter
_BLOCK, _CODES = 256, 256  # of bitsandbytes: numbers that share a scale; codes of 8 bits
_SCALES, _TABLES = ("absmax1", "absmax2"), ("qmap1", "qmap2")


def check_shape(found: Any, own: Any, place: str) -> None:
    """Refuses nested values whose names, types, lengths or tensors' shapes are not those of a run.

    Args:
        found: The values.
        own: The run's.
        place: Where they stand, for the message.

    Raises:
        ValueError: They differ.
    """
    if isinstance(own, torch.Tensor):
        if not isinstance(found, torch.Tensor) or _form(found) != _form(own):
            raise ValueError(f"{place} has another shape or type")
    elif isinstance(own, Mapping):
        if not isinstance(found, Mapping) or found.keys() != own.keys():
            raise ValueError(f"{place} has other names")
        for key, value in own.items():
            check_shape(found[key], value, f"{place}.{key}")
    elif isinstance(own, list | tuple):
        if type(found) is not type(own) or len(found) != len(own):
            raise ValueError(f"{place} has another length")
        for index, (one, value) in enumerate(zip(found, own, strict=True)):
            check_shape(one, value, f"{place}.{index}")
    elif type(found) is not type(own) and {type(found), type(own)} != {int, float}:
        raise ValueError(f"{place} is {found!r:.40}")


def check_optimizer(found: Any, optimizer: Optimizer) -> None:
    """Refuses the state of another optimiser, or of other parameters.

    Args:
        found: What ``state_dict`` gave.
        optimizer: The optimiser that is to load it; it has not stepped.

    Raises:
        ValueError: It does not fit.
    """
    groups = optimizer.state_dict()["param_groups"]
    check_shape(found["param_groups"], groups, "param_groups")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    indices = [index for group in groups for index in group["params"]]
    if [index for group in found["param_groups"] for index in group["params"]] != indices:
        raise ValueError("param_groups has other parameters")
    known = dict(zip(indices, parameters, strict=True))
    if found.keys() != {"state", "param_groups"} or found["state"].keys() - known.keys():
        raise ValueError("optimizer has other parameters")
    for index, state in found["state"].items():
        for name, value in _flat(state):
            _check_moment(name, value, known[index])


def _check_moment(name: str, value: Any, parameter: torch.Tensor) -> None:
    """Refuses a tensor that an optimiser, whose kernels trust it, would read beyond its end."""
    number = isinstance(value, int | float) or (torch.is_tensor(value) and value.ndim == 0)
    if name == "step" and number:
        return
    if name in _MOMENTS and torch.is_tensor(value) and value.shape == parameter.shape:
        return
    blocks = -(-parameter.numel() // _BLOCK)
    lengths = dict.fromkeys(_SCALES, blocks) | dict.fromkeys(_TABLES, _CODES)
    if name in lengths and torch.is_tensor(value) and value.shape == (lengths[name],):
        return
    raise ValueError(f"optimizer: {name} has another shape or type")


def _flat(state: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the names and values of a parameter's state; bitsandbytes nests some of them."""
    pairs: list[tuple[str, Any]] = []
    for name, value in state.items():
        pairs += _flat(value) if isinstance(value, Mapping) else [(name, value)]
    return pairs


def _form(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
