"""The peer of the benchmarks: a timm ViT with plain PEFT, as ``transformers.Trainer`` takes it."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from timm.models import create_model
from torch import nn

VIT_TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
ALL = r"attn\.(qkv|proj)|mlp\.fc[12]"


class Peer(nn.Module):
    """A ViT with LoRA and a trained head, and the interface that Trainer wants.

    Args:
        model: timm's.
        layers: Regular expression for the layers of a block.
        rank: LoRA's; alpha is twice as much.
    """

    def __init__(self, model: Any, layers: str = ALL, rank: int = 8) -> None:
        super().__init__()
        lora = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=rf"blocks\.\d+\.({layers})",
            modules_to_save=["head"],
        )
        self.network = get_peft_model(model, lora)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns loss and logits."""
        logits = self.network(pixel_values)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        return {"loss": loss, "logits": logits}


def vit_tiny(weights: Path, classes: int) -> nn.Module:
    """Returns timm's ViT-Tiny with a file's weights and a new head."""
    model = create_model(VIT_TINY, pretrained=False, num_classes=classes)
    state = {k: v.float() for k, v in load_file(weights).items() if not k.startswith("head.")}
    model.load_state_dict(state, strict=False)
    return model


def collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """Returns a batch."""
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.as_tensor(labels)}
