"""Tests that equal blocks are counted as a whole network would be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory.test_plan_of_memory import WAYS
from torch import nn

import vitlora.memory.ledger as ledger
from vitlora.adapters import Lora
from vitlora.memory import footprint
from vitlora.memory.repeated import Trace, extended, longest_run, only

DEEP = ("timm/vit_tiny_patch16_224", "timm/eva02_tiny_patch14_224")
MORE: dict[str, Any] = {
    "last": lambda: {"adapter": Lora(8, last_blocks=3)},
    "other ranks": lambda: {"adapter": Lora(8, ranks={"blocks.3": 4})},
}


@pytest.mark.slow
@pytest.mark.parametrize("accumulates", [False, True])
@pytest.mark.parametrize("way", [*WAYS, *MORE])
@pytest.mark.parametrize("backbone", DEEP)
def test_the_peak_is_exactly_that_of_the_whole_network(
    backbone: str, way: str, accumulates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {**WAYS, **MORE}[way]
    precision = "32-true" if accumulates else "bf16-mixed"
    short: list[object] = []

    def kept(*args: Any) -> Trace | None:
        short.append(found := extended(*args))
        return found

    monkeypatch.setattr(ledger, "extended", kept)
    few = footprint({"backbone": backbone, **made()}, 5, "cpu", precision, accumulates)
    monkeypatch.setattr(ledger, "extended", lambda *_: None)
    whole = footprint({"backbone": backbone, **made()}, 5, "cpu", precision, accumulates)
    assert short and None not in short
    assert few.saved == whole.saved
    for batch in (1, 2, 8, 33, 1000):
        assert few.total(batch) == whole.total(batch)
    for room in (10**8, 10**9, 10**10):
        assert few.largest_batch(room) == whole.largest_batch(room)


def test_a_run_ends_where_a_block_differs() -> None:
    def blocks() -> list[nn.Module]:
        return [nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)) for _ in range(8)]

    same = blocks()
    assert longest_run(same) == range(8)
    wider, hooked, frozen, dropping = blocks(), blocks(), blocks(), blocks()
    wider[2] = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.0))
    assert longest_run(wider) == range(3, 8)
    hooked[7].register_forward_pre_hook(lambda *_: None)
    assert longest_run(hooked) == range(7)
    frozen[6].requires_grad_(False)
    assert longest_run(frozen) == range(6)
    dropping[5][1] = nn.Dropout(0.1)  # pyright: ignore[reportIndexIssue]
    assert longest_run(dropping) == range(5)
    assert longest_run([]) == range(0)


def test_a_stack_has_its_blocks_back() -> None:
    stack = nn.Sequential(*(nn.Linear(n, n + 1) for n in range(1, 5)))
    with only(stack, [0, 3]):
        assert [layer.in_features for layer in stack] == [1, 4]  # pyright: ignore
    assert stack(torch.ones(1, 1)).shape == (1, 5)


def test_steps_that_do_not_correspond_are_not_extended() -> None:
    two = Trace(["a", "b", "c"], [(1, 0)] * 3, 1, 2, 3, (0, 0))
    three = Trace(["a", "x", "b", "c"], [(1, 0)] * 4, 1, 3, 4, (0, 0))
    other = Trace(["a", "x", "y", "c"], [(1, 0)] * 4, 1, 3, 4, (0, 0))
    assert extended(two, three, 9) is not None
    assert extended(two, other, 9) is None
