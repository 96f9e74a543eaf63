"""Where Vision Transformers come from: timm, torchvision, or vitlora itself."""

from vitlora.backbones.attention import make_lean
from vitlora.backbones.backbone import (
    BLOCK_ROLES,
    ROLES,
    Backbone,
    at_once,
    features_and_logits,
    load_backbone,
    open_backbone,
    outline,
)
from vitlora.backbones.lean import answer_from_class_token, stream_in_bf16
from vitlora.backbones.patch_drop import PatchDrop
from vitlora.backbones.source import as_vit, tokens_of

__all__ = [
    "BLOCK_ROLES",
    "ROLES",
    "Backbone",
    "PatchDrop",
    "answer_from_class_token",
    "as_vit",
    "at_once",
    "features_and_logits",
    "load_backbone",
    "make_lean",
    "open_backbone",
    "outline",
    "stream_in_bf16",
    "tokens_of",
]
