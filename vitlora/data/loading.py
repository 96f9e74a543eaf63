"""The memory that loader processes hand their batches over in, which containers keep small."""

import shutil
import sys
from pathlib import Path

SHARED = Path("/dev/shm")
MORE_ROOM = "docker run --shm-size=2g"

_AHEAD = 2  # batches that each process prepares in advance: torch's default
_IN_USE = 2  # batches that training holds: the one it computes with, and the next
# how torch and the kernel say that it is full
_FULL = ("Bus error", "shared memory", "unable to write to file </torch", "No space left on device")
_LOST = ("killed by signal", "exited unexpectedly")


def shared_memory() -> int | None:
    """Returns the free bytes of the shared memory; None where batches are not handed over in it."""
    if sys.platform != "linux" or not SHARED.is_dir():
        return None
    return shutil.disk_usage(SHARED).free


def workers_in(room: int, batch: int) -> int:
    """Returns the most loader processes that have room, 0 if none has.

    Args:
        room: Free bytes.
        batch: Bytes of one.
    """
    return max(0, (room // batch - _IN_USE) // _AHEAD)


def workers_with_room(workers: int, batch: int) -> tuple[int, str]:
    """Returns as many processes as the shared memory has room for, and a line if it is fewer.

    Args:
        workers: As many as are wanted.
        batch: Bytes of one.
    """
    room = shared_memory()
    if room is None or (fit := workers_in(room, batch)) >= workers:
        return workers, ""
    return fit, (
        f"{SHARED} has {room / 1e6:.0f} MB free, too little for {workers} loader processes; "
        f"{fit or 'the main one'} will load. {MORE_ROOM} gives it more"
    )


def lost_workers(error: BaseException) -> str | None:
    """Returns what to do where an error says that a loader process came to its end; else None."""
    text = str(error)
    if "DataLoader worker" not in text and "</torch" not in text:
        return None
    if any(words in text for words in _FULL):
        return (
            f"{SHARED} is full, in which loader processes hand their pictures over; add "
            f"--data.num_workers 0, or give it more room: {MORE_ROOM}"
        )
    if any(words in text for words in _LOST):
        return (
            "a process that loads pictures was ended from outside, usually because memory ran out; "
            "add --data.num_workers 0"
        )
    return None
