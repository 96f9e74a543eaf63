#!/usr/bin/env bash
# torch.autograd.grad: gradients of two parameters may share memory, so adding to them in place is wrong.
#
# What the user does: computes a batch in parts, sums the gradients of torch.autograd.grad in place
#   (torch._foreach_add_, g += new), and hands the sums to the optimiser.
# Expected: the gradients of the whole batch.
# What happens: with one picture at a time, the gradient of a timm ViT's class token is a view of that
#   of its position embedding. Each addition in place goes into the same bytes twice. With two
#   pictures at a time the gradients are apart, and the sums are right.
# Why it hurts: the loss falls all the same, and tests with parts of several pictures pass.
# How to avoid it: clone the first gradients, or let backward() add them up in .grad.
# Upstream: https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad.html does not say whether they share.
# Seen: 2026-11-29, Python 3.11, CPU.
# Printed:
#   torch 2.14.1 timm 1.0.31
#   one picture: cls_token and pos_embed share memory: True
#   parts of 2: wrong gradients: none
#   parts of 1: wrong gradients: cls_token, pos_embed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'torch==2.14.1' 'torchvision==0.29.1' 'timm==1.0.31' 'numpy==2.4.6'
cd "$folder"
cat >program.py <<'PYTHON'
import sys

import timm
import torch

torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
names, weights = zip(*model.named_parameters())
pictures, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])


def gradients(part):
    loss = torch.nn.functional.cross_entropy(
        model(pictures[part]), labels[part], reduction="sum"
    )
    return list(torch.autograd.grad(loss, weights))


def errors(size):
    """Relative error of the gradients that are summed in place over parts of so many pictures."""
    sums = gradients(slice(0, size))
    for start in range(size, 4, size):
        torch._foreach_add_(sums, gradients(slice(start, start + size)))
    pairs = zip(names, sums, whole)
    return {name: float((ours - right).norm() / right.norm()) for name, ours, right in pairs}


whole = gradients(slice(0, 4))
first = dict(zip(names, (g.untyped_storage().data_ptr() for g in gradients(slice(0, 1)))))
print("torch", torch.__version__.split("+")[0], "timm", timm.__version__)
print("one picture: cls_token and pos_embed share memory:", first["cls_token"] == first["pos_embed"])
wrong = {size: sorted(n for n, e in errors(size).items() if e > 1e-3) for size in (2, 1)}
for size, found in wrong.items():
    print(f"parts of {size}: wrong gradients: {', '.join(found) or 'none'}")
sys.exit(wrong != {2: [], 1: ["cls_token", "pos_embed"]})
PYTHON
OMP_NUM_THREADS=1 python3 program.py
