#!/usr/bin/env bash
# torch: making any optimizer imports the compiler: 160 MiB and a second, for a run that compiles nothing.
#
# What the user does: torch.optim.SGD over one parameter, and one step. No torch.compile.
# Expected: an optimizer of one small tensor costs next to nothing.
# What happens: the first optimizer of a process imports torch._dynamo and what that needs, almost
#   900 modules (sympy among them). `import torch` alone does not.
# Why it hurts: a short training, a test suite with many processes, or a spawned worker pays it every
#   time. The process is larger for the rest of its life, and a profile blames the optimizer.
# How to avoid it: in a subclass, put back the plain methods that are wrapped for compilation
#   (inspect.unwrap of add_param_group, zero_grad, state_dict, load_state_dict, step).
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11, CPU.
# Printed:
#   torch 2.14.1+cu130
#   compiler imported with torch: False, after making SGD: True
#   SGD of three numbers: 1.4 s, 158 MiB, 893 modules
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'torch==2.14.1' 'numpy==2.4.6'
cd "$folder"
python3 - <<'PYTHON'
import resource
import sys
import time

import torch


def compiler():
    return "torch._dynamo" in sys.modules


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MiB, on Linux


weight = torch.nn.Parameter(torch.zeros(3))
weight.grad = torch.ones(3)
imported, modules = compiler(), len(sys.modules)
seconds, peak = time.process_time(), memory()
optimizer = torch.optim.SGD([weight], lr=0.1)
seconds, peak = time.process_time() - seconds, memory() - peak
more = len(sys.modules) - modules
optimizer.step()
print(f"torch {torch.__version__}")
print(f"compiler imported with torch: {imported}, after making SGD: {compiler()}")
print(f"SGD of three numbers: {seconds:.1f} s, {peak} MiB, {more} modules")
if imported or not compiler() or more < 300:
    sys.exit(f"changed: expected the compiler imported by SGD, got {more} more modules")
PYTHON
