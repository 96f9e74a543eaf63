"""The plan: what a training takes of the memory, before it takes it."""

from vitlora.memory.batch import (
    OutOfMemory,
    explain_full,
    fitting_batch,
    gigabytes,
    is_out_of_memory,
    settle_batch,
)
from vitlora.memory.footprint import Footprint, footprint
from vitlora.memory.room import CONTEXT, MARGIN, Room, parse_size, room_here, room_of

__all__ = [
    "CONTEXT",
    "MARGIN",
    "Footprint",
    "OutOfMemory",
    "Room",
    "explain_full",
    "fitting_batch",
    "footprint",
    "gigabytes",
    "is_out_of_memory",
    "parse_size",
    "room_here",
    "room_of",
    "settle_batch",
]
