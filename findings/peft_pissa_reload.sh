#!/usr/bin/env bash
# PEFT: an adapter started with PiSSA's fast SVD is another network when it is loaded again.
#
# What the user does: LoraConfig(init_lora_weights="pissa_niter_4"), trains, save_pretrained; later
#   PeftModel.from_pretrained on the same base weights.
# Expected: the logits of the model that was saved.
# What happens: PiSSA takes the largest singular vectors out of the base and saves only A and B.
#   On loading, the decomposition is computed again to take them out again; the fast one is random,
#   so another part is taken out than A and B hold. With "pissa" (exact) the same comes back.
# Why it hurts: nothing is said, and the error is nearly half of what training changed. With the
#   seed of the training run set before loading it does not show.
# How to avoid it: "pissa", the exact decomposition; or merge before saving.
# Upstream: none known for the reload.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   peft 0.21.2 timm 1.0.31 torch 2.14.1+cu130
#   loaded from saved, as a share of what training changed:
#     pissa 0.0%; pissa_niter_4 45.6%, loaded under training's seed 0.0%
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet \
  'peft==0.21.2' 'timm==1.0.31' 'torch==2.14.1' 'torchvision==0.29.1' 'transformers==5.24.0'
cd "$folder"
python3 - <<'PYTHON'
import copy
import sys

import peft
import timm
import torch
import torch.nn.functional as F

torch.manual_seed(0)
base = timm.create_model("vit_tiny_patch16_224", depth=4, num_classes=3).eval()
images, labels = torch.randn(4, 3, 224, 224), torch.tensor([0, 1, 2, 0])


def examine(init, load_seed):
    """Returns the loaded model's distance from the saved one, as a share of training's change."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=8, target_modules=["qkv"], init_lora_weights=init)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval().save_pretrained(init, save_embedding_layers=False)
    torch.manual_seed(load_seed)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), init).eval()
    with torch.no_grad():
        saved = model(images)
        return ((loaded(images) - saved).norm() / (saved - base(images)).norm()).item()


print("peft", peft.__version__, "timm", timm.__version__, "torch", torch.__version__)
exact = examine("pissa", load_seed=2)
fast = examine("pissa_niter_4", load_seed=2)
seeded = examine("pissa_niter_4", load_seed=1)
print("loaded from saved, as a share of what training changed:")
print(f"  pissa {exact:.1%}; pissa_niter_4 {fast:.1%}, loaded under training's seed {seeded:.1%}")
if not (exact < 0.01 and fast > 0.2):
    sys.exit(f"changed: expected pissa 0 and pissa_niter_4 over 20%, got {exact:.1%}, {fast:.1%}")
PYTHON
