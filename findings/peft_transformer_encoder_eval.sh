#!/usr/bin/env bash
# PEFT x torch: LoRA on nn.TransformerEncoderLayer works in training and is ignored in evaluation.
#
# What the user does: LoRA on linear1 and linear2 of an nn.TransformerEncoder (batch_first=True),
#   trains, calls eval() and predicts.
# Expected: the network that was trained.
# What happens: in evaluation mode torch takes its fast path, one kernel that is handed
#   linear1.weight and linear2.weight. A wrapped layer's .weight is the frozen base's, so the
#   adapters are left out: the answers are the base's, to the last bit. Frozen weights need no
#   gradient, so the fast path is taken even outside torch.no_grad().
# Why it hurts: the training loss falls, validation stays at chance, and it looks like overfitting.
# How to avoid it: torch.backends.mha.set_fastpath_enabled(False), or merge_and_unload() first.
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   peft 0.21.2 torch 2.14.1+cu130
#   accuracy on the training data: train() 0.902, eval() 0.499
#     untrained base 0.499; largest distance of eval()'s logits from it 0.0
#     eval() without the fast path 0.902
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'peft==0.21.2' 'torch==2.14.1' 'transformers==5.24.0'
cd "$folder"
python3 - <<'PYTHON'
import copy
import sys

import peft
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """Says whether the largest of six tokens' first numbers is over 1."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 2)

    def forward(self, tokens):
        return self.head(self.encoder(tokens).mean(1))


torch.manual_seed(0)
base = Net().eval()
config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["linear1", "linear2"])
model = peft.get_peft_model(copy.deepcopy(base), config)
tokens = torch.randn(2000, 6, 32)
labels = (tokens[..., 0].amax(1) > 1.2).long()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
model.train()
for _ in range(150):
    optimizer.zero_grad()
    F.cross_entropy(model(tokens), labels).backward()
    optimizer.step()


def accuracy(net):
    with torch.no_grad():
        return (net(tokens).argmax(1) == labels).float().mean().item()


print("peft", peft.__version__, "torch", torch.__version__)
trained = accuracy(model)  # still in training mode; there is no dropout
fast, plain = accuracy(model.eval()), accuracy(base)
with torch.no_grad():
    distance = (model(tokens) - base(tokens)).abs().max().item()
torch.backends.mha.set_fastpath_enabled(False)
slow = accuracy(model)
print(f"accuracy on the training data: train() {trained:.3f}, eval() {fast:.3f}")
print(f"  untrained base {plain:.3f}; largest distance of eval()'s logits from it {distance}")
print(f"  eval() without the fast path {slow:.3f}")
if not (distance == 0 and fast == plain < trained - 0.1 and abs(slow - trained) < 0.005):
    sys.exit(
        f"changed: expected eval() to be the base, got {fast:.3f} (base {plain:.3f}, "
        f"train() {trained:.3f}, distance {distance})"
    )
PYTHON
