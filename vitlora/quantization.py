"""How frozen weights are kept: fp32, bf16, fp16, NF4 (QLoRA; Dettmers et al. 2023), or FP4.

Quantise first, inject adapters second. A bundle records how its base was kept, so that evaluation
and prediction see the base that training saw, on whatever hardware they run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from vitlora.errors import UsageError

Quantization = Literal["none", "nf4", "fp4"]

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # those of bitsandbytes

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Storage:
    """How the frozen weights were kept while the adapter was trained.

    Attributes:
        quantization: ``nf4`` or ``fp4`` for the linear layers in the blocks, or ``none``.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of all other linear and convolution
            weights (and of the 4-bit layers' products).
        block_size: How many 4-bit weights share a scale, one of ``BLOCK_SIZES``; without
            quantization it says nothing.
    """

    quantization: Quantization = "none"
    dtype: str = "float32"
    block_size: int = 64

    def __post_init__(self) -> None:
        kinds = get_args(Quantization)
        if self.quantization not in kinds:
            raise UsageError(
                f"model.quantization is '{self.quantization}'; expected one of {', '.join(kinds)}"
            )
        if self.quantization != "none" and self.block_size not in BLOCK_SIZES:
            raise UsageError(
                f"model.block_size is {self.block_size}; expected one of "
                f"{', '.join(map(str, BLOCK_SIZES))}"
            )
        if self.quantization == "none":
            object.__setattr__(self, "block_size", 64)  # so that equal storages are equal
        if self.dtype not in _DTYPES:
            raise UsageError(f"dtype is '{self.dtype}'; expected one of {', '.join(_DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of ``dtype``."""
        return _DTYPES[self.dtype]


def freeze(module: nn.Module, storage: Storage) -> None:
    """Freezes a plain ViT in place and keeps its weights as ``storage`` says.

    The head is left as it is: it is trained. Layer norms and embeddings stay fp32.

    Args:
        module: timm's ``VisionTransformer``, fp32, on the CPU.
        storage: How to keep it; its dtype is the one matrix products run in.
    """
    module.requires_grad_(False)
    if storage.quantization != "none":
        from vitlora.four_bit import FourBitLinear

        for parent, name, layer in _block_linears(module):
            quantized = FourBitLinear.from_linear(
                layer, storage.torch_dtype, storage.quantization, storage.block_size
            )
            setattr(parent, name, quantized)
    for layer in _weights_to_round(module):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype)


def dequantize(module: nn.Module, storage: Storage) -> None:
    """Rounds a plain fp32 ViT in place to the values training saw; all layers stay fp32 linear.

    Args:
        module: timm's ``VisionTransformer``, fp32, on the CPU.
        storage: How the base was kept in training.
    """
    if storage.quantization != "none":
        from vitlora.four_bit import round_trip

        for _, _, layer in _block_linears(module):
            layer.weight.data = round_trip(
                layer.weight.data, storage.quantization, storage.block_size
            )
    for layer in _weights_to_round(module):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype).float()


def is_quantized(layer: nn.Module) -> bool:
    """Returns whether a layer's own weight is kept in 4 bits."""
    return hasattr(layer, "dequantized")


def plain_weight(layer: nn.Module) -> torch.Tensor:
    """Returns a frozen layer's weight ``(out, in)`` in fp32, whatever it is kept in."""
    kept: Any = layer
    weight = kept.dequantized() if is_quantized(layer) else kept.weight
    return weight.detach().float()


def frozen_bytes(module: nn.Module) -> int:
    """Returns the bytes the frozen parameters and buffers take, 4-bit scales included."""
    tensors: list[torch.Tensor] = [p for p in module.parameters() if not p.requires_grad]
    tensors += list(module.buffers())
    layers: list[Any] = [layer for layer in module.modules() if is_quantized(layer)]
    for layer in layers:
        tensors += [*layer.scales, *layer.tables]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _block_linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    blocks: Any = module.blocks
    for parent in list(blocks.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                yield parent, name, layer


def _weights_to_round(module: nn.Module) -> Iterator[nn.Module]:
    """Yields plain linear and convolution layers outside the head."""
    for name, layer in module.named_modules():
        if type(layer) in (nn.Linear, nn.Conv2d) and not name.startswith("head"):
            yield layer
