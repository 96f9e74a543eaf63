"""How much memory there is: of this machine, or of one that was named."""

import re
from dataclasses import dataclass

import psutil
import torch

from vitlora.errors import UsageError
from vitlora.hardware import free_memory

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

MARGIN = 0.1  # of the free memory left alone: fragments, other programs
CONTEXT = 400_000_000  # what CUDA and its libraries take of a card before anything is computed


@dataclass(frozen=True)
class Room:
    """Memory to train in.

    Attributes:
        free: Bytes that are free before training.
        says: Whose, and how that is known.
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
        UsageError: It is no size, or nothing.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not 0 < size <= 2**60:
        raise UsageError(f"{option} is '{text}'; expected a size such as 6GB, 6GiB or 6144MB")
    return size


def room_of(size: int, device: str) -> Room:
    """Returns the room on a device of so many bytes, named by the user."""
    if device != "cuda":
        return Room(size, "given")
    return Room(max(size - CONTEXT, 0), f"given, after {CONTEXT / 1e9:g} GB for CUDA (assumed)")


def room_here(device: torch.device) -> Room:
    """Returns what is free now on a device of this machine."""
    free_memory()  # what torch keeps for later counts as taken otherwise
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Room(free, f"free on {torch.cuda.get_device_name(device)}")
    if device.type == "mps":
        most = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return Room(max(most, 0), "free on this machine's GPU (MPS)")
    return Room(psutil.virtual_memory().available, "free on this machine, no GPU")
