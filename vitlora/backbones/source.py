"""What a source of backbones knows about one model before anything is downloaded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.overrides import TorchFunctionMode

from vitlora.data.preprocessing import Preprocessing

StateDict = dict[str, torch.Tensor]

# the operations that initialise weights
_DRAWS = ("uniform_", "normal_", "erfinv_", "clamp_", "mul_", "add_", "fill_", "zero_")


@dataclass(frozen=True)
class Source:
    """One model of one source.

    Attributes:
        id: Canonical name, ``source/model.tag``.
        build: Number of classes -> timm's untrained model at the weights' own image size. Also
            works under ``torch.device("meta")``.
        preprocessing: The preprocessing these weights were evaluated with.
        fetch: Returns the weights' file on this disk: from the cache, else downloaded.
        url: Where to get that file by hand.
        convert: The file's tensors -> timm's names.
    """

    id: str
    build: Callable[[int], nn.Module]
    preprocessing: Preprocessing
    fetch: Callable[[], Path]
    url: str
    convert: Callable[[StateDict, nn.Module], Mapping[str, torch.Tensor]]


@contextmanager
def on_meta() -> Iterator[None]:
    """Builds networks on the meta device, without memory and without initial weights.

    Initialising meta tensors has no effect, but runs slow Python that imports torch's compiler: a
    quarter of a second for a ViT-Tiny, two seconds with the import.
    """
    with torch.device("meta"), _Undrawn():
        yield


def tokens_of(module: nn.Module) -> int:
    """Returns the number of tokens that a ViT makes of a picture."""
    vit = as_vit(module)
    return vit.patch_embed.num_patches + vit.num_prefix_tokens


def as_vit(module: nn.Module) -> VisionTransformer:
    """Returns the module, typed as timm's ViT; ``Eva`` and ``Beit`` share its interface."""
    return cast(VisionTransformer, module)


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        drawn = args[0] if args else given.get("tensor")  # torch.nn.init's name for it
        if getattr(func, "__name__", "") in _DRAWS and drawn is not None and drawn.is_meta:
            return drawn
        return func(*args, **given)
