#!/usr/bin/env bash
# onnxruntime: of two active LoRA adapters the second is ignored, layer by layer.
#
# What the user does: exports a model with LoRA's A and B as inputs that have zeros for defaults,
#   and calls run_options.add_active_adapter(first) and (second), as the name invites.
# Expected: the sum of both updates, as PEFT computes with two active adapters; or an error.
# What happens: an adapter's tensors are handed in as inputs of the run. Where both have a tensor of
#   one name, the first one's is taken. Adapters that cover other layers are mixed: one layer is
#   the first's, another the second's.
# Why it hurts: the answers are those of one adapter, or of a mixture nobody trained, and depend on
#   the order of two calls. Nothing is said.
# How to avoid it: one active adapter a run; to combine two, concatenate A and B into one of
#   twice the rank.
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11, CPU.
# Printed:
#   onnxruntime 1.31.1 - what two active adapters answer
#   one, other: the first alone
#   other, one: the first alone
#   one for layer 0, other: layer 0 of the first, layer 1 of the second
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'onnxruntime==1.31.1' 'onnx==1.23.2' 'numpy==2.4.6'
cd "$folder"
python3 - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
WEIGHTS = [rng.normal(size=(4, 4)).astype(np.float32) for _ in range(2)]  # of two layers
SHAPES = {"A": (4, 2), "B": (2, 4)}


def model():
    """Returns x @ (W0 + A0 @ B0) @ (W1 + A1 @ B1); A and B are inputs, zeros unless given."""
    nodes, inputs, values, x = [], [], [], "x"
    for i, weight in enumerate(WEIGHTS):
        values.append(numpy_helper.from_array(weight, f"W{i}"))
        for name, shape in SHAPES.items():
            inputs.append(helper.make_tensor_value_info(f"{name}{i}", TensorProto.FLOAT, shape))
            values.append(numpy_helper.from_array(np.zeros(shape, np.float32), f"{name}{i}"))
        nodes += [
            helper.make_node("MatMul", [f"A{i}", f"B{i}"], [f"update{i}"]),
            helper.make_node("Add", [f"W{i}", f"update{i}"], [f"sum{i}"]),
            helper.make_node("MatMul", [x, f"sum{i}"], [f"y{i}"]),
        ]
        x = f"y{i}"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("x", "y1"))
    graph = helper.make_graph(nodes, "lora", [x, *inputs], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def adapter(layers):
    """Returns onnxruntime's adapter for some of the layers, and its updates by layer."""
    tensors = {
        f"{name}{i}": rng.normal(size=shape).astype(np.float32)
        for i in layers
        for name, shape in SHAPES.items()
    }
    form = onnxruntime.AdapterFormat()
    form.set_adapter_version(1)
    form.set_model_version(1)
    wrap = onnxruntime.OrtValue.ortvalue_from_numpy
    form.set_parameters({name: wrap(tensor) for name, tensor in tensors.items()})
    path = f"{rng.integers(1 << 30)}.adapter"  # each its own: a loaded one is mapped from its file
    form.export_adapter(path)
    loaded = onnxruntime.LoraAdapter()
    loaded.Load(path)
    return loaded, {i: tensors[f"A{i}"] @ tensors[f"B{i}"] for i in layers}


def expected(*updates):
    out = x
    for i, weight in enumerate(WEIGHTS):
        out = out @ (weight + sum(update.get(i, 0) for update in updates))
    return out


onnx.save(model(), "model.onnx")
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession("model.onnx", options, ["CPUExecutionProvider"])
x = rng.normal(size=(5, 4)).astype(np.float32)
(both, u), (other, v), (part, w) = adapter([0, 1]), adapter([0, 1]), adapter([0])
NAMED = {
    "the first alone": lambda one, two: expected(one),
    "the second alone": lambda one, two: expected(two),
    "the sum": lambda one, two: expected(one, two),
    "layer 0 of the first, layer 1 of the second": lambda one, two: expected(
        {0: one[0]}, {1: two[1]}
    ),
}


def answer(one, two):
    run = onnxruntime.RunOptions()
    run.add_active_adapter(one[0])
    run.add_active_adapter(two[0])
    out = session.run(None, {"x": x}, run)[0]
    fits = [n for n, make in NAMED.items() if np.allclose(out, make(one[1], two[1]), atol=1e-3)]
    return fits[0] if fits else "none of these"


print("onnxruntime", onnxruntime.__version__, "- what two active adapters answer")
got = [answer((both, u), (other, v)), answer((other, v), (both, u)), answer((part, w), (other, v))]
for text, kind in zip(("one, other", "other, one", "one for layer 0, other"), got, strict=True):
    print(f"{text}: {kind}")
wanted = ["the first alone"] * 2 + ["layer 0 of the first, layer 1 of the second"]
if got != wanted:
    sys.exit(f"changed: expected {wanted}, got {got}")
PYTHON
