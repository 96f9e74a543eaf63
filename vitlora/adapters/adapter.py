"""What every way of training a backbone has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from vitlora.backbones import Backbone
from vitlora.quantization import Storage

HeadMode = Literal["full", "lora"]
Tensors = dict[str, torch.Tensor]


class Adapter(ABC):
    """Decides which tensors of a frozen backbone are trained, saved and loaded again."""

    #: Whether the backbone's own weights stay as they are, and so may be kept in fewer bits.
    freezes_base = True

    #: Whether a part of the frozen weights moves into the adapter, so that they must be exact.
    moves_base = False
    #: Whether the start depends on the weights as they were before rounding: ``undo_rounding``.
    needs_base = False

    @abstractmethod
    def check(self, backbone: Backbone, head: HeadMode, storage: Storage) -> None:
        """Refuses, before anything is changed, what ``inject`` could not do.

        Raises:
            VitloraError: The adapter does not fit the backbone, the head or the storage.
        """

    @abstractmethod
    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the network to train, built on the backbone's module, which it changes.

        Args:
            backbone: Frozen (and perhaps quantised) with a fresh head.
            head: Whether the head is trained in full or as LoRA.
        """

    def undo_rounding(  # noqa: B027 - few begin so
        self, network: nn.Module, base: Mapping[str, torch.Tensor]
    ) -> None:
        """Chooses the start by what rounding did to the base; called if ``needs_base``.

        Args:
            network: What ``inject`` returned.
            base: The backbone's parameters before they were rounded, by their names.
        """

    def look_at(  # noqa: B027 - most have nothing to choose
        self, network: nn.Module, loader: Callable[[], Iterable[Any]]
    ) -> None:
        """Chooses the start by what the training pictures look like, if the method does that.

        Args:
            network: What ``inject`` returned, on its device.
            loader: Makes a loader of training batches ``(images, labels)``.
        """

    def rate(self, name: str) -> float:
        """Returns what the learning rate of a trainable tensor is multiplied with."""
        return 1.0

    def config(self, network: nn.Module) -> dict[str, Any] | None:
        """Returns the contents of ``adapter_config.json``; None where PEFT has no part in it."""
        return None

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns the tensors of the bundle by the names they have in its file."""
        return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def count_trainable(network: nn.Module) -> int:
    """Returns how many numbers are trained; entries that stay zero by design do not count."""
    return sum(
        p.numel() - getattr(p, "always_zero", 0) for p in network.parameters() if p.requires_grad
    )
