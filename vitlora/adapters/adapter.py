"""What every way of training a backbone has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from vitlora.backbones import Backbone
from vitlora.errors import AdapterError
from vitlora.quantization import Storage

HeadMode = Literal["full", "lora"]

_SCALING = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
Tensors = dict[str, torch.Tensor]


class Adapter(ABC):
    """Decides which tensors of a frozen backbone are trained, saved and loaded again."""

    #: Whether the backbone's own weights stay as they are, and so may be kept in fewer bits.
    freezes_base = True

    #: Whether a part of the frozen weights moves into the adapter, so that they must be exact.
    moves_base = False
    #: Whether the start depends on the weights as they were before rounding: ``init_loftq``.
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

    def init_loftq(  # noqa: B027 - few begin so
        self, network: nn.Module, base: Mapping[str, torch.Tensor]
    ) -> None:
        """Chooses the start by what rounding did to the base; called if ``needs_base``.

        Args:
            network: What ``inject`` returned.
            base: The backbone's parameters before they were rounded, by their names.
        """

    def init_from_data(  # noqa: B027 - most have nothing to choose
        self, network: nn.Module, loader: Callable[[], Iterable[Any]]
    ) -> None:
        """Chooses the start by what the training pictures look like, if the method does that.

        Args:
            network: What ``inject`` returned, on its device.
            loader: Makes a loader of training batches ``(images, labels)``.
        """

    def start_from(
        self, network: nn.Module, tensors: Mapping[str, torch.Tensor], config: Any
    ) -> None:
        """Starts where the training of a bundle ended: undoes ``tensors``.

        Where the head has more rows than the bundle's, the new ones are zeros.

        Args:
            network: What ``inject`` returned.
            tensors: Those of the bundle.
            config: What ``config`` said of its network.

        Raises:
            AdapterError: They are not of such a network.
        """
        own = self.tensors(network)
        if tensors.keys() != own.keys() or not _same(config, self.config(network)):
            raise AdapterError(
                "the bundle's adapter is not the one its config.yaml describes, so training cannot "
                "go on from it"
            )
        start = {name: _with_new_rows(name, tensors[name], own[name]) for name in own}
        self.load(network, start)
        now = self.tensors(network)
        if wrong := [name for name in own if not torch.equal(now[name].cpu(), start[name])]:
            raise AdapterError(f"{wrong[0]} of the bundle did not reach the network")

    @torch.no_grad()
    def load(self, network: nn.Module, tensors: Tensors) -> None:
        """Copies tensors into the network, by the names that ``tensors`` gives them."""
        parameters = dict(network.named_parameters())
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)

    def rate(self, name: str) -> float:
        """Returns what the learning rate of a trainable tensor is multiplied with."""
        return 1.0

    def config(self, network: nn.Module) -> dict[str, Any] | None:
        """Returns the contents of ``adapter_config.json``; None where PEFT has no part in it."""
        return None

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns the tensors of the bundle by the names they have in its file."""
        return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def _with_new_rows(name: str, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns the bundle's tensor in the dtype and, if it is the head's, the rows of ``like``."""
    more = len(like) - len(tensor) if tensor.ndim else 0
    if more > 0 and "head" in name.split("."):
        tensor = torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])])
    if tensor.shape != like.shape:
        raise AdapterError(
            f"{name} of the bundle is {tuple(tensor.shape)}, the network's {tuple(like.shape)}"
        )
    return tensor.to(like.dtype)


def _same(bundles: Any, own: Any) -> bool:
    """Returns whether two PEFT configurations scale their updates alike; None where there is none.

    Which layers they adapt is told by the tensors.
    """
    if bundles is None or own is None:
        return bundles is own
    return all(bundles.get(key) == own.get(key) for key in _SCALING)


def count_trainable(network: nn.Module) -> int:
    """Returns how many numbers are trained; entries that stay zero by design do not count."""
    return sum(
        p.numel() - getattr(p, "always_zero", 0) for p in network.parameters() if p.requires_grad
    )
