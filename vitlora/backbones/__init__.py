"""Where a Vision Transformer comes from: timm, torchvision, vitlora's own micro-ViT, a local file."""

from vitlora.backbones.backbone import ROLES, Backbone, load_backbone

__all__ = ["ROLES", "Backbone", "load_backbone"]
