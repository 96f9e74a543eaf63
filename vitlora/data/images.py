"""Any picture file -> an upright 8-bit RGB image."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vitlora.errors import DataError

# Files with these endings are taken for pictures; all others in a class folder are left alone.
# HEIC and AVIF are here so that a phone's photos are reported, never silently passed over.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .heic .heif .avif"
SUFFIXES = frozenset(_SUFFIXES.split())


def open_image(path: str | os.PathLike[str], at_least: int | None = None) -> Image.Image:
    """Returns the picture as upright RGB: EXIF orientation applied, first frame, 8 bits.

    Transparency is laid on white; 16-bit grey is scaled, not clipped.

    Args:
        path: The picture file.
        at_least: Shortest side in pixels that is enough; a JPEG may then be decoded at 1/2, 1/4
            or 1/8 scale, several times faster. None decodes every pixel.

    Raises:
        DataError: The file is missing, torn, or no picture Pillow can read.
    """
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large to open safely ({error})") from None
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error … on damaged files
    except Exception as error:
        raise DataError(f"{path}: {_reason(Path(path), error)}") from None


def is_image_file(path: Path) -> bool:
    """Returns whether the name is that of a picture (hidden files are not)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image).convert("RGB")
    if image.mode == "CMYK":
        return image.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Scales grey of more than 8 bits to 8: 16-bit integers by their range, floats from [0, 1]."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    if image.mode == "F":
        scale = 255.0 if values.max(initial=0) <= 1 else 255.0 / values.max()
    else:
        scale = 255 / 65535 if values.max(initial=0) > 255 or image.mode != "I" else 1.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


def _reason(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder, not a picture"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if path.stat().st_size == 0:
        return "the file is empty"
    if path.suffix.lower() in (".heic", ".heif"):
        return "HEIC photos are not supported; export them as JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, whatever its name says"
    return f"damaged picture ({str(error) or type(error).__name__})"
