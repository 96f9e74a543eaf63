"""How much memory is available: on this machine, or on one that the user describes."""

import re
from dataclasses import dataclass

import psutil
import torch

from vitlora.errors import UsageError
from vitlora.hardware import free_memory

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

MARGIN = 0.1  # share of the free memory that is not used: fragments, other programs
CONTEXT = 400_000_000  # bytes that CUDA and its libraries take before anything is computed


@dataclass(frozen=True)
class Room:
    """The memory that is available for training.

    Attributes:
        free: Bytes that are free before training.
        says: Where the number comes from.
    """

    free: int
    says: str

    @property
    def usable(self) -> int:
        """Bytes a plan may fill: all but the margin."""
        return int((1 - MARGIN) * self.free)


def parse_size(text: str, option: str = "--vram") -> int:
    """Returns the bytes of ``6GB`` (10^9), ``6GiB`` (2^30), ``6144MB`` and their like.

    Raises:
        UsageError: It is not a size, or is 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not 0 < size <= 2**60:
        raise UsageError(f"{option} is '{text}'; expected a size such as 6GB, 6GiB or 6144MB")
    return size


def room_of(size: int, device: str) -> Room:
    """Returns the room on a device of ``size`` bytes that the user named."""
    if device != "cuda":
        return Room(size, "given")
    return Room(max(size - CONTEXT, 0), f"given, after {CONTEXT / 1e9:g} GB for CUDA (assumed)")


def room_here(device: torch.device) -> Room:
    """Returns the memory that is free now on a device of this machine."""
    free_memory()  # otherwise torch's cache would count as used
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Room(free, f"free on {torch.cuda.get_device_name(device)}")
    if device.type == "mps":
        most = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return Room(max(most, 0), "free on this machine's GPU (MPS)")
    return Room(psutil.virtual_memory().available, "free on this machine, no GPU")
