"""Pictures deeper than 8 bits: how they are stored, and how they become 8 bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

ValueRange = tuple[float, float]  # the values of a deep picture that become 0 and 255
_CLIPPED = 0.01  # of the pixels, beyond the range: a picture with more is outside it
_UNUSED = 16  # a picture in this part of the range is outside it too: 12 bits among 16, say
_MOST = 0.999  # of the pixels: where those are dark, a few hot ones do not make a picture bright
_NATIVE = "L" if np.little_endian else "B"
# 16-bit colours of PNG and TIFF that are read in full, as Pillow names how they are stored
IN_FULL = {f"{mode};16{order}" for mode in ("RGB", "RGBA", "RGBX") for order in "LBN"} | {"LA;16B"}


def is_outside(values: NDArray[Any], value_range: ValueRange) -> bool:
    """Returns whether a picture's values lie beyond the range, or in a small dark part of it.

    More than 1% of them must lie beyond it, or all but one in 1,000 in its lowest sixteenth: a few
    dead pixels change nothing.
    """
    low, high = value_range
    known = values[np.isfinite(values)]
    if not known.size:
        return False
    beyond = np.count_nonzero((known < low) | (known > high)) / known.size
    dark = np.count_nonzero(known <= low + (high - low) / _UNUSED) / known.size
    return bool(beyond > _CLIPPED or dark >= _MOST)


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Returns whether an opened picture is deeper than 8 bits, and read in full."""
    return image.mode.startswith("I") or image.mode == "F" or stored_colour(image) in IN_FULL


def stored_colour(image: ImageFile.ImageFile) -> str | None:
    """Returns how a PNG or TIFF that Pillow cuts to 8 bits is stored, in its words."""
    if image.format not in ("PNG", "TIFF") or image.mode[0] in "IF" or not image.tile:
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _in_planes(image):
        return "planes"
    args = image.tile[0].args
    rawmode = args[0] if isinstance(args, tuple) else args
    return rawmode if isinstance(rawmode, str) and ";16" in rawmode else None


def _in_planes(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Returns whether a TIFF stores each of its colours, deeper than 8 bits, by itself."""
    tags = image.tag_v2
    apart = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    return apart and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8


def sixteen_bits(
    colour: str, image: ImageFile.ImageFile, again: ImageFile.ImageFile
) -> NDArray[np.uint16]:
    """Returns the values of a picture that is read in full, ``(H, W)`` or ``(H, W, 3)``.

    Args:
        colour: One of ``IN_FULL``.
        image: The picture, decoded.
        again: The same file, opened once more and not yet decoded.
    """
    if colour == "LA;16B":
        # taken for four channels of 8 bits: both bytes of the grey, then both of the alpha
        _unpack_as(again, "RGBA")
        again.load()
        high, low = np.moveaxis(np.asarray(again, np.uint16)[..., :2], -1, 0)
    else:
        # Pillow keeps the high bytes of 16-bit colours; in the other byte order, the low ones
        _unpack_as(again, _swapped(colour))
        again.load()
        high, low = (np.asarray(one, np.uint16)[..., :3] for one in (image, again))
    return high * np.uint16(256) + low


def _swapped(rawmode: str) -> str:
    order = rawmode[-1] if rawmode[-1] != "N" else _NATIVE
    return rawmode[:-1] + ("B" if order == "L" else "L")


def _unpack_as(image: ImageFile.ImageFile, rawmode: str) -> None:
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]


def whole_range(values: NDArray[Any], mode: str) -> ValueRange:
    """Returns the range for a picture whose own range is not known."""
    top = float(np.nan_to_num(values, posinf=0, neginf=0).max(initial=0))
    if mode == "F":
        return 0.0, max(top, 1.0)
    return 0.0, 255.0 if mode == "I" and top <= 255 else 65535.0


def eight_bits(values: NDArray[Any], value_range: ValueRange, image: Image.Image) -> Image.Image:
    """Returns the picture with the range as 0 to 255; where it has no value it is black."""
    low, high = value_range
    shares = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=low, neginf=low) - low) / (
        high - low
    )
    scaled = Image.fromarray(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8))
    if image.mode == "RGBA":
        scaled.putalpha(image.getchannel("A"))
    return scaled
