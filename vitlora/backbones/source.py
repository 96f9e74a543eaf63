"""What every source of backbones tells about one model, before anything is downloaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitlora.data.preprocessing import Preprocessing

StateDict = dict[str, torch.Tensor]


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
