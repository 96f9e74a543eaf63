"""Any picture file -> an upright 8-bit RGB image."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin

from vitlora.data import picture_file
from vitlora.data.archives import InMemory, Stored
from vitlora.data.bit_depth import (
    IN_FULL,
    ValueRange,
    eight_bits,
    is_deep,
    is_outside,
    sixteen_bits,
    stored_colour,
    whole_range,
)
from vitlora.data.colour import profile_of, to_srgb
from vitlora.data.picture_file import is_jpeg, open_picture, orientation
from vitlora.errors import DataError

Side = Literal["short", "long"]
File = str | os.PathLike[str] | InMemory
_DRAFTED = 4  # times as many pixels may a JPEG have that is decoded smaller
_GREY = ("1", "L", "LA", "La")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class MemoryShortError(DataError):
    """A picture that may be good, but that the memory does not hold."""


@dataclass(frozen=True)
class Opened:
    """A picture as a network may see it.

    Attributes:
        image: Upright, RGB, 8 bits; neither orientation nor colour profile is left to apply.
        outside: Whether the file is deeper than 8 bits and its values do not lie in the range that
            was given, or none was, or that Pillow cuts them: its brightness then means little.
    """

    image: Image.Image
    outside: bool


def open_image(
    path: File,
    at_least: int | None = None,
    value_range: ValueRange | None = None,
    srgb: bool = True,
    side: Side = "short",
) -> Image.Image:
    """Returns the picture as upright sRGB: orientation applied, first frame, 8 bits.

    Transparency is laid on white.

    Args:
        path: The picture file.
        at_least: Length of a side in pixels that is enough; a JPEG may then be decoded at 1/2, 1/4
            or 1/8 scale, several times faster, and a picture whose profile is turned into sRGB may
            be averaged to that. None keeps every pixel.
        value_range: The values that become 0 and 255 in files deeper than 8 bits. None takes all of
            16 bits for integers, and 0 to 1, or to the picture's largest value, for floats.
        srgb: Turn the colours that a profile describes into sRGB; else its values are kept as if
            they were sRGB.
        side: The side that ``at_least`` refers to.

    Raises:
        DataError: The file is missing, torn, too large, or no picture Pillow can read.
        MemoryShortError: There is too little memory for it.
    """
    return open_marked(path, at_least, value_range, srgb, side).image


def open_marked(
    path: File,
    at_least: int | None = None,
    value_range: ValueRange | None = None,
    srgb: bool = True,
    side: Side = "short",
    most_pixels: int | None = None,
) -> Opened:
    """Returns the picture as :func:`open_image` does, and whether its values fit the range.

    Args:
        path: The picture file.
        at_least: As for :func:`open_image`.
        value_range: As for :func:`open_image`.
        srgb: As for :func:`open_image`.
        side: As for :func:`open_image`.
        most_pixels: Pixels to decode at most; by default ``picture_file.MOST_PIXELS``.

    Raises:
        DataError: As :func:`open_image`.
        MemoryShortError: As :func:`open_image`.
    """
    with reading(path) as image:
        return decoded(path, image, at_least, value_range, srgb, side, most_pixels)


def decoded(
    path: File,
    image: ImageFile.ImageFile,
    at_least: int | None = None,
    value_range: ValueRange | None = None,
    srgb: bool = True,
    side: Side = "short",
    most_pixels: int | None = None,
) -> Opened:
    """Returns what ``open_marked`` does of a picture that ``reading`` has opened."""
    cut = stored_colour(image) not in {None, *IN_FULL}
    values = _load(path, image, at_least, side, most_pixels)
    opened = upright(image, values, value_range, srgb, at_least)
    return Opened(opened.image, cut or opened.outside) if values is None else opened


def upright(
    image: Image.Image,
    values: NDArray[Any] | None,
    value_range: ValueRange | None,
    srgb: bool = True,
    at_least: int | None = None,
) -> Opened:
    """Returns a decoded picture as upright 8-bit RGB; of a deep one its values count.

    A picture that needs no change is returned itself, without its metadata.
    """
    outside = False
    turn = _TURNS.get(orientation(image))
    profile = profile_of(image) if srgb else None
    plain = image
    if values is not None:
        outside = value_range is None or is_outside(values, value_range)
        plain = eight_bits(values, value_range or whole_range(values, image.mode), image)
    if turn is not None:
        plain = plain.transpose(turn)
    plain = _opaque(plain)
    if profile is not None:
        plain = to_srgb(plain, profile, at_least)
    elif plain.mode != "RGB":
        plain = plain.convert("RGB")
    plain.info = {}  # already applied; nobody must apply it again
    return Opened(plain, outside)


def deep_values(path: str | os.PathLike[str]) -> NDArray[Any] | None:
    """Returns the values of a picture deeper than 8 bits, ``(H, W)`` or ``(H, W, 3)``.

    Returns:
        None for a picture of 8 bits, of which only the header is read; of a JPEG not even that.

    Raises:
        DataError: As :func:`open_image`.
        MemoryShortError: As :func:`open_image`.
    """
    with suppress(OSError):
        if is_jpeg(Path(path)):
            return None
    with reading(path) as image:
        return _load(path, image) if is_deep(image) else None


@contextmanager
def reading(path: File) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture file; any error inside the block becomes one line that names the file.

    Raises:
        DataError: The file is missing, torn, too large, or no picture Pillow can read.
        MemoryShortError: There is too little memory for it.
    """
    size = ""
    try:
        with open_picture(_stored(path)) as image:
            size = f" of {image.width} x {image.height} pixels"
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: {picture_file.too_large()}") from None
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error … on damaged files
    except Exception as error:
        # the second is how Pillow's decoders say so
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise MemoryShortError(
                f"{path}: too little memory to open this picture{size}; close other programs, "
                "lower data.num_workers, or make the picture smaller"
            ) from None
        raise DataError(f"{path}: {picture_file.reason(_stored(path), error)}") from None


