#!/usr/bin/env bash
# bitsandbytes: on the CPU, 4-bit weights whose rows are no multiple of the block come back wrong.
#
# What the user does: quantize_4bit and dequantize_4bit, or Linear4bit, on the CPU, for a layer 96
#   or 224 wide with the default block of 64; or 192 wide with blocks of 128.
# Expected: NF4's relative error of about 0.09, whatever the width.
# What happens: quantising lets blocks run on from row to row; the CPU kernel that unpacks starts a
#   new block at each row, so it takes other scales than the codes were made with. The error is
#   about 0.24, for the same bytes that unpack to 0.09 as one long row. It is seen at widths that are
#   multiples of 16, as a network's are; others, such as 100, come back right.
# Why it hurts: networks with 96-wide stages (Swin-T, ConvNeXt-T) quantise without a word and are
#   far worse than NF4 is known to be.
# How to avoid it: a block size that divides the width; or unpack with quant_state.shape set to
#   (1, numel) and reshape.
# Needs: a CPU with AVX-512; prints "not seen on this CPU" and exits 0 on others.
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11, a CPU with AVX-512.
# Printed:
#   bitsandbytes 0.50.2 torch 2.14.1+cu130
#   width 768, block 64: error 0.092, unpacked as one row 0.092
#   width 192, block 64: error 0.092, unpacked as one row 0.092
#   width 96, block 64: error 0.271, unpacked as one row 0.092
#   width 224, block 64: error 0.241, unpacked as one row 0.092
#   width 192, block 128: error 0.215, unpacked as one row 0.095
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'bitsandbytes==0.50.2' 'torch==2.14.1'
cd "$folder"
python3 - <<'PYTHON'
import copy
import sys

import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print("bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__)
if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AVX512_BF16"):
    print("not seen on this CPU:", torch.backends.cpu.get_cpu_capability())
    sys.exit()
torch.manual_seed(0)
errors = {}
for width, block in ((768, 64), (192, 64), (96, 64), (224, 64), (192, 128)):
    weight = torch.randn(256, width)
    codes, state = quantize_4bit(weight, blocksize=block, quant_type="nf4")
    one_row = copy.copy(state)
    one_row.shape = torch.Size((1, weight.numel()))
    rows = dequantize_4bit(codes, state)
    flat = dequantize_4bit(codes, one_row).view(weight.shape)
    error, right = (((w - weight).norm() / weight.norm()).item() for w in (rows, flat))
    errors[width, block] = error
    print(f"width {width}, block {block}: error {error:.3f}, unpacked as one row {right:.3f}")
wrong = {key for key, error in errors.items() if error > 0.15}
expected = {(96, 64), (224, 64), (192, 128)}
if wrong != expected:
    sys.exit(f"changed: expected errors over 0.15 for {sorted(expected)}, got {sorted(wrong)}")
PYTHON
