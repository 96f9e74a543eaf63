"""ICC profiles of RGB colours, written from their numbers.

Source: ICC.1:2001-04 (version 2 profiles), sections 6.1 (header), 6.2 (tag table) and 6.5 (types).
"""

import struct
from collections.abc import Sequence

# X, Y, Z of full red, green and blue, relative to D50 as in every profile
Colorants = Sequence[tuple[float, float, float]]

_D50 = (0.9642, 1.0, 0.8249)
_HEADER = 128
# Adobe RGB (1998) Color Image Encoding, version 2005-05, section 4.3.7
_ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_ADOBE_GAMMA = 2 + 51 / 256


def adobe_rgb() -> bytes:
    """Returns a profile of Adobe RGB (1998), which cameras name in EXIF and do not embed."""
    return matrix_profile("Adobe RGB (1998)", _ADOBE, _ADOBE_GAMMA)


def matrix_profile(name: str, colorants: Colorants, curve: float | Sequence[float]) -> bytes:
    """Returns an ICC profile of a display.

    Args:
        name: In ASCII.
        colorants: X, Y, Z of full red, green and blue, relative to D50.
        curve: The exponent that turns values into light; or the light in ``[0, 1]`` of two or more
            values evenly spaced from 0 to 1.
    """
    text = name.encode("ascii") + b"\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(_D50)}
    for letter, colorant in zip(b"rgb", colorants, strict=True):
        tags[bytes([letter]) + b"XYZ"] = _xyz(colorant)
        tags[bytes([letter]) + b"TRC"] = _curve(curve)
    place = _HEADER + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for signature, tag in tags.items():
        table += struct.pack(">4sII", signature, place + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    return _header(_HEADER + len(table) + len(data)) + table + data


def _header(size: int) -> bytes:
    start = struct.pack(">I4xI4s4s4s", size, 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return (start + date + b"acsp" + bytes(28) + _numbers(_D50)).ljust(_HEADER, b"\0")


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(values)


def _numbers(values: Sequence[float]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 2**16) for value in values))


def _curve(curve: float | Sequence[float]) -> bytes:
    if isinstance(curve, (int, float)):
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256))
    values = [round(value * 65535) for value in curve]
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *values)
