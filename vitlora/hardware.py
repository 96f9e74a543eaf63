"""The one module that inspects the machine: which device, which precision."""

import ctypes
import gc
import os
import platform
import shutil
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import nn

from vitlora.errors import UsageError

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
PredictionPrecision = Literal["32", "bf16", "auto"]

# what a plain RuntimeError of torch, its allocators or CUDA's libraries says when memory is full
_FULL = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def pick_device(name: str = "auto", option: str = "--device") -> torch.device:
    """Returns the device to run on: CUDA, else Apple's MPS, else the CPU.

    Args:
        name: ``auto``, or a torch device name such as ``cpu``, ``cuda`` or ``gpu``, ``cuda:1`` or
            ``mps``.
        option: The option that sets it, for the error message.

    Raises:
        UsageError: The named device is unknown or not on this machine.
    """
    if name in ("auto", ""):
        if torch.cuda.is_available():
            return _exact(torch.device("cuda"))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device("cuda" if name == "gpu" else name)  # Lightning's name for it
    except RuntimeError:
        raise UsageError(f"{option} '{name}' is unknown; use auto, cpu, cuda or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise UsageError(f"{option} '{name}' is not on this machine; use {option} auto or cpu")
    return _exact(device)


def pick_precision(device: torch.device, asked: Precision = "auto") -> Precision:
    """Returns the precision to train in.

    ``auto`` is bf16 if the chip computes in it (including CPUs with AVX512-BF16 or AMX), else fp16
    on older CUDA cards (except the GTX 16 series), else fp32.

    Raises:
        UsageError: ``asked`` is not a known precision.
    """
    if asked not in get_args(Precision):
        raise UsageError(
            f"trainer.precision is '{asked}'; expected one of {', '.join(get_args(Precision))}"
        )
    if asked != "auto":
        return asked
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed"
        # fp16 convolutions return NaN on GTX 16 cards: pytorch/pytorch issue 77955
        return "32-true" if " GTX 16" in torch.cuda.get_device_name(device) else "16-mixed"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16-mixed"
    return "32-true"


def prediction_dtype(device: torch.device, asked: str = "32") -> torch.dtype:
    """Returns the dtype to predict in; ``auto`` is bf16 if the chip computes in it, else fp32.

    Raises:
        UsageError: ``asked`` is not a known precision.
    """
    if asked not in get_args(PredictionPrecision):
        known = ", ".join(get_args(PredictionPrecision))
        raise UsageError(f"precision is '{asked}'; expected one of {known}")
    native = asked == "auto" and pick_precision(device) == "bf16-mixed"
    return torch.bfloat16 if native or asked == "bf16" else torch.float32


def storage_dtype(precision: str) -> torch.dtype:
    """Returns the dtype to keep frozen weights in: the one the matrix products run in.

    Otherwise autocast would cast every frozen fp32 weight at each step and keep the copy until the
    backward pass: about 170 MB for a ViT-B.
    """
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)


def check_compiles(device: torch.device) -> None:
    """Refuses torch.compile if what it needs is missing.

    Raises:
        UsageError: There is no C++ compiler for the CPU, or no triton for the GPU.
    """
    if device.type == "cpu":
        names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl"))
        needed, there = "a C++ compiler", any(map(shutil.which, names))
    else:
        needed = "the triton package"
        there = device.type == "cuda" and find_spec("triton") is not None
    if not there:
        raise UsageError(
            f"model.compile needs {needed} on {device.type}, and there is none; set it to false"
        )


def compile_blocks(module: nn.Module) -> None:
    """Compiles each block of a timm ViT when it first runs."""
    # the blocks share one cache: a version for each kind of block, batch size and mode
    torch._dynamo.config.recompile_limit = 64  # pyright: ignore[reportAttributeAccessIssue]
    for block in module.get_submodule("blocks").children():
        block.compile()


def give_memory_back() -> None:
    """Makes glibc return the memory of freed tensors to the system at once.

    By default it keeps gaps between tensors that are still in use: a fifth of the peak when a 4-bit
    ViT-L is trained. In return, each large tensor takes new pages, which costs some time.
    """
    if platform.libc_ver()[0] == "glibc":
        threshold = -3  # M_MMAP_THRESHOLD of mallopt(3)
        ctypes.CDLL(None).mallopt(threshold, 2**20)


def keep_off_host_memory(device: torch.device) -> None:
    """Makes CUDA on Windows report that its memory is full instead of using the host's.

    NVIDIA's driver falls back to host memory by default ("CUDA sysmem fallback policy"). Steps then
    take many times as long, without a warning.
    """
    if device.type == "cuda" and platform.system() == "Windows":
        free, total = torch.cuda.mem_get_info(device)
        usable = free + torch.cuda.memory_reserved(device)
        torch.cuda.set_per_process_memory_fraction(min(usable / total, 1.0), device)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that the device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _FULL)


def free_memory() -> None:
    """Frees everything that is no longer referred to, and returns cached memory to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _exact(device: torch.device) -> torch.device:
    """Keeps fp32 convolutions in fp32: by default cuDNN rounds their inputs to TF32."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def _cpu_has_bf16() -> bool:
    """Returns whether the CPU multiplies bf16 matrices in hardware."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, hence the getattr
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
