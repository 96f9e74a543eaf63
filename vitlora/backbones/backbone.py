"""One record for every Vision Transformer, whatever its source."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from vitlora.backbones import micro, timm, torchvision
from vitlora.backbones.source import Source, StateDict, as_vit, on_meta, tokens_of
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
from vitlora.files import expanded
from vitlora.pieces import joined, pieces

# What a linear layer does -> where it sits. `\d+` is the block. If q, k and v share one layer, it
# has the role of each.
ROLES = {
    "attention.qkv": r"blocks.\d+.attn.(qkv|[qkv]_proj)",
    "attention.q": r"blocks.\d+.attn.(qkv|q_proj)",
    "attention.k": r"blocks.\d+.attn.(qkv|k_proj)",
    "attention.v": r"blocks.\d+.attn.(qkv|v_proj)",
    "attention.proj": r"blocks.\d+.attn.proj",
    "mlp.fc1": r"blocks.\d+.mlp.fc1(_[gx])?",  # SwiGLU may have two: gate and value
    "mlp.fc2": r"blocks.\d+.mlp.fc2",
    "head": "head",
}
# These roles cover each linear layer of a block once.
BLOCK_ROLES = ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")

_SOURCES = {"timm": timm.find, "torchvision": torchvision.find, "vitlora": micro.find}


@dataclass
class Backbone:
    """A Vision Transformer, and what the rest of vitlora needs to know about it.

    Attributes:
        id: ``source/model.tag``.
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit`` with a fresh head, all zeros.
        preprocessing: How the weights expect pictures to be prepared.
        digest: SHA-256 of the original weights without the head; empty before ``load``.
        weights: The file with the weights; None for a random start.
        read: Opens the weights; the names are timm's.
        stored: The weights that ``load`` puts into the module; None after that.
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
        return len(as_vit(self.module).blocks)

    def load(self, keep: Callable[[str], None] | None = None) -> None:
        """Fills the module, one tensor at a time, in the order of their names.

        Args:
            keep: Called with the path of each submodule when its own tensors are loaded, in fp32;
                it may then store them in fewer bits.

        Raises:
            BackboneError: A file changed since it was opened, or a buffer cannot be computed.
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
        """Returns the original weights by timm's names; each is read when it is used."""
        return Tensors(self.read())

    def never_decayed(self) -> set[int]:
        """Returns the ``id`` of each parameter that timm exempts from weight decay."""
        exempt = as_vit(self.module).no_weight_decay()
        return {id(p) for name, p in self.module.named_parameters() if name in exempt}

    def layers(self, role: str, last_blocks: int | None = None) -> list[str]:
        """Returns the module paths of a role, first block first.

        Args:
            role: A key of ``ROLES``.
            last_blocks: Number of blocks, counted from the head; None for all.

        Raises:
            BackboneError: The role is unknown, or no linear layer of the module has it.
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
            running code in it), ``none`` for a random start that is the same every time, or None
            for the source's own file.
        image_size: Side of the input in pixels, a multiple of the patch size; None for the size of
            the weights. The position embedding is resampled.

    Raises:
        BackboneError: An unknown name, missing weights, weights that do not fit, a bad image size.
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
    """Returns a backbone whose module is still on the meta device; its weights are known to fit.

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
    preprocessing, read = source.preprocessing.at(size), partial(_read, source, file)
    return Backbone(source.id, module, preprocessing, "", file, read, stored)


def outline(
    name: str, num_classes: int, weights: object = None, image_size: int | None = None
) -> Backbone:
    """Returns a backbone without weights, on the meta device, for the memory plan.

    Args:
        name: As for ``load_backbone``.
        num_classes: Outputs of the head.
        weights: Ignored; ``open_backbone`` has the same arguments.
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
    """Returns the head's input ``(B, D)`` and the logits ``(B, C)`` of a plain ViT, fp32.

    Args:
        module: timm's ViT, in evaluation mode.
        images: ``(B, 3, H, W)``, at least one, normalised, on the module's device.
    """
    parts = [at_once(module, some) for some in pieces(images, tokens_of(module))]
    features, logits = zip(*parts, strict=True)
    return joined(features), joined(logits)


def at_once(module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what ``features_and_logits`` does, in one pass for all pictures, to be traced."""
    vit = as_vit(module)
    features = vit.forward_head(vit.forward_features(images), pre_logits=True)
    return features.float(), vit.head(features).float()


@cache  # timm builds a whole network to find one
def find_source(name: str) -> Source:
    """Returns what is known about a backbone before anything is downloaded.

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
        if file is None and expanded(weights).is_dir():
            raise BackboneError(
                f"--weights '{weights}': the folder has neither {INDEX} nor "
                f"model.safetensors; expected {source.url}"
            )
        if file is None:
            raise BackboneError(f"--weights '{weights}': no such file; download {source.url}")
        return file
    try:
        return source.fetch()
    # without a network, huggingface_hub and urllib raise many kinds of errors
    except Exception as error:
        raise BackboneError(
            f"the weights of {source.id} are not on this machine and could not be downloaded "
            f"({type(error).__name__}); download {source.url} and pass --weights FILE"
        ) from error


def _read(source: Source, file: Path | None, module: nn.Module | None = None) -> Weights:
    """Opens weights by timm's names; a file of None means a random start."""
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
    """Computes the buffers that no file holds, such as rotary angles, by timm's own methods."""
    for part in module.modules():
        if hasattr(part, "init_non_persistent_buffers"):
            for key, buffer in part.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(part, key, torch.zeros_like(buffer, device="cpu"))
            part.init_non_persistent_buffers()  # pyright: ignore[reportCallIssue]
    for key, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_meta:
            raise BackboneError(
                f"the weights of {name} do not contain '{key}', and timm cannot compute it; take "
                "another model.backbone"
            )


def _check_image_size(source: Source, module: nn.Module, size: int) -> None:
    patch = as_vit(module).patch_embed.patch_size[0]
    if size < patch or size % patch:
        raise BackboneError(
            f"model.image_size is {size}; {source.id} takes multiples of its {patch}-pixel patch"
        )


def _set_image_size(module: nn.Module, size: int) -> None:
    vit = as_vit(module)
    if vit.patch_embed.img_size != (size, size):
        vit.set_input_size(img_size=(size, size))
