#!/usr/bin/env bash
# bitsandbytes: on the CPU, one evaluation pass makes the gradients of later training wrong.
#
# What the user does: QLoRA on the CPU with Linear4bit (no bias), a validation pass, then training;
#   Lightning's sanity check does the same before the first step.
# Expected: the gradients of a network that was never evaluated.
# What happens: in eval mode Linear4bit repacks its weight for a fast kernel and never unpacks it
#   for training. The kernel has no backward: the layer passes no gradient on, and what lies before
#   it learns only from what flows past it, through the adapters. It also computes in bf16 where
#   fp32 was asked for.
# Why it hurts: the last layer's gradients are right and the loss still falls; torch warns once
#   about an autograd kernel that is not registered. With a bias it raises an error instead.
# How to avoid it: a forward of your own, F.linear(x, dequantize_4bit(weight, quant_state)); or set
#   layer.support_avx512bf16_for_cpu = False on each Linear4bit.
# Needs: a CPU with AVX512-BF16; prints "not seen on this CPU" and exits 0 on others.
# Upstream: none known for the gradients; bitsandbytes-foundation/bitsandbytes#2078 is its kin.
# Seen: 2026-11-28, Python 3.11, a CPU with AVX512-BF16.
# Printed:
#   bitsandbytes 0.50.2 torch 2.14.1+cu130
#   gradient of A after eval: first layer 75% wrong, last layer 0.4%
#   with support_avx512bf16_for_cpu = False: 0%, 0.0%
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'bitsandbytes==0.50.2' 'torch==2.14.1'
cd "$folder"
python3 - <<'PYTHON'
import sys

import bitsandbytes
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn


class Lora(nn.Module):
    """A frozen 4-bit layer with a low-rank update beside it."""

    def __init__(self, width):
        super().__init__()
        plain = nn.Linear(width, width, bias=False)
        options = {"bias": False, "compute_dtype": torch.float32, "quant_type": "nf4"}
        self.base = Linear4bit(width, width, **options)
        self.base.load_state_dict(plain.state_dict())
        self.base.to("cpu")  # quantises
        self.a = nn.Linear(width, 4, bias=False)
        self.b = nn.Linear(4, width, bias=False)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


def gradients(net, x):
    net.train()
    net.zero_grad()
    net(x).square().mean().backward()
    return [net[i].a.weight.grad.clone() for i in (0, 2)]


def examine(repack):
    """Returns the gradients' relative error after an evaluation pass, first and last layer."""
    torch.manual_seed(0)
    net = nn.Sequential(Lora(192), nn.GELU(), Lora(192))
    for i in (0, 2):
        net[i].base.support_avx512bf16_for_cpu &= repack
    x = torch.randn(8, 192)
    before = gradients(net, x)
    net.eval()
    with torch.no_grad():
        net(x)
    after = gradients(net, x)
    return [((b - a).norm() / a.norm()).item() for a, b in zip(before, after, strict=True)]


print("bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__)
if not Linear4bit(8, 8).support_avx512bf16_for_cpu:
    print("not seen on this CPU: it has no AVX512-BF16")
    sys.exit()
first, last = examine(repack=True)
avoided = examine(repack=False)
print(f"gradient of A after eval: first layer {first:.0%} wrong, last layer {last:.1%}")
print(f"with support_avx512bf16_for_cpu = False: {avoided[0]:.0%}, {avoided[1]:.1%}")
if not (first > 0.5 and last < 0.05 and max(avoided) == 0):
    sys.exit(f"changed: expected the first over 50% wrong, got {first:.0%}, {last:.0%}, {avoided}")
PYTHON
