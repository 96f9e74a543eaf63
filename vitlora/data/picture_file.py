"""A picture file of any kind -> Pillow's image, its pixels not yet decoded."""

import io
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin

from vitlora.data.archives import Stored, open_file, size_and_time
from vitlora.data.jpeg_xl import BARE, BOXED, read_header
from vitlora.errors import DataError

# Pixels decoded at most, as Pillow's own limit: 0.5 GB as RGB. A large JPEG is decoded smaller.
MOST_PIXELS = 178_956_970
JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PNG_DEPTH = 24  # place of the byte that says how many bits a PNG has for each colour
# of ISO/IEC 23008-12; in mif1 and msf1, AVIF may be as well
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_ORIENTATIONS = range(1, 9)  # of EXIF


def open_picture(path: Stored) -> ImageFile.ImageFile:
    """Opens a picture file, its first picture where it holds several.

    Raises:
        DataError: It is a pipe, or of a kind that needs a package which is missing, or JPEG XL that
            is animated or too large.
        Exception: Whatever Pillow's plugins raise on damaged files.
    """
    start = _start(path)
    source = (
        path
        if isinstance(path, Path) and os.path.exists(path)  # noqa: PTH110 - in an archive, names may be long
        else open_file(path)
    )
    if start.startswith(JPEG):
        # past Pillow's limit on the nominal size: what counts is how large it is decoded
        return JpegImagePlugin.JpegImageFile(source)
    if start.startswith((BARE, BOXED)):
        _prepare_jpeg_xl(path)
    elif _is_heic(start) and find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    image = Image.open(source)
    if image.format == "TIFF":
        # Pillow 13.0.0 maps an uncompressed TIFF of one strip into memory if it knows its name, and
        # one that EXIF turns by a quarter by the wrong width; drop once it no longer does
        image.filename = ""
    return image


def is_jpeg(path: Path) -> bool:
    """Returns whether a file begins as a JPEG does."""
    return _start(path).startswith(JPEG)


def looks_whole(path: Path) -> bool:
    """Returns whether a file begins and ends as a JPEG does, or as a PNG of 8 bits or fewer.

    That shows a file that was cut off, is empty or holds something else, without decoding it; not
    damage in the middle. False says nothing: other formats, and padding after the end, give it too.
    """
    try:
        if path.is_fifo():  # it would keep its reader waiting
            return False
        with _unbuffered(path) as file:
            start = file.read(_PNG_DEPTH + 1)
            file.seek(max(len(start), file.seek(0, os.SEEK_END) - len(_PNG_END)))
            end = file.read()
    except (OSError, DataError):
        return False
    if start.startswith(PNG):
        return end == _PNG_END and start[_PNG_DEPTH] <= 8
    return start.startswith(JPEG) and end.endswith(_JPEG_END)


def _unbuffered(path: Path) -> io.FileIO | io.BufferedReader | io.BytesIO:
    """Opens a file, also one inside an archive, so that no more of it is read than asked for."""
    try:
        return io.FileIO(path)
    except OSError:
        return open_file(path)


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation still to apply, 1 to 8; 1 where the EXIF block is broken.

    The tag alone is read: of a good picture another tag may be malformed, which Pillow's
    ``exif_transpose`` stumbles over as it writes all of them anew. TIFF and HEIC pictures, once
    they are decoded, have none left. JPEG XL has an orientation of its own, which its decoder
    applies; EXIF's counts only where the file is a repacked JPEG.
    """
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1
    with suppress(Exception):
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _ORIENTATIONS else 1
    return 1


def reason(path: Stored, error: Exception) -> str:
    """Returns why a file cannot be opened, in words."""
    if isinstance(path, Path) and path.is_dir():
        return "is a folder, not a picture"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if size_and_time(path)[0] == 0:
        return "the file is empty"
    start = _start(path)
    if _is_heic(start) and not find_spec("pillow_heif"):
        return "HEIC photos need the package pillow-heif; install it, or export them as JPEG"
    if _is_heic(start):  # the plugins do not say what is wrong with these
        return "damaged HEIC photo"
    if start.startswith((BARE, BOXED)):
        return "damaged JPEG XL picture"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, whatever its name says"
    said = next(iter(str(error).splitlines()), type(error).__name__)
    return f"damaged picture ({said})"


def too_large(most: int | None = None) -> str:
    """Returns in words that a picture has more than ``most`` pixels, by default ``MOST_PIXELS``."""
    return (
        f"too large to open safely: more than {(most or MOST_PIXELS) // 10**6} million pixels to "
        "decode at once; make it smaller"
    )


def _is_heic(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in HEIC


def _prepare_jpeg_xl(path: Stored) -> None:
    """Teaches Pillow JPEG XL, and refuses a picture that the plugin would read wrongly.

    It decodes all of it on opening, and of an animation gives the last frame (1.3.8).
    """
    if not find_spec("pillow_jxl"):
        raise DataError(
            f"{path}: JPEG XL needs the package pillow-jxl-plugin; install it, or export as JPEG"
        )
    import pillow_jxl  # noqa: F401  # pyright: ignore[reportMissingImports]

    header = read_header(path)
    if header.width * header.height > MOST_PIXELS:
        raise DataError(f"{path}: {too_large()}")
    if header.animated:
        raise DataError(f"{path}: an animated JPEG XL is not read; export its first frame as JPEG")


def _start(path: Stored) -> bytes:
    """Returns the first bytes of a file, which tell most kinds apart."""
    if isinstance(path, Path) and path.is_fifo():  # it would keep its reader waiting
        raise DataError(f"{path}: a named pipe, not a picture file")
    with open_file(path) as file:
        return file.read(12)
