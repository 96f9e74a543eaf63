"""The processes of a run, one for each device, as their environment tells. Needs no torch.

torchrun starts them, or SLURM's srun, or vitlora itself.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vitlora.errors import UsageError

OURS = "VITLORA_PROCESSES"  # set in the processes that vitlora starts
Devices = int | str | list[int] | None
_ALL = ("auto", "-1", -1)


@dataclass(frozen=True)
class Place:
    """Which of the processes of a run this is.

    Attributes:
        rank: Its number, from 0.
        of: Number of processes.
        here: Number of processes on this machine.
        by: What started them.
    """

    rank: int
    of: int
    here: int
    by: Literal["vitlora", "torchrun", "srun"]

    @property
    def machines(self) -> int:
        """Number of machines."""
        return self.of // self.here


def joined(devices: Devices, machines: int, accelerator: str = "auto") -> Place | None:
    """Returns the place of this process in a run; None if the run has no other processes yet.

    Under torchrun a run takes all its processes, unless ``devices`` is 1. Under srun it takes them
    only if more than one is asked for: each task may well be a run of its own.

    Args:
        devices: ``trainer.devices``.
        machines: ``trainer.num_nodes``.
        accelerator: ``trainer.accelerator``.

    Raises:
        UsageError: As many processes as are asked for were not started.
    """
    place = _started(os.environ)
    if place is None or (devices is None and machines == 1 and place.by == "srun"):
        return None
    if devices is None:
        return place
    count = device_count(devices, accelerator)
    if count * machines == 1:
        return None
    for name, asked, there in (
        ("devices", count, place.here),
        ("num_nodes", machines, place.machines),
    ):
        if asked != there:
            raise UsageError(
                f"trainer.{name} is {asked}, but {place.by} started {place.here} processes on each "
                f"of {place.machines} machines; leave trainer.{name} out, or set it to {there}"
            )
    return place


def device_count(devices: Devices, accelerator: str = "auto") -> int:
    """Returns how many devices of this machine are asked for.

    Args:
        devices: A number; numbers of GPUs, as a list or as ``0,2``; ``auto`` for all GPUs, or the
            CPU; None for one.
        accelerator: ``trainer.accelerator``.

    Raises:
        UsageError: It is none of these.
    """
    if devices in (None, "null"):
        return 1
    if devices in _ALL:
        return _gpus(accelerator)
    devices = f"[{','.join(map(str, devices))}]" if isinstance(devices, list) else devices
    found = re.findall(r"\d+", str(devices))
    if re.fullmatch(r"\d+", str(devices)) and int(found[0]) > 0:
        return int(found[0])
    if re.fullmatch(r"\[?\s*\d+(\s*,\s*\d+)*\s*,?\s*\]?", str(devices)) and not (
        len(found) == 1 and str(devices) == "0"
    ):
        if len(set(found)) < len(found):
            raise UsageError(f"trainer.devices is {devices}, which names a GPU twice")
        return len(found)
    raise UsageError(
        f"trainer.devices is {devices}; expected a number from 1, auto, or numbers of GPUs such as "
        "[0,2]"
    )


def _gpus(accelerator: str) -> int:
    if accelerator not in ("auto", "gpu", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def _started(environment: Mapping[str, str]) -> Place | None:
    """Returns what torchrun, srun or vitlora wrote into the environment; None if none of them."""
    read: Any = environment.__getitem__
    try:
        if "TORCHELASTIC_RUN_ID" in environment:
            rank, of, here = (int(read(n)) for n in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
            by = "vitlora" if OURS in environment else "torchrun"
        elif "SLURM_STEP_ID" in environment:
            rank, of = (int(read(n)) for n in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
            here, by = int(read("SLURM_STEP_TASKS_PER_NODE").partition("(")[0]), "srun"  # 4(x2)
        else:
            return None
    except (KeyError, ValueError):
        return None
    return Place(rank, of, here, by) if of > 1 else None
