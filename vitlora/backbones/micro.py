"""The micro-ViT that ships with vitlora, pretrained on drawn pictures (see ``pretraining/``)."""

from importlib.resources import files
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlora.backbones.source import Source
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BackboneError

NAME = "vit_micro_patch8_96"
_FILE = f"{NAME}.safetensors"


def find(name: str) -> Source:
    """Returns the source of the micro-ViT.

    Raises:
        BackboneError: Another name was asked for.
    """
    if name != NAME:
        raise BackboneError(f"model.backbone 'vitlora/{name}': vitlora ships one ViT, '{NAME}'")
    return Source(
        id=f"vitlora/{NAME}",
        build=build,
        preprocessing=Preprocessing(
            image_size=96, crop_pct=0.9, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        fetch=lambda: Path(str(files("vitlora.backbones") / _FILE)),
        url=f"vitlora/backbones/{_FILE} of the vitlora package",
        convert=lambda state, module: state,
    )


def build(num_classes: int) -> nn.Module:
    """Returns the untrained micro-ViT; ``num_classes`` 0 leaves the head out."""
    return VisionTransformer(
        img_size=96,
        patch_size=8,
        embed_dim=160,
        depth=6,
        num_heads=5,
        num_classes=num_classes,
    )
