"""Counts bytes over one training step of tensors that have shapes but no memory.

The step runs under torch's ``FakeTensorMode``: it does every operation of the real step, with its
temporary tensors, but needs no memory and little time. The ledger counts what torch's allocator
would be asked for, not what libraries allocate for themselves.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitlora.memory.repeated import Bytes, Trace, extended, longest_run, only, stack_of
from vitlora.quantization import is_quantized

# Pictures in a counted step. This prime divides the sizes that grow with the batch, and hardly any
# others; large shapes cost nothing.
PICTURES = 1009


class Ledger(TorchDispatchMode):
    """Records, after every operation, the bytes of the tensors that are alive.

    Attributes:
        operations: The operations.
        moments: After each operation, the bytes of the live tensors that were created while the
            ledger was open.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.moments: list[Bytes] = []
        self._fixed = self._growing = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and records the tensors it created."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        self.operations.append(func)
        self.moments.append((self._fixed, self._growing))
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            size = parted(storage.nbytes())
            self._count(size, 1)
            weakref.finalize(storage, self._remove, storage._cdata, size)

    def _remove(self, key: int, size: Bytes) -> None:
        self._known.discard(key)
        self._count(size, -1)

    def _count(self, size: Bytes, sign: int) -> None:
        self._fixed += sign * size[0]
        self._growing += sign * size[1]


def parted(size: int) -> Bytes:
    """Returns the bytes of a tensor of a counted step as fixed ones and those for each picture."""
    return (size, 0) if size % PICTURES else (0, size // PICTURES)


@dataclass(frozen=True)
class Step:
    """What a training step keeps alive, weights and optimiser aside.

    Attributes:
        moments: After each operation, gradients included.
        saved: That autograd keeps for the backward pass, each storage once.
    """

    moments: list[Bytes]
    saved: Bytes


def count_step(network: nn.Module, size: int, dtype: torch.dtype, accumulates: bool) -> Step:
    """Returns what a training step of a network keeps alive.

    Args:
        network: In training mode, on the meta device; usable for further counts alone afterwards.
        size: Side of a picture in pixels.
        dtype: Autocast's dtype; fp32 for no autocast.
        accumulates: Whether the gradients of earlier batches are kept during the step.
    """
    stack = stack_of(network)
    every = list(range(len(stack._modules)))
    run = longest_run(list(stack.children()))
    step = network, stack, size, dtype, accumulates
    with FakeTensorMode(allow_non_fake_inputs=True), _uncollected():
        whole = None
        if len(run) > 3:  # a giant has 40 blocks, and each takes a second
            two, three = (
                _trace(*step, every[: run[k]] + every[run[-1] :], run[-1]) for k in (1, 2)
            )
            whole = extended(two, three, len(run))
        if whole is None:
            whole = _trace(*step, every)
    return Step(list(dict.fromkeys(whole.moments)), whole.saved)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses the garbage collector, which takes time and frees nothing that counts."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _trace(
    network: nn.Module,
    stack: nn.Module,
    size: int,
    dtype: torch.dtype,
    accumulates: bool,
    chosen: list[int],
    watched: int | None = None,
) -> Trace:
    """Runs a step of a network that has only the chosen blocks; see ``Trace``."""
    block = None if watched is None else list(stack.children())[watched]
    with only(stack, chosen):
        _give_shape(network)
        trained = [p for p in network.parameters() if p.requires_grad]
        known = _tensors(network)
        saved = _Saved(known)
        with Ledger(known) as ledger:
            for parameter in trained if accumulates else ():
                parameter.grad = torch.zeros_like(parameter)
            begin = len(ledger.moments)  # what is alive until then is alive after it, too
            images = torch.zeros(PICTURES, 3, size, size)
            labels = torch.zeros(PICTURES, dtype=torch.long)
            entered, left = [begin], list[int]()

            def watch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                if not left and len(entered) == 1:
                    entered.append(len(ledger.moments))
                    if inputs[0].requires_grad:
                        inputs[0].register_hook(lambda _: left.append(len(ledger.moments)))

            hook = None if block is None else block.register_forward_pre_hook(watch)
            with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    logits = network(images)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
            kept = saved.bytes()
            backward = len(ledger.moments)
            loss.backward()
        if hook is not None:
            hook.remove()
        for parameter in trained:
            parameter.grad = None
    return Trace(
        ledger.operations[begin:],
        ledger.moments[begin:],
        entered[-1] - begin,
        backward - begin,
        (left[0] if left else len(ledger.moments)) - begin,
        kept,
    )


class _Saved:
    """The storages that autograd saves, without those that are already known."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Records a tensor that autograd saves, and returns it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._seen[storage._cdata] = weakref.ref(storage)
        return tensor

    def bytes(self) -> Bytes:
        """Returns the bytes of those that are still alive."""
        alive = [storage for seen in self._seen.values() if (storage := seen()) is not None]
        parts = [parted(storage.nbytes()) for storage in alive]
        return sum(fixed for fixed, _ in parts), sum(growing for _, growing in parts)


def _give_shape(network: nn.Module) -> None:
    """Replaces every tensor, on the meta device or of an earlier count, by one on a fake CPU."""
    made: dict[int, nn.Parameter] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        shape, dtype = tensor.size(), tensor.dtype
        return torch.empty_strided(shape, tensor.stride(), dtype=dtype, device="cpu")

    for module in network.modules():
        if is_quantized(module):
            module.replace_tensors(fake)
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(
                        fake(parameter.detach()), parameter.requires_grad
                    )
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else fake(buffer)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    found = [*network.parameters(), *network.buffers()]
    for module in network.modules():
        if is_quantized(module):
            found += [*module.scales, *module.tables]
    return found
