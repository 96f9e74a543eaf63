#!/usr/bin/env bash
# timm x torch.compile: a compiled model's position embeddings and class token get weight decay.
#
# What the user does: model = torch.compile(model), then
#   create_optimizer_v2(model, weight_decay=...).
# Expected: the same parameter groups as before compiling; timm exempts what the model's
#   no_weight_decay() names: pos_embed, cls_token.
# What happens: the compiled model's parameters are called _orig_mod.pos_embed and so on;
#   no_weight_decay() still answers with the plain names, and none matches. (With layer_decay, timm
#   warns that it has no effect; here it says nothing.)
# Why it hurts: embeddings shrink towards zero in full fine-tuning; runs with and without compile
#   train differently, which is put down to the compiler.
# How to avoid it: make the optimiser from the model, then compile; or model.compile(), in place.
# Upstream: none known for compile; facebookresearch/deit#39 is the same with DDP.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   timm 1.0.31 torch 2.14.1+cu130 - exempt: ['cls_token', 'dist_token', 'pos_embed', 'reg_token']
#   decayed all the same: plain []
#     torch.compile(model) ['_orig_mod.cls_token', '_orig_mod.pos_embed']
#     model.compile() []
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'timm==1.0.31' 'torch==2.14.1' 'torchvision==0.29.1'
cd "$folder"
python3 - <<'PYTHON'
import sys

import timm
import torch
from timm.optim import create_optimizer_v2


def decayed(model):
    """Returns which parameters with no_weight_decay() are decayed all the same."""
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        names[id(parameter)]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"] and names[id(parameter)].split(".")[-1] in EXEMPT
    ]
    return sorted(found)


net = timm.create_model("vit_tiny_patch16_224", depth=2)
EXEMPT = net.no_weight_decay()
print("timm", timm.__version__, "torch", torch.__version__, "- exempt:", sorted(EXEMPT))
plain, compiled = decayed(net), decayed(torch.compile(net))
net.compile()
in_place = decayed(net)
print("decayed all the same: plain", plain)
print("  torch.compile(model)", compiled)
print("  model.compile()", in_place)
if plain or in_place or compiled != ["_orig_mod.cls_token", "_orig_mod.pos_embed"]:
    sys.exit(f"changed: expected two decayed after torch.compile alone, got {compiled}")
PYTHON
