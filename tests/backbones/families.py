"""Every supported family of backbones in miniature: real architectures, two narrow blocks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from safetensors.torch import save_file

from vitlora.backbones import Backbone, load_backbone
from vitlora.backbones import timm as our_timm
from vitlora.backbones.source import Source


def _narrow(patch_size: int, **more: Any) -> dict[str, Any]:
    """Returns arguments for two blocks of 32 channels on a grid of 4 x 4 patches."""
    return {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 4 * patch_size, **more}


# (family, timm's name, arguments of timm's class)
FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("augreg", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", _narrow(16)),
    ("mae", "vit_base_patch16_224.mae", _narrow(16)),
    ("deit", "deit_tiny_patch16_224.fb_in1k", _narrow(16)),
    ("deit3", "deit3_small_patch16_224.fb_in1k", _narrow(16)),
    ("dinov2", "vit_small_patch14_dinov2.lvd142m", _narrow(14)),
    ("dinov2-registers", "vit_small_patch14_reg4_dinov2.lvd142m", _narrow(14)),
    ("dinov2-giant", "vit_giant_patch14_reg4_dinov2.lvd142m", _narrow(14)),
    ("dinov3", "vit_small_patch16_dinov3.lvd1689m", _narrow(16)),
    ("dinov3-bias", "vit_small_patch16_dinov3_qkvb.lvd1689m", _narrow(16)),
    ("dinov3-plus", "vit_small_plus_patch16_dinov3.lvd1689m", _narrow(16)),
    ("eva", "eva_giant_patch14_224.clip_ft_in1k", _narrow(14)),
    ("eva02-fused", "eva02_tiny_patch14_224.mim_in22k", _narrow(14)),
    ("eva02-split", "eva02_base_patch14_224.mim_in22k", _narrow(14)),
    ("eva02-clip", "eva02_base_patch16_clip_224.merged2b", _narrow(16)),
    ("eva02-post-norm", "eva02_enormous_patch14_clip_224.laion2b", _narrow(14)),
    ("beit", "beit_base_patch16_224.in22k_ft_in22k_in1k", _narrow(16)),
    ("beitv2", "beitv2_base_patch16_224.in1k_ft_in22k_in1k", _narrow(16)),
    ("clip", "vit_base_patch16_clip_224.openai", _narrow(16)),
    ("clip-quickgelu", "vit_base_patch32_clip_quickgelu_224.openai", _narrow(32)),
    ("siglip", "vit_base_patch16_siglip_224.webli", _narrow(16)),
    ("siglip-average", "vit_base_patch16_siglip_gap_224.webli", _narrow(16)),
    ("so400m", "vit_so400m_patch14_siglip_378.webli", _narrow(14)),
    ("so150m", "vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k", _narrow(16)),
    ("aimv2", "aimv2_large_patch14_224.apple_pt", _narrow(14)),
    ("rope-mixed", "vit_small_patch16_rope_mixed_ape_224.naver_in1k", _narrow(16)),
    ("perception", "vit_pe_core_tiny_patch16_384.fb", _narrow(16)),
    ("sapiens2", "vit_base_patch16_sapiens2.fb", _narrow(16, num_kv_heads=(2, 1))),
]


def theirs(name: str, kwargs: dict[str, Any], num_classes: int) -> torch.nn.Module:
    """Returns timm's own miniature with noise in every parameter, also where it starts at 0 or 1.

    The noise depends on a parameter's name and shape alone, so that nets with other heads agree.
    """
    module = timm.create_model(name, num_classes=num_classes, **kwargs).eval()
    with torch.no_grad():
        for key, parameter in sorted(module.named_parameters()):
            generator = torch.Generator().manual_seed(sum(key.encode()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if parameter.ndim == 1 and not key.endswith("bias"):  # norms and layer scales
                parameter.add_(1.0)
    return module


@contextmanager
def shrunk(name: str, kwargs: dict[str, Any]) -> Iterator[Source]:
    """Makes ``load_backbone`` build the miniature of a timm model, whatever name it is given."""
    with patch.object(our_timm, "_build", partial(our_timm._build, **kwargs)):
        source = our_timm.find(name)
    source = replace(source, preprocessing=source.preprocessing.at(kwargs["img_size"]))
    with patch("vitlora.backbones.backbone.find_source", lambda _: source):
        yield source


def loaded(
    name: str,
    kwargs: dict[str, Any],
    state: dict[str, torch.Tensor],
    num_classes: int,
    image_size: int | None = None,
) -> Backbone:
    """Returns a miniature with the given weights, loaded from a file; its head is zeros."""
    with tempfile.TemporaryDirectory() as folder, shrunk(name, kwargs):
        file = Path(folder) / "model.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, file)
        return load_backbone(f"timm/{name}", num_classes, file, image_size)


def small(
    name: str, kwargs: dict[str, Any], num_classes: int, image_size: int | None = None
) -> Backbone:
    """Returns a miniature with the weights of ``theirs``, loaded from a file; its head is zeros."""
    state = theirs(name, kwargs, num_classes).state_dict()
    return loaded(name, kwargs, state, num_classes, image_size)