def _stored(path: File) -> Stored:
    return path if isinstance(path, InMemory) else Path(path)


def _load(
    path: File,
    image: ImageFile.ImageFile,
    at_least: int | None = None,
    side: Side = "short",
    most_pixels: int | None = None,
) -> NDArray[Any] | None:
    """Decodes a picture; returns its values if it is deeper than 8 bits."""
    colour = stored_colour(image)
    pixels = image.width * image.height
    if at_least is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
        # Pillow decodes no side to fewer pixels than it is asked for
        decides = min(image.size) if side == "short" else max(image.size)
        width, height = (max(at_least * each // decides, 1) for each in image.size)
        image.draft("RGB", (width, height))
        # a progressive JPEG is held whole, whatever the scale
        whole = pixels if image.info.get("progressive") else pixels // _DRAFTED
        pixels = max(image.width * image.height, whole)
    if pixels > min(most_pixels or picture_file.MOST_PIXELS, picture_file.MOST_PIXELS):
        raise DataError(f"{path}: {picture_file.too_large(most_pixels)}")
    if colour == "planes" and image.tile[0].codec_name == "raw":  # Pillow 13.0.0 garbles them
        raise DataError(
            f"{path}: an uncompressed TIFF that stores 16-bit colours one after the other is not "
            "read; save it with the colours of a pixel together"
        )
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if colour not in IN_FULL:
        return None
    with open_picture(_stored(path)) as again:
        return sixteen_bits(colour, image, again)


def _opaque(image: Image.Image) -> Image.Image:
    """Returns a picture on white if it is transparent; grey stays grey, inks stay inks."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        shown = Image.alpha_composite(white, layer)
        return shown.getchannel("R") if image.mode in _GREY else shown.convert("RGB")
    if image.mode in ("CMYK", "RGB", "L"):
        return image
    return image.convert("L" if image.mode in _GREY else "RGB")
