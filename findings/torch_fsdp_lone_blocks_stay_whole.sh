#!/usr/bin/env bash
# torch FSDP2: fully_shard on the blocks alone saves no memory once they have run.
#
# What the user does: calls fully_shard on each block of a network, but not on the network around
#   them, because the rest is small, or because what is trained there is to stay whole.
# Expected: each process holds its part of a block's weights, and the whole block only while it is
#   computed.
# What happens: each block becomes a root of its own, and a root keeps its gathered weights after the
#   forward pass (reshard_after_forward=None means False for a root). After one forward pass every
#   process holds all weights.
# Why it hurts: results are right, and memory looks right after wrapping; it is full one batch later.
# How to avoid it: reshard_after_forward=True, or fully_shard on the network, too.
# Upstream: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html says what None means.
# Seen: 2026-11-29, Python 3.11, CPU, gloo.
# Printed:
#   torch 2.14.1
#   blocks alone: each of 2 processes holds 100% of the weights after a forward pass
#   blocks, reshard_after_forward=True: each of 2 processes holds 50% of the weights after a forward pass
#   blocks, then the model: each of 2 processes holds 50% of the weights after a forward pass
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'torch==2.14.1' 'numpy==2.4.6'
cd "$folder"
cat >program.py <<'PYTHON'
import os
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
WHOLE = 4 * 256 * 256 * 4  # bytes of the four blocks in fp32


def share(parts):
    """The share of the blocks' weights that this process holds after a forward pass."""
    model = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(4)))
    parts(model)
    with torch.no_grad():
        model(torch.zeros(1, 256))
    held = sum(
        (p.to_local() if isinstance(p, DTensor) else p).nbytes for p in model.parameters()
    )
    return held / WHOLE


def blocks(model, **options):
    for block in model:
        fully_shard(block, mesh=mesh, **options)


def blocks_and_model(model):
    blocks(model)
    fully_shard(model, mesh=mesh)


found = {
    "blocks alone": share(blocks),
    "blocks, reshard_after_forward=True": share(lambda m: blocks(m, reshard_after_forward=True)),
    "blocks, then the model": share(blocks_and_model),
}
if os.environ["RANK"] == "0":
    print("torch", torch.__version__.split("+")[0])
    for name, part in found.items():
        print(f"{name}: each of 2 processes holds {part:.0%} of the weights after a forward pass")
distributed.destroy_process_group()
sys.exit(list(found.values()) != [1.0, 0.5, 0.5])
PYTHON
OMP_NUM_THREADS=1 python3 -m torch.distributed.run --standalone --nproc-per-node 2 program.py
