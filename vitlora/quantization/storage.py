"""How frozen weights are kept: fp32, bf16, fp16, NF4 (QLoRA; Dettmers et al. 2023), or FP4.

Quantise first, inject adapters second. A bundle records how its base was kept, so that evaluation
and prediction see the base that training saw, on whatever hardware they run.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from vitlora.errors import UsageError

if TYPE_CHECKING:
    from vitlora.quantization.four_bit import FourBitLinear

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
        known = isinstance(self.block_size, int) and self.block_size in BLOCK_SIZES
        if self.quantization != "none" and not known:
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
    for path, _ in list(module.named_modules()):
        freeze_layer(module, storage, path)


def freeze_layer(module: nn.Module, storage: Storage, path: str) -> None:
    """Keeps one layer of a frozen ViT as ``freeze`` does, if it keeps such layers in fewer bits.

    Args:
        module: timm's ``VisionTransformer``, on the CPU.
        storage: How to keep it.
        path: Of the layer, in fp32.
    """
    layer = module.get_submodule(path)
    if _is_packed(layer, path, storage):
        _pack(module, path, storage)
    elif _is_rounded(layer, path):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype)


def pack_layer(module: nn.Module, storage: Storage, path: str) -> None:
    """Keeps one layer as ``freeze_layer`` does, for products in fp32: those of ``dequantize``.

    Args:
        module: timm's ``VisionTransformer``, on the CPU.
        storage: How the base was kept in training.
        path: Of the layer, in fp32.
    """
    if _is_packed(module.get_submodule(path), path, storage):
        _pack(module, path, storage).compute_in_fp32()
    else:
        dequantize_layer(module, storage, path)


def dequantize(module: nn.Module, storage: Storage) -> None:
    """Rounds a plain fp32 ViT in place to the values training saw; all layers stay fp32 linear.

    Args:
        module: timm's ``VisionTransformer``, fp32, on the CPU.
        storage: How the base was kept in training.
    """
    for path, _ in list(module.named_modules()):
        dequantize_layer(module, storage, path)


def dequantize_layer(module: nn.Module, storage: Storage, path: str) -> None:
    """Rounds one layer as ``dequantize`` does.

    Args:
        module: timm's ``VisionTransformer``, on the CPU.
        storage: How the base was kept in training.
        path: Of the layer, in fp32.
    """
    layer: Any = module.get_submodule(path)
    if any(parameter.is_meta for parameter in layer.parameters(recurse=False)):
        return  # of shapes alone, to be counted: there is nothing to round
    if _is_packed(layer, path, storage):
        from vitlora.quantization.four_bit import round_trip

        layer.weight.data = round_trip(layer.weight.data, storage.quantization, storage.block_size)
    if _is_rounded(layer, path):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype).float()


def add_beside(
    module: nn.Module, path: str, a: torch.Tensor, b: torch.Tensor, gain: torch.Tensor | None
) -> None:
    """Adds ``B A`` to a 4-bit layer that computes in fp32, beside its weight.

    Args:
        module: What the layer is a part of.
        path: Of the layer.
        a: ``(rank, in)``.
        b: ``(out, rank)``, scaled.
        gain: What all but the bias is multiplied with, ``(out,)``; None for ones.
    """
    from vitlora.quantization.four_bit import Beside

    parent, _, name = path.rpartition(".")
    beside = Beside(module.get_submodule(path), a, b, gain)
    setattr(module.get_submodule(parent), name, beside)


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


def _is_packed(layer: nn.Module, path: str, storage: Storage) -> bool:
    """Returns whether a layer is kept in 4 bits: the linear ones in the blocks."""
    four_bit = storage.quantization != "none"
    return four_bit and type(layer) is nn.Linear and path.startswith("blocks.")


def _is_rounded(layer: nn.Module, path: str) -> bool:
    """Returns whether a layer is kept in the storage's dtype: linear, convolution, no head."""
    return type(layer) in (nn.Linear, nn.Conv2d) and not path.startswith("head")


def _pack(module: nn.Module, path: str, storage: Storage) -> "FourBitLinear":
    from vitlora.quantization.four_bit import FourBitLinear

    layer: Any = module.get_submodule(path)
    packed = FourBitLinear.from_linear(
        layer, storage.torch_dtype, storage.quantization, storage.block_size
    )
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, packed)
    return packed
