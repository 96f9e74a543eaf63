#!/usr/bin/env bash
# PEFT x torchvision: LoRA on a ViT's out_proj does nothing; on the whole attention it counts twice.
#
# What the user does: LoRA on torchvision's VisionTransformer, whose attention is torch's
#   nn.MultiheadAttention, with target_modules=["out_proj"] or ["self_attention"].
# Expected: W + scaling * B @ A in place of W, in the layers named.
# What happens: nn.MultiheadAttention reads out_proj.weight instead of calling out_proj, so an
#   adapter on it is dead until it is merged. PEFT's layer for the whole module handles in_proj
#   rightly, but adds out_proj's update twice, unmerged and merged alike.
# Why it hurts: the first is a linear probe with parameters to show. The second trains with PEFT and
#   predicts the same with PEFT; whoever reads the files by LoRA's formula gets another network.
# How to avoid it: target the MLP's layers ("mlp.0", "mlp.3"); or replace nn.MultiheadAttention by
#   an attention of two called nn.Linear layers (qkv and proj) before wrapping.
# Upstream: huggingface/peft#3774 for the second.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   peft 0.21.2 torchvision 0.29.1+cu130 torch 2.14.1+cu130
#   out_proj: 4 of 4 adapter tensors without gradient
#     a random B changes the logits by 0%, and merged by 18%
#   self_attention: from W + B A: 13%; with out_proj's B A twice: 0%
#     merged from unmerged: 0%
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet \
  'peft==0.21.2' 'torch==2.14.1' 'torchvision==0.29.1' 'transformers==5.24.0'
cd "$folder"
python3 - <<'PYTHON'
import copy
import sys

import peft
import torch
import torchvision
from torch import nn

torch.manual_seed(0)
SIZES = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4}
net = torchvision.models.VisionTransformer(**SIZES, hidden_dim=64, mlp_dim=128, num_classes=3)
net.eval()
nn.init.normal_(net.heads.head.weight)
images = torch.randn(4, 3, 32, 32)


def distance(one, other):
    return ((one - other).norm() / other.norm()).item()


def wrapped(target):
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, lora_alpha=4, target_modules=[target], modules_to_save=["heads.head"]
    )
    model = peft.get_peft_model(copy.deepcopy(net), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def by_hand(model, times):
    """Returns the network with B @ A added to in_proj, and `times` that to out_proj."""
    plain = copy.deepcopy(net)
    pairs = zip(plain.encoder.layers, model.base_model.model.encoder.layers, strict=True)
    for own, theirs in pairs:
        inside, outside = theirs.self_attention, theirs.self_attention.base_layer.out_proj
        own = own.self_attention
        for weight, layer, k in (
            (own.in_proj_weight, inside, 1),
            (own.out_proj.weight, outside, times),
        ):
            weight.data += k * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    return plain


print("peft", peft.__version__, "torchvision", torchvision.__version__, "torch", torch.__version__)
model = wrapped("out_proj")
logits = model(images)
logits.square().sum().backward()
dead = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
with torch.no_grad():
    effect = distance(logits, net(images))
    merged = distance(copy.deepcopy(model).merge_and_unload()(images), net(images))
    print(f"out_proj: {len(dead)} of 4 adapter tensors without gradient")
    print(f"  a random B changes the logits by {effect:.0%}, and merged by {merged:.0%}")
    model = wrapped("self_attention")
    logits = model(images)
    once, twice = (distance(logits, by_hand(model, k)(images)) for k in (1, 2))
    after = distance(copy.deepcopy(model).merge_and_unload()(images), logits)
    print(f"self_attention: from W + B A: {once:.0%}; with out_proj's B A twice: {twice:.0%}")
    print(f"  merged from unmerged: {after:.0%}")
if not (len(dead) == 4 and effect < 1e-5 < 0.1 < merged and twice < 1e-5 < 0.1 < once):
    sys.exit(
        "changed: expected 4 dead, effect 0, once > 10%, twice 0, "
        f"got {len(dead)}, {effect}, {once}, {twice}"
    )
PYTHON
