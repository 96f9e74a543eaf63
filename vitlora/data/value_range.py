"""One scale for the pictures of a folder that are deeper than 8 bits.

16-bit files hold 12-bit values, or temperatures from 7,000 to 9,000, or CT numbers from -1,024:
the file does not say which values are black and white. The scale must be the same for all pictures,
in training and afterwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitlora.data.bit_depth import ValueRange
from vitlora.data.images import MemoryShortError, deep_values
from vitlora.data.waiting import in_threads
from vitlora.errors import DataError

# What black-to-white ranges end at: floats in [0, 1]; 8, 10, 12, 14 and 16 bits
_ENDS = (1, 255, 1023, 4095, 16383, 65535)
_TAIL = 0.001  # of a picture's pixels, at both ends: dead and hot ones
_FAR = 4  # times as bright as nearly all pixels of the folder: dead, or "no data"
_STRANGE = 50  # one picture in 50 may lie outside the range of the others
_LOOKED_AT = 2**18  # most pixels of a picture whose quantiles are taken


@dataclass(frozen=True)
class Levels:
    """The values of one picture.

    Attributes:
        low: One pixel in 1,000 lies below it.
        high: One pixel in 1,000 lies above it.
        top: The largest.
        whole: Whether they are integers.
    """

    low: float
    high: float
    top: float
    whole: bool


@dataclass(frozen=True)
class Found:
    """The scale of a folder.

    Attributes:
        value_range: The values that become 0 and 255; None where no picture is deeper than 8 bits.
        deep: Pictures deeper than 8 bits.
        pictures: All pictures.
    """

    value_range: ValueRange | None
    deep: int
    pictures: int

    def to_text(self) -> str:
        """Returns it in a line."""
        return (
            f"{self.deep:,} of {self.pictures:,} pictures are deeper than 8 bits: values "
            f"{range_text(self.value_range)} become 0 to 255"
        )


def find_range(paths: Iterable[Path]) -> Found:
    """Returns the scale that suits pictures; of those of 8 bits only the header is read.

    Integers from about 0 end at the least of 8, 10, 12, 14 and 16 bits that holds them, floats at 1
    if that does. Where values begin below 0, or so far above it that half of that would be unused,
    the range is that of nearly all pixels. A pixel four times as bright as nearly all others is
    dead, or stands for no data, and does not count. One picture in 50 may lie outside: it does not
    change what is right for the others. Files that cannot be read do not count.

    Raises:
        MemoryShortError: There is too little memory for a picture.
    """
    paths = list(paths)
    doing = "looking for pictures deeper than 8 bits"
    levels = [one for one in in_threads(_levels_of, paths, doing) if one is not None]
    return Found(_common(levels) if levels else None, len(levels), len(paths))


def range_text(value_range: ValueRange | None) -> str:
    """Returns a range in words: ``0 to 4095``."""
    return "of no known range" if value_range is None else "{:.6g} to {:.6g}".format(*value_range)


def read_range(given: Any) -> ValueRange | None:
    """Returns a range from an option or a file.

    Raises:
        ValueError: It is not a pair of finite numbers, the lower first.
    """
    if given is None:
        return None
    numbers = isinstance(given, (list, tuple)) and all(type(v) in (int, float) for v in given)
    if not numbers or len(given) != 2 or not np.isfinite(given).all() or given[0] >= given[1]:
        raise ValueError(f"{given!r} is no range; expected two numbers, the lower first")
    return float(given[0]), float(given[1])


def _levels_of(path: Path) -> Levels | None:
    try:
        values = deep_values(path)
    except MemoryShortError:
        raise
    except DataError:
        return None
    return None if values is None else levels(values)


def levels(values: NDArray[Any]) -> Levels | None:
    """Returns the levels of a picture's values; None if none of them is a number."""
    whole = values.dtype.kind in "iu"
    known = values.ravel() if whole else values[np.isfinite(values)]
    if not known.size:
        return None
    some = known[:: -(-known.size // _LOOKED_AT)]
    # a value that occurs, never one between two
    low, high = np.quantile(some, (_TAIL, 1 - _TAIL), method="nearest")
    return Levels(float(low), float(high), float(known.max()), whole)


def _common(levels: list[Levels]) -> ValueRange:
    strange = len(levels) // _STRANGE
    low = sorted(one.low for one in levels)[strange]
    high = sorted(one.high for one in levels)[-1 - strange]
    tops = (one.top if high <= 0 or one.top <= _FAR * high else high for one in levels)
    top = sorted(tops)[-1 - strange]
    ends = _ENDS[1:] if all(one.whole for one in levels) else _ENDS
    end = next((end for end in ends if top <= end), None)
    if end is not None and 0 <= low <= high / 2 and top > end / 4:
        return 0.0, float(end)
    return low, high if high > low else low + 1
