"""One record for every Vision Transformer, wherever it comes from."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from vitlora.backbones import micro, timm, torchvision
from vitlora.backbones.source import Source, StateDict, on_meta
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
        digest: SHA-256 of the weights as they came, the head left out.
        weights: The file the weights were read from; None for a random start.
    """

    id: str
    module: nn.Module
    preprocessing: Preprocessing
    digest: str
    weights: Path | None

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self.module.blocks)  # pyright: ignore[reportArgumentType]

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
    """Returns a backbone with its weights and a fresh head of zeros.

    Args:
        name: ``source/model[.tag]``; the sources are timm, torchvision and vitlora.
        num_classes: Outputs of the fresh head.
        weights: A .safetensors file (or a .pth, read without running any code in it), ``none`` for
            a random start that is the same every time, or None for the source's own file.
        image_size: Side of the input in pixels, a multiple of the patch size; None for the
            weights' own. The position embedding is resampled.

    Raises:
        BackboneError: An unknown name, weights that cannot be had or do not fit, a bad image size.
    """
    source = find_source(name)
    with on_meta():
        module = source.build(num_classes)
    if str(weights).lower() == "none" and weights is not None:
        file, state = None, _random_start(source)
    else:
        file = _weights_file(source, weights)
        state = source.convert(_read_tensors(file), module)
    _fill(module, state, f"{file} does not hold the weights of {source.id}")
    _fill_buffers(source, module)
    digest = weights_digest(module)
    size = image_size or source.preprocessing.image_size
    _set_image_size(source, module, size)
    return Backbone(source.id, module, source.preprocessing.at(size), digest, file)


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
    with torch.device("meta"):
        module = source.build(num_classes)
        size = image_size or source.preprocessing.image_size
        _set_image_size(source, module, size)
    return Backbone(source.id, module, source.preprocessing.at(size), "", None)


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


def weights_digest(module: nn.Module) -> str:
    """Returns the SHA-256 of all tensors but the head's, by name, shape and fp32 value."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.startswith("head."):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().contiguous().numpy().data)
    return digest.hexdigest()


def _weights_file(source: Source, weights: str | Path | None) -> Path:
    if weights is not None:
        file = Path(weights).expanduser()
        if not file.is_file():
            raise BackboneError(f"model.weights '{weights}': no such file; expected {source.url}")
        return file
    try:
        return source.fetch()
    # huggingface_hub and urllib raise many kinds of error for "no network"; all mean the same here
    except Exception as error:
        raise BackboneError(
            f"the weights of {source.id} are not on this machine and could not be downloaded "
            f"({type(error).__name__}); get {source.url} and pass --model.weights FILE "
            "(predict.py: --weights FILE)"
        ) from error


def _random_start(source: Source) -> StateDict:
    """Returns the same random weights every time, whatever the number of classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return source.build(0).state_dict()


def _fill(module: nn.Module, state: Mapping[str, torch.Tensor], complaint: str) -> None:
    """Puts fp32 weights and a head of zeros into a module that was built without memory."""
    expected = module.state_dict()
    filled = {key: value.float() for key, value in state.items() if not key.startswith("head.")}
    filled |= {
        key: torch.zeros(value.shape) for key, value in expected.items() if key.startswith("head.")
    }
    missing, extra = expected.keys() - filled.keys(), filled.keys() - expected.keys()
    if missing or extra:
        differences = filter(None, (_some("missing", missing), _some("unexpected", extra)))
        raise BackboneError(f"{complaint}: {'; '.join(differences)}; name its own file")
    for key, value in filled.items():
        if value.shape != expected[key].shape:
            raise BackboneError(
                f"{complaint}: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            )
    module.load_state_dict(filled, assign=True)


def _fill_buffers(source: Source, module: nn.Module) -> None:
    """Computes the buffers that no file holds, such as rotary angles; timm's parts know how."""
    for part in module.modules():
        if hasattr(part, "init_non_persistent_buffers"):
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(part, name, torch.zeros_like(buffer, device="cpu"))
            part.init_non_persistent_buffers()  # pyright: ignore[reportCallIssue]
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_meta:
            raise BackboneError(
                f"{source.id} keeps '{name}' out of its weights and does not tell how to compute "
                "it; take another model.backbone"
            )


def _read_tensors(file: Path) -> StateDict:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    # on a damaged file the readers raise almost anything, also KeyError and UnicodeDecodeError
    except Exception as error:
        raise BackboneError(
            f"{file} cannot be read as weights ({type(error).__name__}); expected .safetensors, or "
            "a .pth of plain tensors"
        ) from None
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and key in state else state
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise BackboneError(f"{file} holds no state dict of plain tensors")
    return state


def _some(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})" if names else ""


def _set_image_size(source: Source, module: nn.Module, size: int) -> None:
    patch = module.patch_embed.patch_size[0]  # pyright: ignore
    if size < patch or size % patch:
        raise BackboneError(
            f"model.image_size is {size}; {source.id} takes multiples of its {patch}-pixel patch"
        )
    if module.patch_embed.img_size != (size, size):  # pyright: ignore
        module.set_input_size(img_size=(size, size))  # pyright: ignore[reportCallIssue]
