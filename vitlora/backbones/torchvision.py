"""torchvision's Vision Transformers in timm's architecture: ``torchvision/vit_b_16[.<WEIGHTS>]``.

The weights are torchvision's, the code is timm's. So there is one attention implementation, and
every projection is an ``nn.Linear`` that is called as a module. torchvision packs q, k and v in an
``nn.MultiheadAttention``, whose ``out_proj`` is never called as a module.
"""

import re
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import torch
from timm.models import create_model
from torch import nn
from torchvision.models import get_model_weights
from torchvision.transforms import InterpolationMode

from vitlora.backbones.source import Source, StateDict
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BackboneError, nearest

ARCHITECTURES = {  # torchvision's name -> timm's
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
}

_TOP = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj.": "patch_embed.proj.",
    "encoder.ln.": "norm.",
    "heads.head.": "head.",
}
_IN_BLOCK = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
    "mlp.linear_1.": "mlp.fc1.",  # names before torchvision 0.14, still in the published files
    "mlp.linear_2.": "mlp.fc2.",
}


def find(name: str) -> Source:
    """Returns the source of a torchvision ViT, ``<architecture>[.<weights enum name>]``.

    Raises:
        BackboneError: torchvision has no such ViT or no such weights.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in ARCHITECTURES:
        raise BackboneError(
            f"model.backbone 'torchvision/{name}': expected one of {', '.join(ARCHITECTURES)}"
            f"{nearest(architecture, ARCHITECTURES)}"
        )
    weights = get_model_weights(architecture)
    tag = tag or ("IMAGENET1K_V1" if "IMAGENET1K_V1" in weights.__members__ else "DEFAULT")
    if tag not in weights.__members__:
        raise BackboneError(
            f"model.backbone 'torchvision/{name}': no weights are named '{tag}'; torchvision has: "
            f"{', '.join(weights.__members__)}{nearest(tag, weights.__members__)}"
        )
    entry = weights[tag]
    preset = entry.transforms()
    size, resize = preset.crop_size[0], preset.resize_size[0]
    return Source(
        id=f"torchvision/{architecture}.{entry.name}",
        build=partial(_build, ARCHITECTURES[architecture], size),
        preprocessing=Preprocessing(
            image_size=size,
            crop_pct=size / resize,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=InterpolationMode(preset.interpolation).value,
        ),
        fetch=partial(_fetch, entry.url),
        url=entry.url,
        convert=to_timm,
    )


def to_timm(state: StateDict, module: nn.Module | None = None) -> StateDict:
    """Renames the tensors of torchvision's ViTs to timm's names; the values do not change.

    Tensors that already have timm's names are returned as they are.

    Raises:
        BackboneError: A tensor that torchvision's ViTs do not have.
    """
    if "cls_token" in state:
        return state
    return {_rename(key): value for key, value in state.items()}


def _rename(key: str) -> str:
    block = re.match(r"encoder\.layers\.encoder_layer_(\d+)\.", key)
    names = _IN_BLOCK if block else _TOP
    start, rest = (f"blocks.{block[1]}.", key[block.end() :]) if block else ("", key)
    for theirs, ours in names.items():
        if rest.startswith(theirs):
            return start + ours + rest[len(theirs) :]
    raise BackboneError(f"tensor '{key}' is not one of torchvision's Vision Transformers'")


def _build(architecture: str, size: int, num_classes: int) -> nn.Module:
    return create_model(architecture, pretrained=False, img_size=size, num_classes=num_classes)


def _fetch(url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # the file name ends with the first digits of its SHA-256; torch.hub checks them
        digits = file.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digits)
    return file
