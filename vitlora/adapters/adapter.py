"""What every way of training a backbone has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from vitlora.backbones import Backbone
from vitlora.errors import BundleError

HeadMode = Literal["full", "lora"]
Tensors = dict[str, torch.Tensor]


class Adapter(ABC):
    """Decides which tensors of a frozen backbone are trained, saved and loaded again."""

    #: Whether the backbone's own weights stay as they are, and so may be kept in fewer bits.
    freezes_base = True

    @abstractmethod
    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the network to train, built on the backbone's module, which it changes.

        Args:
            backbone: Frozen (and perhaps quantised) with a fresh head.
            head: Whether the head is trained in full or as LoRA.
        """

    @abstractmethod
    def check(self, backbone: Backbone, head: HeadMode) -> None:
        """Refuses, before anything is changed, what ``inject`` could not do.

        Raises:
            VitloraError: The adapter does not fit the backbone or the head.
        """

    def config(self, network: nn.Module) -> dict[str, Any] | None:
        """Returns the contents of ``adapter_config.json``; None where PEFT has no part in it."""
        return None

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns the tensors of the bundle by the names they have in its file."""
        return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}

    def load(self, network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies a bundle's tensors into a network that ``inject`` made.

        Raises:
            BundleError: A tensor is missing, unknown, or of another shape.
        """
        expected = self.tensors(network)
        check_tensors(tensors, expected)
        with torch.no_grad():
            for name, target in expected.items():
                target.copy_(tensors[name])


def check_tensors(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compares names and shapes of a bundle's tensors with those the network has.

    Raises:
        BundleError: They differ; the first difference is named.
    """
    if missing := sorted(expected.keys() - got.keys()):
        raise BundleError(f"the bundle lacks {len(missing)} tensors, first {missing[0]}")
    if extra := sorted(got.keys() - expected.keys()):
        raise BundleError(f"the bundle has {len(extra)} tensors too many, first {extra[0]}")
    for name, tensor in got.items():
        if tensor.shape != expected[name].shape:
            raise BundleError(
                f"{name} is {tuple(tensor.shape)} in the bundle, "
                f"expected {tuple(expected[name].shape)}"
            )
