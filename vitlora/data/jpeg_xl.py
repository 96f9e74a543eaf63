"""Size and kind of a JPEG XL picture, read from its first bytes without decoding.

Source: ISO/IEC 18181-1:2022, annex D (image header); 18181-2, clause 9 (boxes).
"""

from dataclasses import dataclass

from vitlora.data.archives import Stored, open_file, size_and_time

BARE = b"\xff\x0a"
BOXED = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEAD = 64  # bytes, more than the fields that are read can fill
_LENGTHS = (9, 13, 18, 30)  # bits of a side in pixels
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height


@dataclass(frozen=True)
class Header:
    """What a JPEG XL file holds.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        animated: Whether it has more than one frame.
    """

    width: int
    height: int
    animated: bool


def read_header(path: Stored) -> Header:
    """Returns the size of a JPEG XL picture, and whether it is an animation.

    Raises:
        ValueError: The file holds no JPEG XL picture.
    """
    bits = _Bits(_codestream(path).removeprefix(BARE))
    width, height = bits.size()
    animated = False
    if not bits.take(1) and bits.take(1):  # not all by default, and with further fields
        bits.take(3)  # the orientation
        if bits.take(1):
            bits.size()  # that to be shown at
        animated = not bits.take(1) and bool(bits.take(1))  # previews are not looked through
    return Header(width, height, animated)


class _Bits:
    """Reads numbers bit by bit, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        taken = self._left & ((1 << count) - 1)
        self._left >>= count
        return taken

    def size(self) -> tuple[int, int]:
        """Returns width and height in pixels."""
        eighths = bool(self.take(1))
        height = self._side(eighths)
        if ratio := self.take(3):
            wide, high = _RATIOS[ratio - 1]
            return height * wide // high, height
        return self._side(eighths), height

    def _side(self, eighths: bool) -> int:
        return 8 * (1 + self.take(5)) if eighths else 1 + self.take(_LENGTHS[self.take(2)])


def _codestream(path: Stored) -> bytes:
    """Returns the first bytes of the picture itself, wherever in the file they are."""
    with open_file(path) as file:
        start = file.read(_HEAD)
        if start.startswith(BARE):
            return start
        place, end = 0, size_and_time(path)[0]
        while place + 8 <= end:
            file.seek(place)
            head = file.read(16)
            size, kind = int.from_bytes(head[:4]), head[4:8]
            before = 16 if size == 1 else 8
            size = int.from_bytes(head[8:16]) if size == 1 else size or end - place
            if kind in (b"jxlc", b"jxlp"):  # whole, or in parts, each with its number
                file.seek(place + before + (4 if kind == b"jxlp" else 0))
                return file.read(_HEAD)
            place += max(size, before)
    raise ValueError("no picture in it")
