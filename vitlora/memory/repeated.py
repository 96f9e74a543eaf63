"""Equal blocks of a network: a step is counted on two and on three of them, for all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

_PLAIN = int | float | str | None  # kinds of values that tell blocks apart; tuples of them, too

Bytes = tuple[int, int]  # independent of the batch, and for each picture


@dataclass(frozen=True)
class Trace:
    """The operations of a training step in order, each with the bytes that are alive after it.

    Attributes:
        operations: The operations.
        moments: The bytes after each.
        entered: How many ran before the block that the step was watched at.
        backward: How many ran before the backward pass.
        left: How many ran before the gradient of that block's input was there; all, if it has none.
        saved: What autograd keeps for the backward pass.
    """

    operations: list[Any]
    moments: list[Bytes]
    entered: int
    backward: int
    left: int
    saved: Bytes


def longest_run(blocks: Sequence[nn.Module]) -> range:
    """Returns where the longest row of equal blocks is: same layers, values and trained tensors."""
    looks, longest, start = [*map(_look, blocks), None], range(0), 0
    for index in range(1, len(looks)):
        if looks[index] != looks[start]:
            longest = max(longest, range(start, index), key=len)
            start = index
    return longest


def stack_of(network: nn.Module) -> nn.Module:
    """Returns the module whose children are the blocks of a ViT, perhaps inside others."""
    found = (module.get_submodule("blocks") for module in network.modules() if _has_blocks(module))
    return next(found, nn.Sequential())


@contextmanager
def only(stack: nn.Module, chosen: Sequence[int]) -> Iterator[None]:
    """Lets a stack have only some of its blocks."""
    every = dict(stack._modules)
    names = list(every)
    stack._modules.clear()
    stack._modules.update({names[index]: every[names[index]] for index in chosen})
    try:
        yield
    finally:
        stack._modules.clear()
        stack._modules.update(every)


def extended(two: Trace, three: Trace, blocks: int) -> Trace | None:
    """Returns the step of a network with many equal blocks, from those with two and three of them.

    Each block adds the same bytes, so what is alive at an operation of the first or the last block
    grows evenly with their number; at the blocks between them it lies between.

    Args:
        two: The step with two, watched at the second.
        three: The same with three.
        blocks: How many there are.

    Returns:
        The moments at the operations of ``two``; None if the steps do not correspond.
    """
    ends = len(two.moments), len(three.moments)
    same = list(range(two.entered))
    same += [i + three.backward - two.backward for i in range(two.entered, two.backward)]
    same += [i + three.backward - two.backward for i in range(two.backward, two.left)]
    same += [i + ends[1] - ends[0] for i in range(two.left, ends[0])]
    if max(same, default=0) >= ends[1] or any(
        operation != three.operations[j] for operation, j in zip(two.operations, same, strict=True)
    ):
        return None
    moments = [
        _line(before, three.moments[j], blocks) for before, j in zip(two.moments, same, strict=True)
    ]
    saved = _line(two.saved, three.saved, blocks)
    return Trace(two.operations, moments, two.entered, two.backward, two.left, saved)


def _line(two: Bytes, three: Bytes, blocks: int) -> Bytes:
    fixed, growing = (a + (blocks - 2) * (b - a) for a, b in zip(two, three, strict=True))
    return fixed, growing


def _has_blocks(module: nn.Module) -> bool:
    return isinstance(module._modules.get("blocks"), nn.Sequential | nn.ModuleList)


def _look(block: nn.Module) -> object:
    """Returns what blocks have in common that do the same, on tensors of the same shapes."""
    return [
        (
            name,
            type(module),
            {key: v for key, v in vars(module).items() if _is_plain(v)},
            *(len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks)),
            [(n, p.shape, p.dtype, p.requires_grad) for n, p in _tensors(module)],
        )
        for name, module in block.named_modules()
    ]


def _is_plain(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, _PLAIN) for part in parts)


def _tensors(module: nn.Module) -> list[tuple[str, Any]]:
    found = [*module._parameters.items(), *module._buffers.items()]
    return [(name, tensor) for name, tensor in found if tensor is not None]
