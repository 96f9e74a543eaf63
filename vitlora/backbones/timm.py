"""timm's plain Vision Transformers: ``timm/<architecture>[.<tag>]``."""

import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.data.config import resolve_data_config
from timm.layers import PatchEmbed
from timm.models import create_model, get_pretrained_cfg, is_model, list_models
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from vitlora.backbones.source import Source, StateDict
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BackboneError, nearest


def find(name: str) -> Source:
    """Returns the source of a timm model, ``<architecture>[.<tag>]``.

    Raises:
        BackboneError: timm does not know the name, or it is no plain ViT.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        hint = nearest(architecture, list_models("*vit*"))
        raise BackboneError(f"model.backbone 'timm/{name}': timm has no '{architecture}'{hint}")
    cfg = None
    with suppress(RuntimeError):  # an unknown tag
        cfg = get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    if tag and cfg is None:
        known = [
            full.partition(".")[2] for full in list_models(f"{architecture}.*", pretrained=True)
        ]
        raise BackboneError(
            f"model.backbone 'timm/{name}': no weights are tagged '{tag}'{nearest(tag, known)}; "
            f"timm has: {', '.join(known) or 'none'}"
        )
    full = f"{architecture}.{cfg.tag}" if cfg is not None and cfg.tag else architecture
    build = partial(_build, full)
    with torch.device("meta"):
        module = build(0)
    repo = (cfg.hf_hub_id if cfg is not None else None) or f"timm/{full}"
    file = (cfg.hf_hub_filename if cfg is not None else None) or "model.safetensors"
    return Source(
        id=f"timm/{full}",
        build=build,
        preprocessing=Preprocessing.from_timm(resolve_data_config(model=module)),
        fetch=partial(_fetch, repo, file),
        url=f"https://huggingface.co/{repo}/resolve/main/{file}",
        convert=partial(_convert, full),
    )


def _fetch(repo: str, file: str) -> Path:
    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repo, file, local_files_only=True))
    if not getproxies():  # without a network the hub's client would try for half a minute
        socket.getaddrinfo(urlparse(ENDPOINT).hostname, 443)
    return Path(hf_hub_download(repo, file))


def _build(name: str, num_classes: int) -> nn.Module:
    module = create_model(name, pretrained=False, num_classes=num_classes)
    if odd := _odd_part(module):
        raise BackboneError(
            f"model.backbone 'timm/{name}' is not a plain Vision Transformer (it has timm's "
            f"{odd}); take one of timm's vit_* or deit_* models"
        )
    return module


def _odd_part(module: nn.Module) -> str | None:
    """Returns the class that keeps a model from being a plain ViT; None for a plain one."""
    if type(module) is not VisionTransformer:
        return type(module).__name__
    if not isinstance(module.patch_embed, PatchEmbed):  # a convolutional network comes first
        return type(module.patch_embed).__name__
    block = module.blocks[0]  # pyright: ignore[reportIndexIssue]
    if not (hasattr(block, "attn") and hasattr(block, "mlp")):  # side by side or fused
        return type(block).__name__
    return None


def _convert(name: str, state: StateDict, module: nn.Module) -> StateDict:
    """Renames older tensors as timm does, which would resample patches without a word."""
    expected: tuple[int, int] = module.patch_embed.patch_size  # pyright: ignore
    for key, value in state.items():
        patch = tuple(value.shape[2:])
        if key.endswith("patch_embed.proj.weight") and value.ndim == 4 and patch != expected:
            raise BackboneError(
                f"model.weights was trained on patches of {patch[0]} pixels; timm/{name} has "
                f"patches of {expected[0]}"
            )
    try:
        return checkpoint_filter_fn(state, module)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # whatever timm's renaming meets first in tensors not made for it
        reason = str(error).partition("\n")[0]
        raise BackboneError(f"model.weights does not fit timm/{name}: {reason}") from None
