"""Where a Vision Transformer comes from: timm, torchvision, or vitlora itself."""

from vitlora.backbones.backbone import (
    BLOCK_ROLES,
    ROLES,
    Backbone,
    features_and_logits,
    load_backbone,
    open_backbone,
    outline,
)
from vitlora.backbones.lean import answer_from_class_token, stream_in_bf16

__all__ = [
    "BLOCK_ROLES",
    "ROLES",
    "Backbone",
    "answer_from_class_token",
    "features_and_logits",
    "load_backbone",
    "open_backbone",
    "outline",
    "stream_in_bf16",
]
