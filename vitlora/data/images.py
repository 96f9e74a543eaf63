"""Any picture file -> an upright 8-bit RGB image."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin

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
from vitlora.errors import DataError

Side = Literal["short", "long"]
# Pixels decoded at most, as Pillow's own limit: 0.5 GB as RGB. A large JPEG is decoded smaller.
MOST_PIXELS = 178_956_970
_DRAFTED = 4  # times as many may a JPEG have that is decoded smaller
_JPEG = b"\xff\xd8\xff"
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
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
        image: Upright, RGB, 8 bits.
        outside: Whether the file is deeper than 8 bits and its values do not lie in the range that
            was given, or none was, or that Pillow cuts them: its brightness then means little.
    """

    image: Image.Image
    outside: bool


def open_image(
    path: str | os.PathLike[str],
    at_least: int | None = None,
    value_range: ValueRange | None = None,
    side: Side = "short",
) -> Image.Image:
    """Returns the picture as upright RGB: EXIF orientation applied, first frame, 8 bits.

    Transparency is laid on white.

    Args:
        path: The picture file.
        at_least: Length of a side in pixels that is enough; a JPEG may then be decoded at 1/2, 1/4
            or 1/8 scale, several times faster. None decodes every pixel.
        value_range: The values that become 0 and 255 in files deeper than 8 bits. None takes all of
            16 bits for integers, and 0 to 1, or to the picture's largest value, for floats.
        side: The side that ``at_least`` is about.

    Raises:
        DataError: The file is missing, torn, too large, or no picture Pillow can read.
        MemoryShortError: There is too little memory for it.
    """
    return open_marked(path, at_least, value_range, side).image


def open_marked(
    path: str | os.PathLike[str],
    at_least: int | None = None,
    value_range: ValueRange | None = None,
    side: Side = "short",
) -> Opened:
    """Returns the picture as :func:`open_image` does, and whether its values fit the range.

    Raises:
        DataError: As :func:`open_image`.
        MemoryShortError: As :func:`open_image`.
    """
    with reading(path) as image:
        cut = stored_colour(image) not in {None, *IN_FULL}
        values = _load(path, image, at_least, side)
        opened = upright(image, values, value_range)
        return Opened(opened.image, cut or opened.outside) if values is None else opened


def upright(
    image: Image.Image, values: NDArray[Any] | None, value_range: ValueRange | None
) -> Opened:
    """Returns a decoded picture as upright 8-bit RGB; of a deep one its values count."""
    outside = False
    turn = _TURNS.get(orientation(image))
    plain = image
    if values is not None:
        outside = value_range is None or is_outside(values, value_range)
        plain = eight_bits(values, value_range or whole_range(values, image.mode), image)
    if turn is not None:
        plain = plain.transpose(turn)
    return Opened(_to_rgb(plain), outside)


def deep_values(path: str | os.PathLike[str]) -> NDArray[Any] | None:
    """Returns the values of a picture deeper than 8 bits, ``(H, W)`` or ``(H, W, 3)``.

    Returns:
        None for a picture of 8 bits, of which only the header is read; of a JPEG not even that.

    Raises:
        DataError: As :func:`open_image`.
        MemoryShortError: As :func:`open_image`.
    """
    with suppress(OSError):
        if _start(path).startswith(_JPEG):
            return None
    with reading(path) as image:
        return _load(path, image) if is_deep(image) else None


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture file; what goes wrong with it inside becomes one line.

    Raises:
        DataError: The file is missing, torn, too large, or no picture Pillow can read.
        MemoryShortError: There is too little memory for it.
    """
    size = ""
    try:
        with _file(path) as image:
            size = f" of {image.width} x {image.height} pixels"
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: {_too_large()}") from None
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error … on damaged files
    except Exception as error:
        # the second is how Pillow's decoders say so
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise MemoryShortError(
                f"{path}: too little memory to open this picture{size}; close other programs, "
                "lower data.num_workers, or make the picture smaller"
            ) from None
        raise DataError(f"{path}: {_reason(Path(path), error)}") from None


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation still to apply, 1 to 8; 1 where the EXIF block is broken.

    The tag alone is read: of a good picture another tag may be malformed, which Pillow's
    ``exif_transpose`` stumbles over as it writes all of them anew.
    """
    with suppress(Exception):
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _TURNS else 1
    return 1


def _file(path: str | os.PathLike[str]) -> ImageFile.ImageFile:
    """Opens a file, its pixels not yet decoded."""
    start = _start(path)
    if start.startswith(_JPEG):
        # past Pillow's limit on the nominal size: what counts is how large it is decoded
        return JpegImagePlugin.JpegImageFile(path)
    if start[4:8] == b"ftyp" and find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

        register_heif_opener()
    image = Image.open(path)
    if image.format == "TIFF":
        # Pillow 13.0.0 maps an uncompressed TIFF of one strip into memory if it knows its name, and
        # one that EXIF turns by a quarter by the wrong width; drop once it no longer does
        image.filename = ""
    return image


def _start(path: str | os.PathLike[str]) -> bytes:
    """Returns the first bytes of a file, which tell most kinds apart."""
    if Path(path).is_fifo():  # it would keep its reader waiting
        raise DataError(f"{path}: a named pipe, not a picture file")
    with Path(path).open("rb") as file:
        return file.read(12)


def _load(
    path: str | os.PathLike[str],
    image: ImageFile.ImageFile,
    at_least: int | None = None,
    side: Side = "short",
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
    if pixels > MOST_PIXELS:
        raise DataError(f"{path}: {_too_large()}")
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
    with _file(path) as again:
        return sixteen_bits(colour, image, again)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return image.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _too_large() -> str:
    return (
        f"too large to open safely: more than {MOST_PIXELS // 10**6} million pixels to decode at "
        "once; make it smaller"
    )


def _reason(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder, not a picture"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if path.stat().st_size == 0:
        return "the file is empty"
    start = _start(path)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC and not find_spec("pillow_heif"):
        return "HEIC photos need the package pillow-heif; install it, or export them as JPEG"
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL is not read; export it as JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, whatever its name says"
    return f"damaged picture ({str(error) or type(error).__name__})"
