"""A state is put in place only if it has the shape of the run's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vitlora.training.optimizers import OptimizerName, make_optimizer
from vitlora.training.state_shape import check_optimizer, check_shape

OWN: dict[Any, Any] = {
    "weights": {"a": torch.zeros(2, 3)},
    "loop": {"ready": 3, "last": False, "epochs": [1, 2], "betas": (0.9, 0.1), "name": None},
}


def with_value(value: object, *path: Any) -> dict[Any, Any]:
    """Returns a copy of OWN with another value."""
    copy: dict[Any, Any] = {key: dict(inside) for key, inside in OWN.items()}
    inside: Any = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return copy


def test_values_may_differ_and_ints_may_be_floats():
    check_shape(OWN, OWN, "state")
    check_shape(with_value(torch.ones(2, 3), "weights", "a"), OWN, "state")
    check_shape(with_value(7.5, "loop", "ready"), OWN, "state")


OTHER: dict[str, tuple[object, tuple[str, ...]]] = {
    "state.weights.a has another shape": (torch.zeros(3, 2), ("weights", "a")),
    "a has another shape or type": (torch.zeros(2, 3).int(), ("weights", "a")),
    "weights.a has another": (1.0, ("weights", "a")),
    "state.weights has other names": (torch.zeros(2, 3), ("weights", "b")),
    "state.loop has other names": ([1], ("loop",)),
    "loop.ready is 'x'": ("x", ("loop", "ready")),
    "loop.last is 1": (1, ("loop", "last")),
    "loop.epochs has another length": ([1], ("loop", "epochs")),
    "loop.betas has another length": ([0.9, 0.1], ("loop", "betas")),
    "loop.name is 'x'": ("x", ("loop", "name")),
}


@pytest.mark.parametrize("message", OTHER)
def test_another_shape_is_refused_by_its_place(message: str):
    value, path = OTHER[message]
    with pytest.raises(ValueError, match=message):
        check_shape(with_value(value, *path), OWN, "state")


def stepped(name: OptimizerName, width: int) -> tuple[Any, Any]:
    """Returns an optimiser that has not stepped, and the state of one that has."""
    made = []
    for steps in (0, 2):
        torch.manual_seed(0)
        layer = nn.Linear(width, 64)
        groups = [{"params": [p], "weight_decay": 0.0, "lr": 0.1} for p in layer.parameters()]
        made.append(make_optimizer(name, groups, torch.device("cpu")))
        for _ in range(steps):
            layer(torch.ones(2, width)).sum().backward()
            made[-1].step()
    return made[0], made[1].state_dict()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adamw8bit"])
def test_an_optimisers_own_state_fits(name: OptimizerName):
    for width in (3, 100):  # with 8 bits, only large tensors are quantised
        optimizer, state = stepped(name, width)
        check_optimizer(state, optimizer)
        optimizer.load_state_dict(state)


def _moments(state: Any) -> dict[str, Any]:
    """Returns the state of the first parameter, which bitsandbytes nests."""
    first = state["state"][0]
    return next((v for v in first.values() if isinstance(v, dict)), first)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_every_tensor_that_a_kernel_would_trust_is_checked(name: OptimizerName):
    optimizer, state = stepped(name, 100)
    names = [n for n, value in _moments(state).items() if torch.is_tensor(value) and value.ndim]
    assert len(names) == (2 if name == "adamw" else 6)
    for each in names:
        optimizer, state = stepped(name, 100)
        _moments(state)[each] = _moments(state)[each].flatten()[:-1]
        with pytest.raises(ValueError, match=f"optimizer: {each} has another shape"):
            check_optimizer(state, optimizer)


CHANGES: dict[str, Callable[[Any], object]] = {
    "optimizer: mine has another": lambda state: state["state"][0].update(mine=torch.ones(1)),
    "optimizer has other parameters": lambda state: state["state"].update({9: {}}),
    "other parameters": lambda state: state["param_groups"][0].update(params=[1]),
    "param_groups has another length": lambda state: state["param_groups"].pop(),
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_optimisers_state_is_refused(message: str):
    optimizer, state = stepped("adamw", 3)
    CHANGES[message](state)
    with pytest.raises(ValueError, match=message):
        check_optimizer(state, optimizer)
