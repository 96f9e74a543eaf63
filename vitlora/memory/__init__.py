"""The plan: how much memory a training run will need."""

from vitlora.memory.batch import (
    Batches,
    MemoryFullError,
    fitting_batch,
)
from vitlora.memory.footprint import Footprint, footprint
from vitlora.memory.room import CONTEXT, MARGIN, Room, parse_size, room_here, room_of
from vitlora.memory.table import MARGIN_SAID, Way, bars, pick, table

__all__ = [
    "CONTEXT",
    "MARGIN",
    "MARGIN_SAID",
    "Batches",
    "Footprint",
    "MemoryFullError",
    "Room",
    "Way",
    "bars",
    "fitting_batch",
    "footprint",
    "parse_size",
    "pick",
    "room_here",
    "room_of",
    "table",
]
