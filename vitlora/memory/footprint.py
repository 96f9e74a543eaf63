"""What a way of training takes of the memory, for any number of pictures at once."""

from dataclasses import dataclass
from typing import Any

import torch

from vitlora.backbones import outline
from vitlora.hardware import storage_dtype
from vitlora.memory.ledger import count_step
from vitlora.quantization import Storage, frozen_bytes
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import state_bytes, step_bytes


@dataclass(frozen=True)
class Footprint:
    """What training takes, in bytes.

    Attributes:
        base: Of the backbone's weights as they are kept, scales of 4-bit weights included.
        adapters: Of the weights that are trained beside it; 0 where the base is trained.
        gradients: Of one gradient for each trained number.
        optimizer: Of the optimiser's state.
        saved: That autograd keeps of each picture for the backward pass.
        stepping: While the optimiser steps, gradients included.
        moments: ``(N, 2)``, at each moment of forward and backward pass, gradients included: those
            that do not grow with the batch, and those for each picture.
        image_size: Side of the pictures in pixels.
        parameters: Numbers of the backbone, head included.
    """

    base: int
    adapters: int
    gradients: int
    optimizer: int
    saved: int
    stepping: int
    moments: torch.Tensor
    image_size: int
    parameters: int

    def total(self, batch: int) -> int:
        """Returns the peak over a step on so many pictures."""
        working = int((self.moments[:, 0] + batch * self.moments[:, 1]).max())
        return self.base + self.adapters + self.optimizer + max(working, self.stepping)

    def activations(self, batch: int) -> int:
        """Returns what of the peak is neither weights, gradients nor optimiser state."""
        fixed = self.base + self.adapters + self.gradients + self.optimizer
        return max(self.total(batch) - fixed, 0)

    def largest_batch(self, room: float) -> int:
        """Returns how many pictures at once fit into so many bytes; 0 if not one does."""
        fixed = self.base + self.adapters + self.optimizer
        if self.total(1) > room:
            return 0
        start, more = self.moments[:, 0], self.moments[:, 1]
        growing = more > 0
        return max(1, int(((room - fixed - start[growing]) / more[growing]).min()))


class _Outline(Classifier):
    """The classifier of a run on a backbone without weights."""

    load = staticmethod(outline)


def footprint(
    model: dict[str, Any],
    num_classes: int,
    device: str,
    precision: str,
    accumulates: bool = False,
    kept: Storage | None = None,
) -> Footprint:
    """Counts what a run takes, on the very network that it would train, without its weights.

    Args:
        model: Options of ``Classifier``, ``num_classes`` aside; the adapter as an object.
        num_classes: Outputs of the head.
        device: Kind of device it is to run on: cpu, cuda or mps.
        precision: Lightning's name of it.
        accumulates: Whether several batches go into one step, so that gradients stay.
        kept: How a bundle that the run goes on from keeps its base.

    Raises:
        VitloraError: The options do not fit the backbone or each other.
    """
    module = _Outline(num_classes, **{**model, "compile": False})
    if kept is not None:
        module.keep_as(kept)
    parameters = sum(p.numel() for p in module.backbone.module.parameters())
    with torch.device("meta"):
        module.build(torch.device(device), precision)
    network: Any = module.network
    trained = [p for p in network.parameters() if p.requires_grad]
    weights = _bytes(trained)
    frozen = frozen_bytes(network)
    base, adapters = (frozen, weights) if module.adapter.freezes_base else (frozen + weights, 0)
    optimizer = state_bytes(module.optimizer, trained)
    stepping = weights + step_bytes(module.optimizer, trained, device)
    size = module.backbone.preprocessing.image_size
    step = count_step(network.train(), size, storage_dtype(precision), accumulates)
    return Footprint(
        base=base,
        adapters=adapters,
        gradients=weights,
        optimizer=optimizer,
        saved=step.saved[1],
        stepping=stepping,
        moments=torch.tensor(step.moments, dtype=torch.float64),
        image_size=size,
        parameters=parameters,
    )


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
