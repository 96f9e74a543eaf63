"""The base of a run: loaded and kept as asked, and computed as its device does it best."""

from functools import partial
from typing import Any

import torch

from vitlora.adapters import Adapter
from vitlora.backbones import Backbone
from vitlora.errors import UsageError
from vitlora.hardware import give_memory_back
from vitlora.quantization import Quantization, Storage, dequantize_layer, freeze_layer

_FEW_PATCHES = 256  # unfused attention was timed on 196


def asked_storage(quantization: Quantization, block_size: int, adapter: Adapter) -> Storage:
    """Returns how the base is to be kept; in which dtype, precision and adapter say later.

    Raises:
        UsageError: The options do not go together.
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
    """Refuses a base in 4 bits where there are no kernels for it.

    Raises:
        UsageError: The device is Apple's GPU.
    """
    if storage.quantization != "none" and device == "mps":
        raise UsageError(
            f"model.quantization is {storage.quantization}, which runs on cuda and cpu, "
            "not on mps; add --trainer.accelerator cpu"
        )


def load_frozen(backbone: Backbone, storage: Storage, compute: torch.dtype, scarce: bool) -> None:
    """Loads the base layer by layer, each kept as ``storage`` says before the next is read.

    Args:
        backbone: Only opened.
        storage: How it is kept.
        compute: What the run computes in.
        scarce: Whether memory may be short.
    """
    # a bundle's adapter may have learnt around a rounding other than this run's
    keep = freeze_layer if storage.torch_dtype == compute else dequantize_layer
    if scarce and storage.quantization != "none":
        give_memory_back()
    backbone.load(partial(keep, backbone.module.requires_grad_(False), storage))


def choose_attention(module: Any, device: str, bf16: bool) -> None:
    """Computes attention step by step where torch's fused kernel is missing, or slower.

    Args:
        module: timm's ViT.
        device: cpu, cuda or mps.
        bf16: Whether it computes in bf16.
    """
    few = module.patch_embed.num_patches <= _FEW_PATCHES
    if device == "mps" or (device == "cpu" and bf16 and few):
        # MPS trains without fused attention anyway: said, the plan counts it. On CPUs bf16
        # steps take 1.4 x as long with torch's (benchmarks/cpu_step.py). Without it attention's
        # matrices are kept, which grow with the square of the patches
        for block in module.blocks:
            block.attn.fused_attn = False
