"""Where a Vision Transformer comes from: timm, torchvision, or vitlora itself."""

from vitlora.backbones.backbone import (
    BLOCK_ROLES,
    ROLES,
    Backbone,
    features_and_logits,
    load_backbone,
    open_backbone,
)

__all__ = [
    "BLOCK_ROLES",
    "ROLES",
    "Backbone",
    "features_and_logits",
    "load_backbone",
    "open_backbone",
]
