"""An ONNX file with the ViT's weights in 8 bits."""

from typing import Any

import numpy as np

from vitlora.exporting.targets.target import FEATURES

_LARGEST = 127


def with_weights_in_8_bits(data: bytes) -> bytes:
    """Returns an ONNX file whose linear layers store their weights in int8.

    Each output channel has a scale in fp32, and the file multiplies by it before the product, which
    is computed in fp32. So activations are not rounded: a ViT's have outliers that 8 bits spoil.
    Patch embedding, norms, biases, the head and the distances stay in fp32.

    Args:
        data: Of ``onnx_bytes``, in fp32.
    """
    import onnx
    from onnx import helper, numpy_helper

    model: Any = onnx.load_from_string(data)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    unpacked = []
    for node in graph.node:
        weight = stored.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if weight is not None and len(weight.dims) == 2:
            rows = any(a.name == "transB" and a.i == 1 for a in node.attribute)
            axis = 0 if rows else 1
            packed, scale = _packed(numpy_helper.to_array(weight), axis)
            names = [f"{weight.name}.int8", f"{weight.name}.scale"]
            graph.initializer.extend(map(numpy_helper.from_array, (packed, scale), names))
            node_of = helper.make_node("DequantizeLinear", names, [weight.name], axis=axis)
            unpacked.append(node_of)
            graph.initializer.remove(stored.pop(weight.name))
        if FEATURES in node.output:
            break
    nodes = [*unpacked, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()


def _packed(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a weight in int8, and the scale of each output channel, which lie along ``axis``."""
    scale = np.abs(weight).max(1 - axis) / _LARGEST
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    packed = np.rint(weight / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    return packed, scale
