"""A picture that is in memory, as a network may see it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.data.bit_depth import ValueRange
from vitlora.data.images import Opened, upright
from vitlora.errors import DataError


def seen_as(
    picture: Image.Image | NDArray[Any],
    value_range: ValueRange | None = None,
    srgb: bool = True,
) -> Opened:
    """Returns a picture that is in memory as :func:`images.open_marked` returns a file.

    Args:
        picture: One that Pillow opened; or an array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` of
            uint8 in ``[0, 255]``, of floats in ``[0, 1]``, or of deeper values.
        value_range: As for :func:`images.open_image`.
        srgb: As for :func:`images.open_image`; arrays have no profile.

    Raises:
        DataError: It is not a picture.
    """
    if isinstance(picture, Image.Image):
        deep = picture.mode.startswith("I") or picture.mode == "F"
        values = np.asarray(picture) if deep else None
        return upright(picture.copy(), values, value_range, srgb)
    if hasattr(picture, "read"):
        raise DataError("an open file is not a picture; pass its path, or the bytes of .read()")
    if not isinstance(picture, np.ndarray):
        raise DataError(
            f"{type(picture).__name__} is not a picture; expected a path, bytes, an array, or a "
            "picture that Pillow opened"
        )
    shape, kind = picture.shape, picture.dtype.kind
    if kind == "f" and picture.size and not np.isfinite(picture).any():
        raise DataError(f"an array of shape {shape} without a finite value is not a picture")
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,), (4,)) or not picture.size:
        raise DataError(f"an array of shape {shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    if kind not in "iuf":
        raise DataError(f"an array of {picture.dtype}; expected uint8, or numbers of more bits")
    if kind == "f" and value_range is None and 0 <= picture.min() <= picture.max() <= 1:
        picture = np.rint(picture * 255).astype(np.uint8)
    if picture.dtype == np.uint8:
        return upright(Image.fromarray(picture), None, None)
    blank = Image.new("F" if kind == "f" else "I", (shape[1], shape[0]))
    return upright(blank, picture[..., :3] if len(shape) == 3 else picture, value_range)
