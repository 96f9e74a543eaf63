"""Where a Vision Transformer comes from: timm, torchvision, or vitlora itself."""

from vitlora.backbones.backbone import ROLES, Backbone, load_backbone

__all__ = ["ROLES", "Backbone", "load_backbone"]
