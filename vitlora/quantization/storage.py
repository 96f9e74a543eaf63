"""How frozen weights are kept: fp32, bf16, fp16, NF4 (QLoRA; Dettmers et al. 2023), or FP4.

Quantise first, inject adapters second. A bundle records how its base was kept, so evaluation and
prediction use the base that training used, on any hardware.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeGuard, cast, get_args

import torch
from torch import nn

from vitlora.errors import UsageError

if TYPE_CHECKING:
    from vitlora.quantization.four_bit import FourBitLinear

Quantization = Literal["none", "nf4", "fp4"]

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # the sizes bitsandbytes has kernels for

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Storage:
    """How the frozen weights are kept while the adapter is trained.

    Attributes:
        quantization: ``nf4`` or ``fp4`` for the linear layers in the blocks, or ``none``.
        dtype: ``float32``, ``bfloat16`` or ``float16``: the dtype of all other linear and
            convolution weights, and of the 4-bit layers' products.
        block_size: Number of 4-bit weights that share a scale, one of ``BLOCK_SIZES``; always 64
            without quantization.
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
            object.__setattr__(self, "block_size", 64)  # it has no effect, and must not differ
        if self.dtype not in _DTYPES:
            raise UsageError(f"dtype is '{self.dtype}'; expected one of {', '.join(_DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of ``dtype``."""
        return _DTYPES[self.dtype]


def freeze(module: nn.Module, storage: Storage) -> None:
    """Freezes a plain ViT in place and stores its weights as ``storage`` says.

    The head does not change, because it is trained. Layer norms and embeddings stay fp32.

    Args:
        module: timm's ``VisionTransformer``, fp32, on the CPU.
        storage: How to keep it; matrix products run in its dtype.
    """
    module.requires_grad_(False)
    for path, _ in list(module.named_modules()):
        freeze_layer(module, storage, path)


def freeze_layer(module: nn.Module, storage: Storage, path: str) -> None:
    """Stores one layer of a frozen ViT as ``freeze`` does.

    Args:
        module: timm's ``VisionTransformer``, on the CPU.
        storage: How to keep it.
        path: Path of the layer, which is fp32.
    """
    layer = module.get_submodule(path)
    if _is_packed(layer, path, storage):
        _pack(module, path, storage)
    elif _is_rounded(layer, path):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype)


def pack_layer(module: nn.Module, storage: Storage, path: str) -> None:
    """Stores one layer as ``freeze_layer`` does, but its products run in fp32.

    The results equal those of a layer after ``dequantize``.

    Args:
        module: timm's ``VisionTransformer``, on the CPU.
        storage: How the base was kept in training.
        path: Path of the layer, which is fp32.
    """
    if _is_packed(module.get_submodule(path), path, storage):
        _pack(module, path, storage).compute_in_fp32()
    else:
        dequantize_layer(module, storage, path)


def dequantize(module: nn.Module, storage: Storage) -> None:
    """Rounds a plain ViT in place to the values that training used; all layers stay fp32.

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
        path: Path of the layer, which is fp32.
    """
    layer = module.get_submodule(path)
    if any(parameter.is_meta for parameter in layer.parameters(recurse=False)):
        return  # the memory plan counts shapes only: there is nothing to round
    if _is_packed(layer, path, storage):
        from vitlora.quantization.four_bit import round_trip

        layer.weight.data = round_trip(layer.weight.data, storage.quantization, storage.block_size)
    if _is_rounded(layer, path):
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(storage.torch_dtype).float()


def add_beside(
    module: nn.Module, path: str, a: torch.Tensor, b: torch.Tensor, gain: torch.Tensor | None
) -> None:
    """Adds ``B A`` beside a 4-bit layer that computes in fp32.

    Args:
        module: The network that contains the layer.
        path: Path of the layer.
        a: ``(rank, in)``.
        b: ``(out, rank)``, already scaled.
        gain: Factor on all but the bias, ``(out,)``; None for ones.
    """
    from vitlora.quantization.four_bit import Beside

    module.set_submodule(path, Beside(module.get_submodule(path), a, b, gain))


def is_quantized(layer: nn.Module) -> "TypeGuard[FourBitLinear]":
    """Returns whether the layer's own weight is kept in 4 bits."""
    return hasattr(layer, "dequantized")


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Returns a frozen layer's weight ``(out, in)``, unpacked if it is kept in 4 bits."""
    return layer.dequantized() if is_quantized(layer) else layer.get_parameter("weight")


def plain_weight(layer: nn.Module) -> torch.Tensor:
    """Returns a frozen layer's weight ``(out, in)`` in fp32, however it is kept."""
    return weight_of(layer).detach().float()


def frozen_bytes(module: nn.Module) -> int:
    """Returns the bytes that the frozen parameters and buffers take, 4-bit scales included."""
    tensors: list[torch.Tensor] = [p for p in module.parameters() if not p.requires_grad]
    tensors += list(module.buffers())
    for layer in module.modules():
        if is_quantized(layer):
            tensors += [*layer.scales, *layer.tables]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _is_packed(layer: nn.Module, path: str, storage: Storage) -> TypeGuard[nn.Linear]:
    """Returns whether a layer is kept in 4 bits: the linear layers of the blocks are."""
    four_bit = storage.quantization != "none"
    return four_bit and type(layer) is nn.Linear and path.startswith("blocks.")


def _is_rounded(layer: nn.Module, path: str) -> bool:
    """Returns whether a layer is kept in the storage's dtype: linear or convolution, no head."""
    return type(layer) in (nn.Linear, nn.Conv2d) and not path.startswith("head")


def _pack(module: nn.Module, path: str, storage: Storage) -> "FourBitLinear":
    from vitlora.quantization.four_bit import FourBitLinear

    layer = cast(nn.Linear, module.get_submodule(path))
    packed = FourBitLinear.from_linear(
        layer, storage.torch_dtype, storage.quantization, storage.block_size
    )
    module.set_submodule(path, packed)
    return packed
