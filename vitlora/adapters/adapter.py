"""The interface of every way to train a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from vitlora.backbones import Backbone
from vitlora.errors import AdapterError
from vitlora.quantization import Storage

HeadMode = Literal["full", "lora"]
Tensors: TypeAlias = dict[str, torch.Tensor]
Loader: TypeAlias = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]
PeftConfig: TypeAlias = dict[str, Any]  # adapter_config.json: numbers, texts, patterns, null

_SCALING = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")


class Adapter(ABC):
    """Decides which tensors of a frozen backbone are trained, saved and loaded again."""

    #: Whether the backbone's weights are frozen, and so may be kept in fewer bits.
    freezes_base = True
    #: Whether a part of the frozen weights moves into the adapter, so they must not be rounded.
    moves_base = False
    #: Whether the start depends on the weights before rounding; see ``init_loftq``.
    needs_base = False

    @abstractmethod
    def check(self, backbone: Backbone, head: HeadMode, storage: Storage) -> None:
        """Refuses what ``inject`` cannot do, before anything is changed.

        Raises:
            VitloraError: The adapter does not fit the backbone, the head or the storage.
        """

    @abstractmethod
    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the network to train; changes the backbone's module.

        Args:
            backbone: Frozen (and perhaps quantised), with a fresh head.
            head: Whether the head is trained in full or as LoRA.
        """

    def init_loftq(  # noqa: B027 - optional
        self, network: nn.Module, base: Mapping[str, torch.Tensor]
    ) -> None:
        """Initialises the adapter from the rounding error of the base; called if ``needs_base``.

        Args:
            network: What ``inject`` returned.
            base: Parameter name -> the backbone's parameter before rounding.
        """

    def init_from_data(  # noqa: B027 - optional
        self, network: nn.Module, loader: Loader
    ) -> None:
        """Initialises the adapter from the training pictures, if the method does that.

        Args:
            network: What ``inject`` returned, on its device.
            loader: Returns an iterable of training batches ``(images, labels)``.
        """

    def start_from(
        self, network: nn.Module, tensors: Mapping[str, torch.Tensor], config: PeftConfig | None
    ) -> None:
        """Loads the tensors of a bundle, so that training continues from it.

        If the network's head has more rows than the bundle's, the new rows are zeros.

        Args:
            network: What ``inject`` returned.
            tensors: The bundle's, as ``tensors`` returned them.
            config: The bundle's, as ``config`` returned it.

        Raises:
            AdapterError: The bundle was made by another kind of network.
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
        """Copies tensors into the network; their names are those of ``tensors``."""
        parameters = dict(network.named_parameters())
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)

    def rate(self, name: str) -> float:
        """Returns the factor on the learning rate of a trainable tensor."""
        return 1.0

    def config(self, network: nn.Module) -> PeftConfig | None:
        """Returns the contents of ``adapter_config.json``; None if PEFT is not used."""
        return None

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns the tensors to save, by their names in the bundle's file."""
        return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def _with_new_rows(name: str, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns the tensor in the dtype of ``like``; a head's gets as many rows as ``like``."""
    more = len(like) - len(tensor) if tensor.ndim else 0
    if more > 0 and "head" in name.split("."):
        tensor = torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])])
    if tensor.shape != like.shape:
        raise AdapterError(
            f"{name} of the bundle is {tuple(tensor.shape)}, the network's {tuple(like.shape)}"
        )
    return tensor.to(like.dtype)


def _same(bundles: PeftConfig | None, own: PeftConfig | None) -> bool:
    """Returns whether two PEFT configurations, or their absence, scale updates in the same way.

    The names of the tensors show which layers are adapted.
    """
    if bundles is None or own is None:
        return bundles is own
    return all(bundles.get(key) == own.get(key) for key in _SCALING)


def count_trainable(network: nn.Module) -> int:
    """Returns the number of trainable parameters, without entries that stay zero by design."""
    return sum(
        p.numel() - getattr(p, "always_zero", 0) for p in network.parameters() if p.requires_grad
    )
