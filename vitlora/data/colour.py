"""The colours that a picture's profile describes -> sRGB, which networks are trained on."""

from contextlib import suppress
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from vitlora.data.icc import adobe_rgb

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colours in Pillow's words
_SAME = 2  # of 255 levels: sRGB profiles of several makers differ by so much at most
_ADOBE = "R03"  # of EXIF 2.32, table 13: how cameras that embed no profile name Adobe RGB
_KEPT = 8  # profiles whose transforms are kept; a folder has few, each of up to some megabytes


def profile_of(image: Image.Image) -> bytes | None:
    """Returns the ICC profile of a picture; Adobe RGB's where only EXIF names it."""
    if (profile := image.info.get("icc_profile")) and isinstance(profile, bytes):
        return profile
    exif = image.info.get("exif")
    # first the bytes: reading EXIF takes longer than decoding a small JPEG
    named = isinstance(exif, bytes) and _ADOBE.encode() in exif and _names_adobe(image)
    return adobe_rgb() if named else None


def to_srgb(image: Image.Image, profile: bytes, at_least: int | None = None) -> Image.Image:
    """Returns a picture of mode RGB, L or CMYK as RGB, in sRGB.

    Its values stay as they are where the profile is sRGB's own, is broken, or describes colours of
    another kind than the picture has.

    Args:
        image: The picture, 8 bits, opaque.
        profile: The ICC profile of its values.
        at_least: Shortest side in pixels that is enough. A picture that needs to be turned is then
            averaged to 1/2, 1/4 or 1/8, as a JPEG is decoded: 12 megapixels take 0.3 s otherwise.
    """
    transform = _transform(profile)
    if transform is None:
        return image.convert("RGB")
    if image.mode == "L" and transform.input_mode == "RGB":
        image = image.convert("RGB")
    if image.mode != transform.input_mode:
        return image.convert("RGB")
    return transform.apply(image.reduce(_scale(min(image.size), at_least)))


def _scale(side: int, at_least: int | None) -> int:
    scales = (8, 4, 2) if at_least else ()
    return next((scale for scale in scales if side // scale >= (at_least or 0)), 1)


def _names_adobe(image: Image.Image) -> bool:
    with suppress(Exception):  # of a broken EXIF block, of many kinds
        return image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == _ADOBE
    return False


@lru_cache(_KEPT)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from a profile to sRGB; None if none is needed or possible."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES.get(getattr(source.profile, "xcolor_space", ""))
        if mode is None:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a broken one raises any of them
        return None
    return None if mode != "CMYK" and _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Returns whether a transform leaves all of 4,096 colours, or 256 greys, as they are."""
    if transform.input_mode == "L":
        values = np.arange(256).reshape(16, 16)
    else:
        values = np.indices((16, 16, 16)).T.reshape(64, 64, 3) * 17
    before = Image.fromarray(values.astype(np.uint8))
    after = np.asarray(transform.apply(before), np.int16)
    return int(np.abs(after - np.asarray(before.convert("RGB"), np.int16)).max()) <= _SAME
