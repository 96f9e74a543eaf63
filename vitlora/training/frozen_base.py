"""Loads and stores the frozen base of a run, and chooses its attention."""

from functools import partial

import torch
from torch import nn

from vitlora.adapters import Adapter
from vitlora.backbones import Backbone, as_vit, make_lean
from vitlora.errors import UsageError
from vitlora.hardware import give_memory_back
from vitlora.quantization import Quantization, Storage, dequantize_layer, freeze_layer

_FEW_PATCHES = 256  # unfused attention was timed on 196


def asked_storage(quantization: Quantization, block_size: int, adapter: Adapter) -> Storage:
    """Returns how to store the base; precision and adapter decide the dtype later.

    Raises:
        UsageError: The options exclude each other.
    """
    if quantization != "none" and not adapter.freezes_base:
        raise UsageError(
            f"model.quantization is {quantization}, but {type(adapter).__name__} trains "
            "the base; use Lora or LinearProbe"
        )
    if quantization == "none" and block_size != 64:
        raise UsageError(
            f"model.block_size is {block_size}, but model.quantization is none; set it to nf4, "
            "or leave block_size out"
        )
    return Storage(quantization, block_size=block_size)


def check_device(storage: Storage, device: str) -> None:
    """Refuses a 4-bit base on a device without 4-bit kernels.

    Raises:
        UsageError: The device is Apple's GPU.
    """
    if storage.quantization != "none" and device == "mps":
        raise UsageError(
            f"model.quantization is {storage.quantization}, which runs on cuda and cpu, "
            "not on mps; add --trainer.accelerator cpu"
        )


def load_frozen(backbone: Backbone, storage: Storage, compute: torch.dtype, scarce: bool) -> None:
    """Loads the base layer by layer; each is stored as ``storage`` says before the next is read.

    Args:
        backbone: An opened backbone that is not loaded.
        storage: How to store it.
        compute: The dtype of the run's matrix products.
        scarce: Whether memory may be short.
    """
    # a bundle to continue from may have been trained with another rounding than this run
    keep = freeze_layer if storage.torch_dtype == compute else dequantize_layer
    if scarce and storage.quantization != "none":
        give_memory_back()
    backbone.load(partial(keep, backbone.module.requires_grad_(False), storage))


def choose_attention(module: nn.Module, device: str, bf16: bool) -> None:
    """Makes attention copy less, and not use torch's fused one where that is missing or slower.

    Args:
        module: timm's ViT.
        device: cpu, cuda or mps.
        bf16: Whether it computes in bf16.
    """
    vit = as_vit(module)
    for block in vit.blocks:
        make_lean(block.get_submodule("attn"))
    few = vit.patch_embed.num_patches <= _FEW_PATCHES
    if device == "mps" or (device == "cpu" and bf16 and few):
        # MPS never trains with fused attention; turned off here, the memory plan sees that. On
        # CPUs, bf16 steps with fused attention take 1.4 x as long (benchmarks/cpu_step.py). Without
        # it, the attention matrices stay in memory and grow with the square of the patches
        for block in vit.blocks:
            block.get_submodule("attn").fused_attn = False  # pyright: ignore[reportArgumentType]
