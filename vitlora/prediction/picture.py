"""A picture with its prediction drawn under it."""

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vitlora.data.bit_depth import ValueRange
from vitlora.data.images import open_image

_SIDE = 480  # pixels of the picture's longer side
_ROW = 34  # pixels of one class
# Pillow searches the font folders of Windows, macOS and Linux
_FONTS = ("arial.ttf", "Arial.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf")


def captioned(
    path: Path, top: Sequence[tuple[str, float]], value_range: ValueRange | None = None
) -> Image.Image:
    """Returns the picture above one bar for each class.

    Args:
        path: The picture file.
        top: Classes and confidences in ``[0, 1]``, most confident first.
        value_range: The values that become 0 and 255 in files deeper than 8 bits.
    """
    image = open_image(path, _SIDE, value_range)
    scale = _SIDE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    width = _SIDE
    canvas = Image.new("RGB", (width, image.height + _ROW * len(top) + 16), "white")
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    font, every_letter = _font(18)
    for index, (name, confidence) in enumerate(top):
        y = image.height + 8 + index * _ROW
        colour = "#1f7a4d" if index == 0 else "#b9c4bf"
        draw.rectangle((12, y + 24, 12 + (width - 24) * confidence, y + 30), fill=colour)
        draw.text((12, y), name if every_letter else _ascii(name), fill="black", font=font)
        draw.text((width - 12, y), f"{confidence:.2%}", fill="black", font=font, anchor="ra")
    return canvas


def _font(size: int) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, bool]:
    """Returns a font, and whether it has letters beyond ASCII; Pillow's own has none."""
    for name in _FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size), True
    return ImageFont.load_default(size), False


def _ascii(name: str) -> str:
    """Returns the name without accents; '?' replaces letters that are not ASCII even then."""
    decomposed = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode("ascii")
