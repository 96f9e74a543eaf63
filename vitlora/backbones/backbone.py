"""One record for every Vision Transformer, wherever it comes from."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitlora.backbones import micro, timm, torchvision
from vitlora.backbones.source import Source, StateDict, on_meta
from vitlora.backbones.weights import (
    INDEX,
    Tensors,
    Weights,
    check_fits,
    converted,
    fill,
    find_weights,
    open_weights,
)
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BackboneError, nearest

# What a linear layer does -> where it sits. `\d+` stands for the block. Where q, k and v share one
# layer, that layer plays the role of each.
ROLES = {
    "attention.qkv": r"blocks.\d+.attn.(qkv|[qkv]_proj)",
    "attention.q": r"blocks.\d+.attn.(qkv|q_proj)",
    "attention.k": r"blocks.\d+.attn.(qkv|k_proj)",
    "attention.v": r"blocks.\d+.attn.(qkv|v_proj)",
    "attention.proj": r"blocks.\d+.attn.proj",
    "mlp.fc1": r"blocks.\d+.mlp.fc1(_[gx])?",  # gate and value, where SwiGLU keeps them apart
    "mlp.fc2": r"blocks.\d+.mlp.fc2",
    "head": "head",
}
# Together every linear layer of a block, each once.
BLOCK_ROLES = ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")

_SOURCES = {"timm": timm.find, "torchvision": torchvision.find, "vitlora": micro.find}


@dataclass
class Backbone:
    """A Vision Transformer with what the rest of vitlora needs to know of it.

    Attributes:
        id: ``source/model.tag``.
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit`` with a fresh head, all zeros.
        preprocessing: What the weights want of a picture.
        digest: SHA-256 of the weights as they came, the head left out; empty before ``load``.
        weights: The file the weights are read from; None for a random start.
        read: Opens the weights, by timm's names.
        stored: What ``load`` is to fill the module with; None once it did.
    """

    id: str
    module: nn.Module
    preprocessing: Preprocessing
    digest: str
    weights: Path | None
    read: Callable[[], Weights] = field(default=dict, repr=False)
    stored: Weights | None = field(default=None, repr=False)

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self.module.blocks)  # pyright: ignore[reportArgumentType]

    def load(self, keep: Callable[[str], None] | None = None) -> None:
        """Fills the module, one tensor at a time, in the order of their names.

        Args:
            keep: Called with the path of each part of the module that has tensors of its own, once
                they are there in fp32: the time to keep them in fewer bits.

        Raises:
            BackboneError: A file changed meanwhile, or a buffer cannot be computed.
        """
        if self.stored is not None:
            self.digest = fill(self.module, self.stored, keep)
            self.stored = None
            _fill_buffers(self.id, self.module)
            _set_image_size(self.module, self.preprocessing.image_size)
        elif keep is not None:
            for path in dict.fromkeys(name.rpartition(".")[0] for name in self.module.state_dict()):
                keep(path)

    def original(self) -> Tensors:
        """Returns the weights as they came, by timm's names, each read when it is asked for."""
        return Tensors(self.read())

    def never_decayed(self) -> set[int]:
        """Returns the ``id`` of each parameter that timm exempts from weight decay by its name."""
        exempt: set[str] = self.module.no_weight_decay()  # pyright: ignore
        return {id(p) for name, p in self.module.named_parameters() if name in exempt}

    def layers(self, role: str, last_blocks: int | None = None) -> list[str]:
        """Returns the module paths of a role, first block first.

        Args:
            role: A key of ``ROLES``.
            last_blocks: How many blocks, counted from the head; None for all.

        Raises:
            BackboneError: The role is unknown, or no linear layer of the module plays it.
        """
        if role not in ROLES:
            raise BackboneError(
                f"role '{role}' is unknown; expected one of {', '.join(ROLES)}"
                f"{nearest(role, ROLES)}"
            )
        first = 0 if last_blocks is None else self.num_blocks - last_blocks
        found = [
            name
            for name, layer in self.module.named_modules()
            if re.fullmatch(ROLES[role], name)
            and isinstance(layer, nn.Linear)
            and (role == "head" or int(name.split(".")[1]) >= first)
        ]
        if not found:
            raise BackboneError(f"{self.id} has no linear layer in the role '{role}'")
        return found


