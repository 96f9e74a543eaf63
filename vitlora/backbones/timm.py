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
from timm.models import create_model, get_pretrained_cfg, is_model, list_models
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from vitlora.backbones.source import Source
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
    cfg = get_pretrained_cfg(name, allow_unregistered=False) if tag else None
    cfg = cfg or get_pretrained_cfg(architecture, allow_unregistered=False)
    if tag and (cfg is None or cfg.tag != tag):
        known = [full.partition(".")[2] for full in list_models(f"{architecture}.*", pretrained=True)]
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
        convert=checkpoint_filter_fn,
    )


def _fetch(repo: str, file: str) -> Path:
    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repo, file, local_files_only=True))
    if not getproxies():  # without a network the hub's client would try for half a minute
        socket.getaddrinfo(urlparse(ENDPOINT).hostname, 443)
    return Path(hf_hub_download(repo, file))


def _build(name: str, num_classes: int) -> VisionTransformer:
    module = create_model(name, pretrained=False, num_classes=num_classes)
    if type(module) is not VisionTransformer:
        raise BackboneError(
            f"model.backbone 'timm/{name}' is a {type(module).__name__}, not a plain Vision "
            "Transformer; take one of timm's vit_* or deit_* models"
        )
    return module
