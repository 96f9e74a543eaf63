"""The memory that a training run needs, for any batch size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitlora.backbones import as_vit, outline
from vitlora.hardware import storage_dtype
from vitlora.memory.ledger import count_step
from vitlora.pieces import pictures_at_once
from vitlora.quantization import Storage, frozen_bytes
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import state_bytes, step_bytes


@dataclass(frozen=True)
class Footprint:
    """What training takes, in bytes.

    Attributes:
        base: The backbone's weights as they are kept, with the scales of 4-bit weights; a device's
            part of them where they are spread.
        adapters: The weights that are trained beside the base; 0 if the base is trained.
        gradients: One gradient for each trained number.
        optimizer: The optimiser's state.
        saved: What autograd keeps of each picture for the backward pass.
        stepping: What the optimiser's step needs, with the gradients.
        moments: ``(N, 2)``, at each moment of the forward and the backward pass, with the
            gradients: bytes that do not grow with the batch, and bytes for each picture.
        image_size: Side of the pictures in pixels.
        parameters: Number of the backbone's parameters, with the head.
        gathered: The blocks that are whole while they are computed, where the weights are spread;
            part of ``moments``.
        at_once: Pictures that are computed at once, in a larger batch; None for all.
        kept: Gradients of earlier batches that are kept meanwhile and are not part of ``moments``.
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
    gathered: int = 0
    at_once: int | None = None
    kept: int = 0

    def total(self, batch: int) -> int:
        """Returns the peak of a step on ``batch`` pictures."""
        some = self.pictures(batch)
        working = self.kept + int((self.moments[:, 0] + some * self.moments[:, 1]).max())
        if some < batch:
            working += self.gradients + (batch - some) * self._picture
        return self.base + self.adapters + self.optimizer + max(working, self.stepping)

    def pictures(self, batch: int) -> int:
        """Returns how many pictures of a batch are computed at once."""
        return batch if self.at_once is None else min(batch, self.at_once)

    def activations(self, batch: int) -> int:
        """Returns the part of the peak that is not weights, gradients or optimiser state."""
        fixed = self.base + self.adapters + self.gradients + self.optimizer
        return max(self.total(batch) - fixed, 0)

    def largest_batch(self, room: float) -> int:
        """Returns the largest batch that fits into ``room`` bytes; 0 if none does."""
        fixed = self.base + self.adapters + self.optimizer + self.kept
        if self.total(1) > room:
            return 0
        if self.at_once is not None and (left := room - self.total(self.at_once + 1)) >= 0:
            return self.at_once + 1 + int(left / self._picture)
        start, more = self.moments[:, 0], self.moments[:, 1]
        growing = more > 0
        most = max(1, int(((room - fixed - start[growing]) / more[growing]).min()))
        return most if self.at_once is None else min(most, self.at_once)

    @property
    def _picture(self) -> int:
        """Bytes of a picture that is not computed yet, or no longer."""
        return 3 * self.image_size**2 * torch.float32.itemsize


class _Outline(Classifier):
    """The classifier of a run, on a backbone without weights."""

    load = staticmethod(outline)


def footprint(
    model: dict[str, Any],
    num_classes: int,
    device: str,
    precision: str,
    accumulates: bool = False,
    kept: Storage | None = None,
    spread_over: int = 1,
) -> Footprint:
    """Counts what a run needs, on the network that it would train, without its weights.

    Args and errors are those of ``footprints``; ``model`` says whether blocks are recomputed.
    """
    ways = [bool(model.get("checkpointing", False))]
    return next(
        footprints(model, num_classes, device, precision, accumulates, kept, ways, spread_over)
    )


def footprints(
    model: dict[str, Any],
    num_classes: int,
    device: str,
    precision: str,
    accumulates: bool = False,
    kept: Storage | None = None,
    checkpointing: Iterable[bool] = (False, True),
    spread_over: int = 1,
) -> Iterator[Footprint]:
    """Yields what a run needs in each way; see ``footprint``. The network is built once.

    Args:
        model: Options of ``Classifier``, ``num_classes`` aside; the adapter as an object.
        num_classes: Outputs of the head.
        device: Kind of device: cpu, cuda or mps.
        precision: Lightning's name of the precision.
        accumulates: Whether gradients are kept from step to step: several batches make one step,
            or several devices share one, with DDP's buckets.
        kept: How the bundle from which training continues keeps its base.
        checkpointing: Whether blocks are recomputed in the backward pass, for each way.
        spread_over: Number of devices over which fsdp spreads the frozen weights of the blocks.

    Raises:
        VitloraError: The options do not fit the backbone or each other.
    """
    module = _Outline(num_classes, **{**model, "compile": False})
    if kept is not None:
        module.keep_as(kept)
    parameters = sum(p.numel() for p in module.backbone.module.parameters())
    with torch.device("meta"):
        module.build(torch.device(device), precision)
    network = module.built_network()
    trained = [p for p in network.parameters() if p.requires_grad]
    weights = _bytes(trained)
    frozen = frozen_bytes(network)
    saved, gathered = _spread(as_vit(module.backbone.module).blocks, spread_over)
    frozen -= saved
    base, adapters = (frozen, weights) if module.adapter.freezes_base else (frozen + weights, 0)
    optimizer = state_bytes(module.optimizer, trained)
    stepping = weights + step_bytes(module.optimizer, trained, device)
    size = module.backbone.preprocessing.image_size
    at_once = None if spread_over > 1 else pictures_at_once(device, module.tokens)
    for recomputed in checkpointing:
        as_vit(module.backbone.module).set_grad_checkpointing(recomputed)
        # the gradients of a piece are all there before they are added to those of earlier ones
        beside = accumulates and at_once is None
        step = count_step(network.train(), size, storage_dtype(precision), beside)
        moments = torch.tensor(step.moments, dtype=torch.float64)
        moments[:, 0] += gathered
        yield Footprint(
            base=base,
            adapters=adapters,
            gradients=weights,
            optimizer=optimizer,
            saved=step.saved[1],
            stepping=stepping,
            moments=moments,
            image_size=size,
            parameters=parameters,
            gathered=gathered,
            at_once=at_once,
            kept=weights if accumulates and not beside else 0,
        )


def _spread(blocks: Iterable[nn.Module], devices: int) -> tuple[int, int]:
    """Returns what it saves each device to spread the frozen weights of blocks, and what it costs.

    Each weight is spread by its rows. A block is put together when it is computed, and then it is
    there twice: as it came from the other devices, and as its layers read it.

    Args:
        blocks: With their trained parameters marked.
        devices: Their number; with one, nothing is spread.

    Returns:
        Bytes that a device does not keep between two blocks; bytes of the largest block, twice.
    """
    saved = largest = 0
    for block in blocks if devices > 1 else ():
        whole = 0
        for weight in block.parameters():
            if not weight.requires_grad:
                row = weight[0].numel() * weight.element_size()
                whole += len(weight) * row
                saved += (len(weight) - -(-len(weight) // devices)) * row
        largest = max(largest, whole)
    return saved, 2 * largest


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
