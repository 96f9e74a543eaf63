"""What every source of backbones tells about one model, before anything is downloaded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vitlora.data.preprocessing import Preprocessing

StateDict = dict[str, torch.Tensor]

# what first weights are drawn with
_DRAWS = ("uniform_", "normal_", "erfinv_", "clamp_", "mul_", "add_", "fill_", "zero_")


@dataclass(frozen=True)
class Source:
    """One model of one source.

    Attributes:
        id: Canonical name, ``source/model.tag``.
        build: Number of classes -> timm's model at the weights' own image size, untrained. Runs
            under ``torch.device("meta")`` too.
        preprocessing: What these weights were evaluated with.
        fetch: Returns the weights' file on this disk: from the cache, else downloaded.
        url: Where a person can get that file by hand.
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
    """Lets networks be built without memory, and without the drawing of their first weights.

    There is nothing to draw, and on the meta device the attempt is slow Python that imports torch's
    compiler: a quarter of a second for a ViT-Tiny, two with the import.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        drawn = args[0] if args else given.get("tensor")  # torch.nn.init names it
        if getattr(func, "__name__", "") in _DRAWS and drawn is not None and drawn.is_meta:
            return drawn
        return func(*args, **given)
