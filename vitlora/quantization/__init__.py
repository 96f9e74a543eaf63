"""How the frozen weights are kept: in fp32, in 16 bits, or in 4."""

from vitlora.quantization.storage import (
    BLOCK_SIZES,
    Quantization,
    Storage,
    add_beside,
    dequantize,
    dequantize_layer,
    freeze,
    freeze_layer,
    frozen_bytes,
    is_quantized,
    pack_layer,
    plain_weight,
    weight_of,
)

__all__ = [
    "BLOCK_SIZES",
    "Quantization",
    "Storage",
    "add_beside",
    "dequantize",
    "dequantize_layer",
    "freeze",
    "freeze_layer",
    "frozen_bytes",
    "is_quantized",
    "pack_layer",
    "plain_weight",
    "weight_of",
]
