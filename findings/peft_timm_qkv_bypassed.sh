#!/usr/bin/env bash
# PEFT x timm: LoRA on the qkv of BEiT, EVA-02, SwinV2 and DINOv3 (qkvb) has no effect at all.
#
# What the user does: LoraConfig(target_modules=["qkv"], modules_to_save=[head]) on a timm ViT.
# Expected: as on timm's plain ViT: the adapters add to qkv's output and are trained.
# What happens: with biases of q and v alone, these models compute
#   F.linear(x, self.qkv.weight, bias): they take the wrapped layer's frozen weight and never call
#   the layer. Whatever A and B are, the output is the same; they get no gradient.
# Why it hurts: print_trainable_parameters counts them, the loss falls (the head is trained), files
#   are saved: it is a linear probe that calls itself LoRA. Merging an adapter trained elsewhere
#   does change the output, so merged and unmerged differ.
# How to avoid it: set qkv_bias_separate = True on the attention modules (same output, qkv is
#   called). In general: one backward pass, then look for trainable parameters whose grad is None.
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   timm 1.0.31 peft 0.21.2 torch 2.14.1+cu130
#   vit_tiny_patch16_224: 6,723 trainable, 4 of 4 adapter tensors get a gradient, a random B changes the output: True
#   beit_base_patch16_224: 26,883 trainable, 0 of 4 adapter tensors get a gradient, a random B changes the output: False
#   beit_base_patch16_224, qkv_bias_separate: 26,883 trainable, 4 of 4 adapter tensors get a gradient, a random B changes the output: True
#   eva02_tiny_patch14_224: 6,723 trainable, 0 of 4 adapter tensors get a gradient, a random B changes the output: False
#   eva02_tiny_patch14_224, qkv_bias_separate: 6,723 trainable, 4 of 4 adapter tensors get a gradient, a random B changes the output: True
#   vit_small_patch16_dinov3_qkvb: 13,443 trainable, 0 of 4 adapter tensors get a gradient, a random B changes the output: False
#   vit_small_patch16_dinov3_qkvb, qkv_bias_separate: 13,443 trainable, 4 of 4 adapter tensors get a gradient, a random B changes the output: True
#   swinv2_tiny_window8_256: 25,347 trainable, 0 of 8 adapter tensors get a gradient, a random B changes the output: False
#   swinv2_tiny_window8_256, qkv_bias_separate: 25,347 trainable, 8 of 8 adapter tensors get a gradient, a random B changes the output: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet \
  'timm==1.0.31' 'peft==0.21.2' 'torch==2.14.1' 'torchvision==0.29.1' 'transformers==5.24.0'
cd "$folder"
python3 - <<'PYTHON'
import sys

import peft
import timm
import torch
from torch import nn

MODELS = {  # timm's name: its options, its head, whether the adapters are expected to be dead
    "vit_tiny_patch16_224": ({"depth": 2}, "head", False),
    "beit_base_patch16_224": ({"depth": 2}, "head", True),
    "eva02_tiny_patch14_224": ({"depth": 2}, "head", True),
    "vit_small_patch16_dinov3_qkvb": ({"depth": 2}, "head", True),
    "swinv2_tiny_window8_256": ({"depths": (1, 1, 1, 1)}, "head.fc", True),
}


def examine(name, options, head, separate):
    """Returns the trainable share, how many adapter tensors get a gradient, B's effect."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options)
    size = model.pretrained_cfg["input_size"][-1]
    for module in model.modules():
        if separate and hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)  # SwinV2 starts at zeros, which would hide everything
    config = peft.LoraConfig(r=4, target_modules=["qkv"], modules_to_save=[head])
    model = peft.get_peft_model(model, config).eval()
    images = torch.randn(2, 3, size, size)
    model(images).square().sum().backward()
    adapters = {key: value for key, value in model.named_parameters() if "lora_" in key}
    alive = sum(value.grad is not None for value in adapters.values())
    with torch.no_grad():
        before = model(images)
        for key, value in adapters.items():
            if "lora_B" in key:
                nn.init.normal_(value)
        change = (model(images) - before).abs().max().item()
    return model.get_nb_trainable_parameters()[0], alive, len(adapters), change


print("timm", timm.__version__, "peft", peft.__version__, "torch", torch.__version__)
wrong = []
for name, (options, head, dead) in MODELS.items():
    for separate in (False, True) if dead else (False,):
        trainable, alive, all_, change = examine(name, options, head, separate)
        print(
            f"{name}{', qkv_bias_separate' if separate else ''}: {trainable:,} trainable, "
            f"{alive} of {all_} adapter tensors get a gradient, a random B changes the output: "
            f"{change > 0}"
        )
        if ((alive, change) == (0, 0)) != (dead and not separate):
            wrong.append(f"{name}: {alive} of {all_} alive, change {change:.1e}")
if wrong:
    sys.exit(f"changed: expected dead adapters in all but the first, got {'; '.join(wrong)}")
PYTHON
