"""timm's plain Vision Transformers: ``timm/<architecture>[.<tag>]``.

They have three classes: ``VisionTransformer`` (AugReg, DeiT, MAE, CLIP, SigLIP, DINOv2), ``Eva``
(EVA, EVA-02, DINOv3, Perception Encoder) and ``Beit``.
"""

import socket
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import hf_hub_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.data.config import resolve_data_config
from timm.layers import PatchEmbed
from timm.models import (
    beit,
    create_model,
    eva,
    get_pretrained_cfg,
    is_model,
    list_models,
    vision_transformer,
)
from torch import nn

from vitlora.backbones.source import Source, StateDict, as_vit, on_meta
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BackboneError, nearest

# timm's class -> its function that renames the tensors of a file, also of an original checkpoint
_FAMILIES: dict[type[nn.Module], Callable[..., StateDict]] = {
    vision_transformer.VisionTransformer: partial(
        vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True
    ),
    eva.Eva: eva.checkpoint_filter_fn,
    beit.Beit: beit.checkpoint_filter_fn,
}
_PATCHES = ("patch_embed.proj.weight", "visual.conv1.weight")  # the second in OpenAI's CLIP
_NAMES = ["*vit*", "deit*", "beit*", "eva*"]


def find(name: str) -> Source:
    """Returns the source of a timm model, ``<architecture>[.<tag>]``.

    Raises:
        BackboneError: timm does not know the name, or it is not a ViT of a supported family.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        hint = nearest(architecture, list_models(_NAMES))
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
    with on_meta():
        module = build(1)
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
    if not getproxies():  # fails at once without a network; the hub's client tries for 30 seconds
        socket.getaddrinfo(urlparse(ENDPOINT).hostname, 443)
    return Path(hf_hub_download(repo, file))


def _build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Returns timm's untrained model; ``options`` are arguments of its class."""
    module = create_model(name, pretrained=False, num_classes=num_classes, **options)
    if odd := _odd_part(module):
        raise BackboneError(
            f"model.backbone 'timm/{name}' is not supported (it has timm's {odd}); take a Vision "
            "Transformer whose blocks are attention, then MLP, and whose head is one layer: vit_* "
            "(among them AugReg, MAE, CLIP, SigLIP, DINOv2 and DINOv3), deit_*, deit3_*, beit_*, "
            "beitv2_*, eva_* or eva02_*"
        )
    for part in module.modules():
        # otherwise Eva and Beit use the weight of qkv directly and bypass the layer's adapter
        if hasattr(part, "qkv_bias_separate"):
            part.qkv_bias_separate = True  # pyright: ignore[reportArgumentType]
    return module


def _odd_part(module: nn.Module) -> str | None:
    """Returns the class that makes a model unsupported; None for a supported model."""
    if type(module) not in _FAMILIES:
        return type(module).__name__
    vit = as_vit(module)
    if not isinstance(vit.patch_embed, PatchEmbed):  # a convolutional stem
        return type(vit.patch_embed).__name__
    for block in vit.blocks:
        if not (hasattr(block, "attn") and hasattr(block, "mlp")):  # parallel or fused
            return type(block).__name__
    if not isinstance(vit.head, nn.Linear | nn.Identity):  # Identity if there are no classes
        return type(vit.head).__name__
    return None


def _convert(name: str, state: StateDict, module: nn.Module) -> StateDict:
    """Renames older tensors as timm does; timm would also resample patches without a warning."""
    expected = as_vit(module).patch_embed.patch_size
    for key, value in state.items():
        patch = tuple(value.shape[2:])
        if key.endswith(_PATCHES) and value.ndim == 4 and patch != expected:
            raise BackboneError(
                f"the file of --weights has patches of {patch[0]} pixels; timm/{name} needs "
                f"patches of {expected[0]}"
            )
    try:
        with redirect_stdout(None):  # timm prints the names it does not find
            renamed = _FAMILIES[type(module)](state, module)
    except Exception as error:  # timm's renaming fails in many ways on tensors of other models
        reason = str(error).partition("\n")[0]
        raise BackboneError(f"the file of --weights does not fit timm/{name}: {reason}") from None
    if getattr(module, "attn_pool", None) is None:  # SigLIP's; timm's *_gap models do not use it
        renamed = {k: v for k, v in renamed.items() if not k.startswith("attn_pool.")}
    return renamed