def load_backbone(
    name: str,
    num_classes: int,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> Backbone:
    """Returns a backbone with its weights in fp32 and a fresh head of zeros.

    Args:
        name: ``source/model[.tag]``; the sources are timm, torchvision and vitlora.
        num_classes: Outputs of the fresh head.
        weights: A .safetensors file, the folder or the index of a sharded one, a .pth (read without
            running any code in it), ``none`` for a random start that is the same every time, or
            None for the source's own file.
        image_size: Side of the input in pixels, a multiple of the patch size; None for the
            weights' own. The position embedding is resampled.

    Raises:
        BackboneError: An unknown name, weights that cannot be had or do not fit, a bad image size.
    """
    backbone = open_backbone(name, num_classes, weights, image_size)
    backbone.load()
    return backbone


def open_backbone(
    name: str,
    num_classes: int,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> Backbone:
    """Returns a backbone whose module has no memory yet; its weights are known to fit.

    ``Backbone.load`` fills it. Arguments and errors are those of ``load_backbone``.
    """
    source = find_source(name)
    with on_meta():
        module = source.build(num_classes)
    random = weights is not None and str(weights).lower() == "none"
    file = None if random else _weights_file(source, weights)

    stored = _read(source, file, module)
    check_fits(stored, module, f"{file} does not hold the weights of {source.id}")
    size = image_size or source.preprocessing.image_size
    _check_image_size(source, module, size)
    seen = source.preprocessing.at(size)
    return Backbone(source.id, module, seen, "", file, partial(_read, source, file), stored)


def outline(
    name: str, num_classes: int, weights: object = None, image_size: int | None = None
) -> Backbone:
    """Returns a backbone of shapes alone, on the meta device, for the memory plan.

    Args:
        name: As for ``load_backbone``.
        num_classes: Outputs of the head.
        weights: Not looked at.
        image_size: As for ``load_backbone``.

    Raises:
        BackboneError: An unknown name, a bad image size.
    """
    source = find_source(name)
    size = image_size or source.preprocessing.image_size
    with on_meta():
        module = source.build(num_classes)
        _check_image_size(source, module, size)
        _set_image_size(module, size)
    blanks = dict(module.state_dict())
    return Backbone(source.id, module, source.preprocessing.at(size), "", None, lambda: blanks)


def features_and_logits(
    module: nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what the head of a plain ViT is given, ``(B, D)``, and its logits ``(B, C)``, fp32.

    Args:
        module: timm's, in evaluation mode.
        images: ``(B, 3, H, W)``, normalised, on the module's device.
    """
    vit: Any = module
    features = vit.forward_head(vit.forward_features(images), pre_logits=True)
    return features.float(), vit.head(features).float()


def find_source(name: str) -> Source:
    """Returns what is known of a backbone before anything is downloaded.

    Raises:
        BackboneError: No source has such a model.
    """
    source, slash, model = name.partition("/")
    if not slash or source not in _SOURCES:
        raise BackboneError(
            f"model.backbone '{name}': expected source/model.tag with a source of "
            f"{', '.join(_SOURCES)}, as in timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
        )
    return _SOURCES[source](model)


def _weights_file(source: Source, weights: str | Path | None) -> Path:
    if weights is not None:
        file = find_weights(weights)
        if file is None and Path(weights).expanduser().is_dir():
            raise BackboneError(
                f"model.weights '{weights}': the folder holds neither {INDEX} nor "
                f"model.safetensors; expected {source.url}"
            )
        if file is None:
            raise BackboneError(f"model.weights '{weights}': no such file; expected {source.url}")
        return file
    try:
        return source.fetch()
    # huggingface_hub and urllib raise many kinds of error for "no network"; all mean the same here
    except Exception as error:
        raise BackboneError(
            f"the weights of {source.id} are not on this machine and could not be downloaded "
            f"({type(error).__name__}); get {source.url} and pass --model.weights FILE "
            "(vitlora predict: --weights FILE)"
        ) from error


def _read(source: Source, file: Path | None, module: nn.Module | None = None) -> Weights:
    """Opens weights by timm's names; None for the file is a random start."""
    if file is None:
        return dict(_random_start(source))
    if module is None:
        with on_meta():
            module = source.build(1)
    return converted(open_weights(file), source, module)


def _random_start(source: Source) -> StateDict:
    """Returns the same random weights every time, whatever the number of classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return source.build(0).state_dict()


def _fill_buffers(name: str, module: nn.Module) -> None:
    """Computes the buffers that no file holds, such as rotary angles; timm's parts know how."""
    for part in module.modules():
        if hasattr(part, "init_non_persistent_buffers"):
            for key, buffer in part.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(part, key, torch.zeros_like(buffer, device="cpu"))
            part.init_non_persistent_buffers()  # pyright: ignore[reportCallIssue]
    for key, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_meta:
            raise BackboneError(
                f"{name} keeps '{key}' out of its weights and does not tell how to compute "
                "it; take another model.backbone"
            )


def _check_image_size(source: Source, module: nn.Module, size: int) -> None:
    patch = module.patch_embed.patch_size[0]  # pyright: ignore
    if size < patch or size % patch:
        raise BackboneError(
            f"model.image_size is {size}; {source.id} takes multiples of its {patch}-pixel patch"
        )


def _set_image_size(module: nn.Module, size: int) -> None:
    if module.patch_embed.img_size != (size, size):  # pyright: ignore
        module.set_input_size(img_size=(size, size))  # pyright: ignore[reportCallIssue]
