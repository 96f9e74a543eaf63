"""How frozen weights are kept: fp32, bf16, fp16, or NF4 (QLoRA; Dettmers et al. 2023).

Quantise first, inject adapters second. A bundle records how its base was kept, so that evaluation
and prediction see the base that training saw, on whatever hardware they run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from vitlora.errors import UsageError

Quantization = Literal["none", "nf4"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Storage:
    """How the frozen weights were kept while the adapter was trained.

    Attributes:
        quantization: ``nf4`` for the linear layers in the blocks, or ``none``.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of all other linear and convolution
            weights (and of NF4's products).
    """

    quantization: Quantization = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.quantization not in ("none", "nf4"):
            raise UsageError(f"model.quantization is '{self.quantization}'; expected none or nf4")
        if self.dtype not in _DTYPES:
            raise UsageError(f"dtype is '{self.dtype}'; expected one of {', '.join(_DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of ``dtype``."""
        return _DTYPES[self.dtype]


def freeze(module: nn.Module, storage: Storage, compute: torch.dtype) -> None:
    """Freezes a plain ViT in place and keeps its weights as ``storage`` says.

    The head is left as it is: it is trained. Layer norms and embeddings stay fp32.

    Args:
        module: timm's ``VisionTransformer``, fp32, on the CPU.
        storage: How the base is (or was) kept in training.
        compute: What matrix products run in now: the dtype of the autocast, or float32.
    """
    module.requires_grad_(False)
    if storage.quantization == "nf4" and storage.torch_dtype != compute:
        # trained elsewhere, in another precision: what the kernels rounded there is rounded here
        dequantize(module, storage)
    elif storage.quantization == "nf4":
        from vitlora.nf4 import Nf4Linear

        for parent, name, layer in _block_linears(module):
            quantized = Nf4Linear.from_linear(layer, compute)
            setattr(parent, name, quantized)
    for layer in _weights_to_round(module):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype).to(compute)


def dequantize(module: nn.Module, storage: Storage) -> None:
    """Rounds a plain fp32 ViT in place to the values training saw; all layers stay fp32 linear.

    Args:
        module: timm's ``VisionTransformer``, fp32, on the CPU.
        storage: How the base was kept in training.
    """
    if storage.quantization == "nf4":
        from vitlora.nf4 import round_trip

        for _, _, layer in _block_linears(module):
            layer.weight.data = round_trip(layer.weight.data)
    for layer in _weights_to_round(module):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype).float()


def frozen_bytes(module: nn.Module) -> int:
    """Returns the bytes the frozen parameters and buffers take, NF4's scales included."""
    tensors: list[torch.Tensor] = [p for p in module.parameters() if not p.requires_grad]
    tensors += list(module.buffers())
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += state.as_dict(packed=True).values()
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
